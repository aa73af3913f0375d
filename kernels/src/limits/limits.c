/* limits.c: the two limits of this machine that the speed of a model is held against: how many bytes a second it reads,
 * and how many products of 8-bit integers a second the instructions of this level can make.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agq.h"
#include "isa/features.h"
#include "threads/pool.h"

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* --- reading */

enum { LINE = 64, LINES = 1024 }; /* an item: 64 KiB */

typedef struct {
  const uint64_t *data;
  uint64_t *sums; /* [threads * 8]: so that nothing read is thrown away */
} read_job;

static void fill_task(void *arg, int thread, int begin, int end) {
  const read_job *j = arg;
  (void)thread;
  memset((char *)j->data + (size_t)begin * LINES * LINE, 1, (size_t)(end - begin) * LINES * LINE);
}

static void read_task(void *arg, int thread, int begin, int end) {
  const read_job *j = arg;
  const size_t words = (size_t)LINES * LINE / sizeof(uint64_t);
  uint64_t s[32] = {0};
  const uint64_t *p = j->data + (size_t)begin * words, *last = j->data + (size_t)end * words;
  for (; p < last; p += 32)
    for (int i = 0; i < 32; i++) s[i] |= p[i];
  for (int i = 0; i < 32; i++) j->sums[thread * 8] |= s[i];
}

double agq_measure_bandwidth(int threads, size_t bytes, double seconds) {
  const size_t item = (size_t)LINES * LINE;
  if (threads < 1 || seconds <= 0 || bytes > (size_t)1 << 40) return 0;
  const int items = bytes < item ? 1 : (int)(bytes / item);
  int chunk = items / (threads * 8);
  if (chunk < 1) chunk = 1;
  void *data = NULL;
  read_job j = {0};
  agq_pool *pool = agq_pool_create(threads);
  double best = 0;
  j.sums = calloc((size_t)threads * 8, sizeof *j.sums);
  if (pool && j.sums && !posix_memalign(&data, 4096, (size_t)items * item)) {
    j.data = data;
    agq_pool_run(pool, fill_task, &j, items, chunk);
    for (double begin = now(), start = begin, end; start - begin < seconds || best == 0; start = end) {
      agq_pool_run(pool, read_task, &j, items, chunk);
      end = now();
      const double rate = (double)items * (double)item / (end - start);
      if (rate > best) best = rate;
    }
  }
  free(data);
  free(j.sums);
  if (pool) agq_pool_destroy(pool);
  return best;
}

/* --- multiplying: independent accumulators, operands in registers */

#define REPEAT(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)
#if defined(AGQ_HAS_X86)
#if AGQ_VECTOR_BYTES == 64
#define NAME "vpdpbusd zmm"
#define MACS 64
#define ONE(i) "vpdpbusd %%zmm14,%%zmm15,%%zmm" #i "\n"
#elif defined(AGQ_HAS_DPBUSD)
#define NAME "vpdpbusd ymm"
#define MACS 32
#define ONE(i) "%{vex%} vpdpbusd %%ymm14,%%ymm15,%%ymm" #i "\n"
#elif AGQ_VECTOR_BYTES == 32
#define NAME "vpmaddubsw + vpaddw ymm"
#define MACS 32
#define ONE(i) "vpmaddubsw %%ymm14,%%ymm15,%%ymm12\nvpaddw %%ymm12,%%ymm" #i ",%%ymm" #i "\n"
#else
#define NAME "pmaddubsw + paddw xmm"
#define MACS 16
#define ONE(i) "movdqa %%xmm14,%%xmm12\npmaddubsw %%xmm15,%%xmm12\npaddw %%xmm12,%%xmm" #i "\n"
#endif
#define CLOBBERS \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm12", "xmm14", "xmm15"
#elif defined(AGQ_HAS_NEON)
#if defined(AGQ_HAS_SMMLA)
#define NAME "smmla"
#define MACS 32
#define ONE(i) "smmla v" #i ".4s, v30.16b, v31.16b\n"
#elif defined(AGQ_HAS_SDOT)
#define NAME "sdot"
#define MACS 16
#define ONE(i) "sdot v" #i ".4s, v30.16b, v31.16b\n"
#else
#define NAME "smlal"
#define MACS 8
#define ONE(i) "smlal v" #i ".8h, v30.8b, v31.8b\n"
#endif
#define CLOBBERS "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v30", "v31"
#endif

enum { STEPS = 2000, PER_THREAD = 16 };

#if defined(NAME)
#define PRODUCTS (10.0 * MACS)
static void multiply_task(void *arg, int thread, int begin, int end) {
  (void)arg, (void)thread;
  for (int i = begin; i < end; i++)
    for (int n = 0; n < STEPS; n++) __asm__ volatile(REPEAT(ONE)::: CLOBBERS);
#if defined(AGQ_HAS_X86) && AGQ_VECTOR_BYTES > 16
  __asm__ volatile("vzeroupper"); /* the compiler does not know that the upper halves were written */
#endif
}
#else
#define NAME "integer multiply and add"
#define PRODUCTS 8.0
static void multiply_task(void *arg, int thread, int begin, int end) {
  (void)arg, (void)thread;
  int32_t s[8] = {1, 2, 3, 4, 5, 6, 7, 8}, x = 3, y = 5;
  for (int i = begin; i < end; i++)
    for (int n = 0; n < STEPS; n++)
      for (int k = 0; k < 8; k++) {
        __asm__ volatile("" : "+r"(x), "+r"(y)); /* a product of its own each time */
        s[k] += x * y;
        __asm__ volatile("" : "+r"(s[k]));
      }
}
#endif

const char *agq_peak_name(void) { return NAME; }

double agq_measure_peak(int threads, double seconds) {
  if (threads < 1 || seconds <= 0) return 0;
  agq_pool *pool = agq_pool_create(threads);
  if (!pool) return 0;
  const int items = threads * PER_THREAD;
  double best = 0;
  for (double begin = now(), start = begin, end; start - begin < seconds || best == 0; start = end) {
    agq_pool_run(pool, multiply_task, NULL, items, 1);
    end = now();
    const double rate = PRODUCTS * STEPS * items / (end - start);
    if (rate > best) best = rate;
  }
  agq_pool_destroy(pool);
  return best;
}
