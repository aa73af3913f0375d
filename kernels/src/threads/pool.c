/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SPIN_NANOSECONDS = 60000, SPINS_PER_LOOK = 32 };

typedef struct {
  agq_pool *pool;
  pthread_t handle;
  int index;
} agq_worker;

/* `state` is (number of the loop << 32) | chunks not yet claimed. The fields that describe the loop change only while
 * no chunk is left, so a worker that claims a chunk by compare-and-exchange knows that what it read belongs to this
 * loop. */
struct agq_pool {
  int threads;
  agq_worker *workers;
  _Atomic(agq_task_fn) fn;
  _Atomic(void *) arg;
  atomic_int items, chunk, chunks;
  atomic_int stop;
  _Alignas(64) _Atomic uint64_t state;
  _Alignas(64) atomic_int done; /* chunks finished */
  _Alignas(64) atomic_int sleepers, caller_sleeps;
  pthread_mutex_t mutex;
  pthread_cond_t work, finished;
};

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb" ::: "memory"); /* `yield` does nothing on most cores */
#endif
}

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Claims and runs one chunk; 0 if none is left. *seen gets the state that was found. */
static int run_one(agq_pool *p, int thread, uint64_t *seen) {
  uint64_t s = atomic_load_explicit(&p->state, memory_order_acquire);
  while ((uint32_t)s != 0) {
    agq_task_fn fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
    void *arg = atomic_load_explicit(&p->arg, memory_order_relaxed);
    int items = atomic_load_explicit(&p->items, memory_order_relaxed);
    int chunk = atomic_load_explicit(&p->chunk, memory_order_relaxed);
    int chunks = atomic_load_explicit(&p->chunks, memory_order_relaxed);
    if (!atomic_compare_exchange_weak_explicit(&p->state, &s, s - 1, memory_order_acq_rel, memory_order_acquire))
      continue;
    int index = chunks - (int)(uint32_t)s, begin = index * chunk, end = items - begin > chunk ? begin + chunk : items;
    fn(arg, thread, begin, end);
    int finished = atomic_fetch_add(&p->done, 1) + 1;
    if (finished == chunks && thread != 0 && atomic_load(&p->caller_sleeps)) {
      pthread_mutex_lock(&p->mutex);
      pthread_cond_signal(&p->finished);
      pthread_mutex_unlock(&p->mutex);
    }
    return 1;
  }
  *seen = s;
  return 0;
}

/* Spins until the state differs from `seen`; 0 if it did not within the time. */
static int spin_for_work(agq_pool *p, uint64_t seen) {
  int64_t until = 0;
  for (;;) {
    for (int i = 0; i < SPINS_PER_LOOK; i++) {
      if (atomic_load_explicit(&p->state, memory_order_relaxed) != seen) return 1;
      relax();
    }
    int64_t t = now_ns();
    if (until == 0) until = t + SPIN_NANOSECONDS;
    if (t > until) return 0;
  }
}

static void *worker_main(void *arg) {
  agq_worker *w = arg;
  agq_pool *p = w->pool;
  uint64_t seen = 0;
  while (!atomic_load(&p->stop)) {
    if (run_one(p, w->index, &seen) || spin_for_work(p, seen)) continue;
    pthread_mutex_lock(&p->mutex);
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->state) == seen && !atomic_load(&p->stop)) pthread_cond_wait(&p->work, &p->mutex);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->mutex);
  }
  return NULL;
}

static void stop_workers(agq_pool *p, int started) {
  pthread_mutex_lock(&p->mutex);
  atomic_store(&p->stop, 1);
  /* a new state ends the spinning */
  atomic_fetch_add(&p->state, (uint64_t)1 << 32);
  pthread_cond_broadcast(&p->work);
  pthread_mutex_unlock(&p->mutex);
  for (int i = 0; i < started; i++) pthread_join(p->workers[i].handle, NULL);
}

static void release(agq_pool *p) {
  pthread_cond_destroy(&p->finished);
  pthread_cond_destroy(&p->work);
  pthread_mutex_destroy(&p->mutex);
  free(p->workers);
  free(p);
}

agq_pool *agq_pool_create(int threads) {
  if (threads < 1) return NULL;
  void *memory = NULL;
  if (posix_memalign(&memory, 64, sizeof(agq_pool)) != 0) return NULL;
  agq_pool *p = memory;
  memset(p, 0, sizeof *p);
  p->threads = threads;
  p->workers = calloc((size_t)threads, sizeof *p->workers);
  if (p->workers == NULL) {
    free(p);
    return NULL;
  }
  pthread_mutex_init(&p->mutex, NULL);
  pthread_cond_init(&p->work, NULL);
  pthread_cond_init(&p->finished, NULL);
  /* Signals (Ctrl-C) are the business of the caller's threads. */
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int started = 0;
  while (started < threads - 1) {
    agq_worker *w = &p->workers[started];
    w->pool = p;
    w->index = started + 1;
    if (pthread_create(&w->handle, NULL, worker_main, w) != 0) break;
    started++;
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (started < threads - 1) {
    stop_workers(p, started);
    release(p);
    return NULL;
  }
  return p;
}

void agq_pool_destroy(agq_pool *p) {
  if (p == NULL) return;
  stop_workers(p, p->threads - 1);
  release(p);
}

int agq_pool_threads(const agq_pool *p) { return p->threads; }

static void wait_finished(agq_pool *p, int chunks) {
  int64_t until = 0;
  while (atomic_load_explicit(&p->done, memory_order_acquire) != chunks) {
    for (int i = 0; i < SPINS_PER_LOOK; i++) {
      if (atomic_load_explicit(&p->done, memory_order_acquire) == chunks) return;
      relax();
    }
    int64_t t = now_ns();
    if (until == 0) until = t + SPIN_NANOSECONDS;
    if (t <= until) continue;
    pthread_mutex_lock(&p->mutex);
    atomic_store(&p->caller_sleeps, 1);
    while (atomic_load(&p->done) != chunks) pthread_cond_wait(&p->finished, &p->mutex);
    atomic_store(&p->caller_sleeps, 0);
    pthread_mutex_unlock(&p->mutex);
  }
}

void agq_pool_run(agq_pool *p, agq_task_fn fn, void *arg, int items, int chunk) {
  if (items <= 0) return;
  if (chunk < 1) chunk = 1;
  int chunks = items / chunk + (items % chunk != 0);
  if (p->threads == 1 || chunks == 1) {
    for (int i = 0; i < chunks; i++) {
      int begin = i * chunk;
      fn(arg, 0, begin, items - begin > chunk ? begin + chunk : items);
    }
    return;
  }
  atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
  atomic_store_explicit(&p->arg, arg, memory_order_relaxed);
  atomic_store_explicit(&p->items, items, memory_order_relaxed);
  atomic_store_explicit(&p->chunk, chunk, memory_order_relaxed);
  atomic_store_explicit(&p->chunks, chunks, memory_order_relaxed);
  atomic_store_explicit(&p->done, 0, memory_order_relaxed);
  uint64_t loop = (atomic_load_explicit(&p->state, memory_order_relaxed) >> 32) + 1;
  atomic_store(&p->state, loop << 32 | (uint32_t)chunks);
  if (atomic_load(&p->sleepers) > 0) {
    pthread_mutex_lock(&p->mutex);
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->mutex);
  }
  uint64_t seen;
  while (run_one(p, 0, &seen)) {}
  wait_finished(p, chunks);
}
