/* The thread pool: every item once, threads with numbers of their own, workers that wait without using the processor.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <stdatomic.h>
#include <time.h>

#include "test.h"
#include "threads/pool.h"

typedef struct {
  atomic_int *seen;
  atomic_int busy[8];
  long sum[8];
  int chunk, wrong;
} loop;

static void loop_task(void *arg, int thread, int begin, int end) {
  loop *l = arg;
  if (thread < 0 || thread >= 8 || begin >= end || end - begin > l->chunk || atomic_fetch_add(&l->busy[thread], 1))
    l->wrong = 1;
  for (int i = begin; i < end; i++) {
    atomic_fetch_add_explicit(&l->seen[i], 1, memory_order_relaxed);
    l->sum[thread] += i;
  }
  atomic_fetch_sub(&l->busy[thread], 1);
}

/* Threads that wait for each other inside their chunks. */
enum { MEETINGS = 20000 };
typedef struct {
  int threads;
  double deadline;
  atomic_int arrived, seen[MEETINGS], finished[MEETINGS];
  int by[MEETINGS];
} meeting;

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* As many chunks as there are threads go on together. Then workers are slower than the caller. */
static void meeting_task(void *arg, int thread, int begin, int end) {
  meeting *m = arg;
  (void)end;
  m->by[begin] = thread;
  atomic_fetch_add(&m->seen[begin], 1);
  const int until = (atomic_fetch_add(&m->arrived, 1) / m->threads + 1) * m->threads;
  while (atomic_load(&m->arrived) < until && seconds() < m->deadline) {}
  if (thread && m->threads > 2) nanosleep(&(struct timespec){0, 20000000}, NULL);
  atomic_store(&m->finished[begin], 1);
}

static void meetings(void) {
  static meeting m;
  for (int threads = 2; threads <= 4; threads++) {
    agq_pool *p = agq_pool_create(threads);
    const int items = threads == 2 ? MEETINGS : threads; /* two: race for chunk after chunk */
    memset(&m, 0, sizeof m);
    m.threads = threads, m.deadline = seconds() + (threads == 2 ? 0.5 : 10);
    agq_pool_run(p, meeting_task, &m, items, 1);
    int once = 1, done = 1, numbers = 0;
    for (int i = 0; i < items; i++)
      once &= atomic_load(&m.seen[i]) == 1, done &= atomic_load(&m.finished[i]), numbers |= 1 << m.by[i];
    test_expect(once, "no chunk twice, none left out");
    test_expect(done, "all chunks are done when the loop ends");
    if (threads > 2) test_expect(numbers == (1 << threads) - 1, "threads that run at once have numbers of their own");
    agq_pool_destroy(p);
  }
}

static void pool(void) {
  enum { MOST = 500 };
  static atomic_int seen[MOST];
  for (int threads = 1; threads <= 6; threads++) {
    agq_pool *p = agq_pool_create(threads), *other = agq_pool_create(2);
    if (!test_expect(p && other && agq_pool_threads(p) == threads, "pool")) continue;
    int right = 1;
    for (int round = 0; round < 400; round++) {
      const int items = random_int(0, MOST);
      loop l = {.seen = seen, .chunk = random_int(1, 20)};
      for (int i = 0; i < MOST; i++) atomic_store_explicit(&seen[i], 0, memory_order_relaxed);
      agq_pool_run(round % 7 ? p : other, loop_task, &l, items, l.chunk);
      long sum = 0;
      for (int t = 0; t < 8; t++) sum += l.sum[t];
      for (int i = 0; i < MOST; i++) right &= atomic_load_explicit(&seen[i], memory_order_relaxed) == (i < items);
      right &= !l.wrong && sum == (long)items * (items - 1) / 2;
      if (round % 100 == 50) nanosleep(&(struct timespec){0, 300000}, NULL); /* long enough for the workers to sleep */
    }
    test_expect(right, "every item once, one call at a time per thread, all done at the end");
    agq_pool_destroy(other);
    agq_pool_destroy(p);
  }
  /* Sleeping workers use no CPU. */
  agq_pool *p = agq_pool_create(4);
  loop l = {.seen = seen, .chunk = 1};
  agq_pool_run(p, loop_task, &l, 100, 1);
  nanosleep(&(struct timespec){0, 20000000}, NULL);
  struct timespec a, b;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
  nanosleep(&(struct timespec){0, 100000000}, NULL);
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
  const double used = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
  printf("  an idle pool used %.3f ms of CPU in 100 ms\n", 1e3 * used);
  agq_pool_destroy(p);
  agq_pool_destroy(NULL);
  test_expect(agq_pool_create(0) == NULL, "no pool of 0 threads");
}

int main(void) {
  if (!test_begin()) return 0;
  meetings();
  pool();
  return test_end("pool");
}
