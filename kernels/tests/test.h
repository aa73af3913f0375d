/* test.h: what the C tests share: the start and the end of a program, the seed, a bfloat16 writer, counting checks.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_TEST_H
#define AGQ_TEST_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agq.h"
#include "random.h"

static inline uint16_t test_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* 64-byte aligned; the requested bytes end where the allocation ends as far as alignment allows, so that ASan sees
 * overruns. */
static inline void *test_alloc(size_t bytes) {
  void *p = 0;
  if (posix_memalign(&p, 64, bytes ? bytes : 1)) abort();
  return p;
}

static long test_checks, test_failures;
/* With AGQ_TEST_FAIL_FAST set, the first failure ends the program: a mutant is known as soon as it is seen. */
static inline int test_expect(int ok, const char *what) {
  test_checks++;
  if (ok) return 1;
  if (test_failures++ < 20) fprintf(stderr, "FAILED: %s\n", what);
  if (getenv("AGQ_TEST_FAIL_FAST")) exit(1);
  return 0;
}

/* With AGQ_TEST_SHARE=n a seed takes every n-th problem only, and n seeds in a row take them all: for emulators, which
 * are slow. */
static uint64_t test_seed;
static inline int test_takes(unsigned problem) {
  const char *share = getenv("AGQ_TEST_SHARE");
  const unsigned n = share ? (unsigned)atoi(share) : 1;
  return n <= 1 || (problem + test_seed) % n == 0;
}

/* Starts a program: takes the seed from AGQ_TEST_SEED (1 if it is not set) and prints it. Returns 0 if this machine
 * cannot run the level: the program then ends with success, unless AGQ_TEST_REQUIRE is set. */
static inline int test_begin(void) {
  const char *given = getenv("AGQ_TEST_SEED");
  char *end = "";
  const unsigned long long seed = given && *given ? strtoull(given, &end, 0) : 1;
  if (*end) {
    fprintf(stderr, "FAILED: AGQ_TEST_SEED is '%s', not a number\n", given);
    exit(1);
  }
  random_seed(test_seed = seed);
  printf("level %s, seed %llu, machine: %s\n", agq_isa(), seed, agq_cpu_features());
  if (agq_cpu_score() > 0) return 1;
  if (getenv("AGQ_TEST_REQUIRE")) {
    fprintf(stderr, "FAILED: this machine cannot run %s\n", agq_isa());
    exit(1);
  }
  printf("skipped: this machine cannot run %s\n", agq_isa());
  return 0;
}

/* Ends a program: its exit code. */
static inline int test_end(const char *name) {
  printf("%s: %ld checks, %ld failed\n", name, test_checks, test_failures);
  return test_failures != 0;
}

#endif
