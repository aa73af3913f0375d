/* random.h: the one source of random numbers of the C tests and benchmarks: the same numbers on every machine for a
 * seed.
 *
 * SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014): a counter whose every
 * value goes through a bijection that mixes all 64 bits. Every seed is as good as any other.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_TEST_RANDOM_H
#define AGQ_TEST_RANDOM_H

#include <stdint.h>

static uint64_t random_state = 1;

static inline void random_seed(uint64_t seed) { random_state = seed; }

static inline uint64_t random_bits64(void) {
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

/* 32 bits, each 0 or 1 alike. */
static inline uint32_t random_bits(void) { return (uint32_t)(random_bits64() >> 32); }

/* Uniform in lo..hi, both included; any pair of ints with lo <= hi. */
static inline int random_int(int lo, int hi) {
  const uint64_t count = (uint64_t)((int64_t)hi - lo) + 1;
  return (int)(lo + (int64_t)(random_bits() * count >> 32));
}

/* Uniform in -1 <= x < 1, a multiple of 2^-23. */
static inline float random_float(void) { return (float)(random_bits() >> 8) * 0x1p-23f - 1.0f; }

/* A random permutation of 0..n-1 in order[n] (Fisher and Yates); returns order. */
static inline uint32_t *random_order(uint32_t *order, int n) {
  for (int i = 0; i < n; i++) {
    const int j = random_int(0, i);
    order[i] = order[j];
    order[j] = (uint32_t)i;
  }
  return order;
}

#endif
