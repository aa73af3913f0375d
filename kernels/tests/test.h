/* test.h: what the C tests share: a seeded generator, a float16 writer, counting checks.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_TEST_H
#define AGQ_TEST_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agq.h"

static uint64_t test_state = 0x9e3779b97f4a7c15u;
static inline uint32_t test_random(void) {
  test_state = test_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(test_state >> 33) * 2u ^ (uint32_t)(test_state >> 32);
}
/* Uniform in lo..hi, both included. */
static inline int test_int(int lo, int hi) { return lo + (int)(test_random() % (uint32_t)(hi - lo + 1)); }
/* Uniform in -1..1. */
static inline float test_float(void) { return (float)((double)test_random() / 2147483648.0 - 1.0); }

static inline uint16_t test_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* 64-byte aligned; the requested bytes end where the allocation ends as far as alignment allows, so that ASan sees overruns. */
static inline void *test_alloc(size_t bytes) {
  void *p = 0;
  if (posix_memalign(&p, 64, bytes ? bytes : 1)) abort();
  return p;
}

static long test_checks, test_failures;
static inline int test_expect(int ok, const char *what) {
  test_checks++;
  if (ok) return 1;
  if (test_failures++ < 20) fprintf(stderr, "FAILED: %s\n", what);
  return 0;
}

/* Returns 1 if this machine cannot run the level (the test then ends with success), unless AGQ_TEST_REQUIRE is set. */
static inline int test_skip(void) {
  printf("level %s, machine: %s\n", agq_isa(), agq_cpu_features());
  if (agq_cpu_score() > 0) return 0;
  if (getenv("AGQ_TEST_REQUIRE")) {
    fprintf(stderr, "FAILED: this machine cannot run %s\n", agq_isa());
    exit(1);
  }
  printf("skipped: this machine cannot run %s\n", agq_isa());
  return 1;
}

#endif
