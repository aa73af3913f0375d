/* What happens where memory or threads cannot be had: every allocation of a call fails once, and the call says so.
 *
 * Linked with --wrap (Makefile): calls of these functions in the library come here.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <pthread.h>

#include "model.h"

static int left = -1; /* calls that still succeed; -1: all of them */
static int failed;    /* one was refused */

static int refused(void) {
  if (left < 0) return 0;
  if (left-- > 0) return 0;
  errno = ENOMEM; /* in a static program the C library's own calls come here too */
  return failed = 1;
}

void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
int __real_posix_memalign(void **p, size_t alignment, size_t bytes);
int __real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
  return refused() ? NULL : __real_aligned_alloc(alignment, bytes);
}
void *__wrap_calloc(size_t count, size_t bytes) { return refused() ? NULL : __real_calloc(count, bytes); }
int __wrap_posix_memalign(void **p, size_t alignment, size_t bytes) {
  return refused() ? ENOMEM : __real_posix_memalign(p, alignment, bytes);
}
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg) {
  return refused() ? EAGAIN : __real_pthread_create(t, a, fn, arg);
}

/* Lets the n-th allocation from now on fail; then none. */
static void fail_at(int n) { left = n, failed = 0; }
/* Ends it. 1: there was an n-th allocation. */
static int did_fail(void) {
  left = -1;
  return failed;
}

enum { M = 3, K = 96, N = 40, MOST = 50 };

static void products(void) {
  const test_shape shape = {.group = 32};
  test_model *t = calloc(1, sizeof *t);
  t->s = shape;
  agq_linear l;
  dense d;
  random_linear(t, &l, &d, N, K, AGQ_U4, 8);
  float x[M * K], y[M * N], scales[M];
  int8_t codes[M * K];
  for (int i = 0; i < M * K; i++) x[i] = random_float();
  int calls = 0;
  for (;; calls++) {
    fail_at(calls);
    const int status = agq_linear_forward(&l, x, M, y, 3, 0);
    if (!did_fail()) {
      test_expect(status == AGQ_OK, "a product with memory enough");
      break;
    }
    if (!test_expect(status == AGQ_ERR_MEMORY && calls < MOST, "a product without memory")) break;
  }
  test_expect(calls >= 4, "allocations of a product are refused");
  for (calls = 0;; calls++) {
    fail_at(calls);
    const int status = agq_quantize_activations(&l, x, M, codes, scales, 0);
    if (!did_fail()) {
      test_expect(status == AGQ_OK, "quantization with memory enough");
      break;
    }
    if (!test_expect(status == AGQ_ERR_MEMORY && calls < MOST, "quantization without memory")) break;
  }
  test_expect(calls == 2, "allocations of quantization are refused");
  model_free(t);
}

static void engines(void) {
  const test_shape shape = {"small",
                            .norm = AGQ_NORM_RMS,
                            .activation = AGQ_ACTIVATION_SILU_GATED,
                            .hidden = 32,
                            .layers = 1,
                            .heads = 2,
                            .kv_heads = 1,
                            .head_dim = 16,
                            .ffn = 32,
                            .vocab = 19,
                            .embed_dim = 32,
                            .tied = 1,
                            .weights = AGQ_F32,
                            .act_bits = 32,
                            .head = AGQ_F32};
  test_model *t = model_create(&shape);
  const agq_options o = {3, 1, 64, 8, 8, 0};
  int calls = 0;
  for (;; calls++) {
    char error[256] = "";
    fail_at(calls);
    agq_engine *e = agq_engine_create(&t->m, &o, error, sizeof error);
    if (!did_fail()) {
      test_expect(e != NULL, "an engine with memory enough");
      agq_engine_destroy(e);
      break;
    }
    if (!test_expect(!e && (strstr(error, "memory") || strstr(error, "threads")) && calls < MOST,
                     "an engine without memory"))
      break;
  }
  test_expect(calls >= 6, "allocations of an engine are refused");
  model_free(t);
}

int main(void) {
  if (!test_begin()) return 0;
  products();
  engines();
  return test_end("memory");
}
