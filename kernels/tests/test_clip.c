/* The clip search against double precision: the chosen grid's error is the least, up to the margin; `sure` says whether
 * another comes near it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>

#include "test.h"

enum { GROUPS = 150, LONG_GROUPS = 40, STEPS = 61, PERIOD = 3 };

static double error(const agq_clip_problem *p, int group, int step) {
  const double scale = (double)p->scale[group * p->steps + step];
  const double zero = p->zero ? (double)p->zero[group * p->steps + step] : 0;
  double sum = 0;
  for (int i = 0; i < p->size; i++) {
    const double w = (double)p->values[group * p->size + i];
    double code = rint(w / scale) + zero;
    code = fmin(fmax(code, (double)p->lowest), (double)p->highest);
    const double weight = p->importance ? (double)p->importance[group % p->period * p->size + i] : 1;
    sum += weight * pow(fabs((code - zero) * scale - w), 2.4);
  }
  return sum;
}

static void against_double(int size, int bits, int asymmetric, int important) {
  const int groups = size > 64 ? LONG_GROUPS : GROUPS; /* the reference of long groups is slow */
  float *values = test_alloc(sizeof(float) * (size_t)groups * (size_t)size);
  float *scale = test_alloc(sizeof(float) * (size_t)groups * STEPS),
        *zero = test_alloc(sizeof(float) * (size_t)groups * STEPS);
  float *importance = test_alloc(sizeof(float) * PERIOD * (size_t)size);
  const float lowest = asymmetric || bits == 4 ? (float)-(1 << (bits - 1)) : -127,
              highest = (float)((1 << (bits - 1)) - 1);
  for (int i = 0; i < PERIOD * size; i++) importance[i] = random_float() * random_float() + 1;
  for (int g = 0; g < groups; g++) {
    float low = 0, high = 0;
    for (int i = 0; i < size; i++) {
      float w = random_float() * random_float() * (asymmetric ? 1 + random_float() : 1);
      if (random_int(0, 99) == 0) w *= 3;
      if (size > 1000 && i == 0) w = 2; /* the best range of a long group cuts half of it off */
      values[g * size + i] = w;
      low = fminf(low, w), high = fmaxf(high, w);
    }
    for (int s = 0; s < STEPS; s++) {
      const float share = 1 - (float)s * 0.01f;
      const float range = asymmetric ? high - low : 2 * fmaxf(-low, high);
      scale[g * STEPS + s] = range * share / (highest - lowest);
      zero[g * STEPS + s] = rintf(lowest - low * share / scale[g * STEPS + s]);
    }
  }
  agq_clip_problem p = {
      values,  scale, asymmetric ? zero : NULL, important ? importance : NULL, groups, size, STEPS, PERIOD, lowest,
      highest, 2e-5f};
  int32_t best[GROUPS], again[GROUPS];
  uint8_t sure[GROUPS], same[GROUPS];
  test_expect(agq_clip_search(&p, best, sure, 1) == AGQ_OK, "searched");
  test_expect(agq_clip_search(&p, again, same, 3) == AGQ_OK, "searched by three threads");
  test_expect(!memcmp(best, again, (size_t)groups * sizeof *best) && !memcmp(sure, same, (size_t)groups),
              "threads do not matter");
  int certain = 0;
  for (int g = 0; g < groups; g++) {
    double least = INFINITY, second = INFINITY;
    for (int s = 0; s < STEPS; s++) {
      const double e = error(&p, g, s);
      if (e < least) second = least, least = e;
      else if (e < second) second = e;
    }
    test_expect(error(&p, g, best[g]) <= least * (1 + 2e-5), "the least error");
    certain += sure[g];
    if (second <= least * (1 + 1e-5)) test_expect(!sure[g], "a near tie is no certainty");
    if (second > least * (1 + 3e-5)) test_expect(sure[g], "certain where no other comes near");
  }
  test_expect(certain > groups / 2, "certain of most");
  /* The second half of the grids is the first: nothing is certain. */
  p.steps = STEPS - 1;
  float *twice = test_alloc(sizeof(float) * (size_t)groups * (size_t)p.steps);
  for (int g = 0; g < groups; g++)
    for (int s = 0; s < p.steps; s++) twice[g * p.steps + s] = scale[g * STEPS + s % (p.steps / 2)];
  p.scale = twice, p.zero = NULL;
  test_expect(agq_clip_search(&p, best, sure, 1) == AGQ_OK, "searched");
  for (int g = 0; g < groups; g++) test_expect(!sure[g] && best[g] < p.steps / 2, "the first of equal grids, not sure");
  /* Before the best grid stands one as good as it but for rounding: whichever of the two is taken, it is not certain. */
  p.steps = STEPS, p.scale = scale;
  float *near = test_alloc(sizeof(float) * (size_t)groups * STEPS);
  test_expect(agq_clip_search(&p, best, sure, 1) == AGQ_OK, "searched");
  for (int g = 0; g < groups; g++) {
    near[g * STEPS] = nextafterf(scale[g * STEPS + best[g]], 0);
    for (int s = 1; s < STEPS; s++) near[g * STEPS + s] = scale[g * STEPS + (best[g] + s - 1) % STEPS];
  }
  p.scale = near;
  test_expect(agq_clip_search(&p, best, sure, 1) == AGQ_OK, "searched");
  for (int g = 0; g < groups; g++) test_expect(!sure[g] && best[g] < 2, "one of two equally good grids, not sure");
  free(values), free(scale), free(zero), free(importance), free(twice), free(near);
}

/* Behind ranges that cut everything off a narrower one is the best, because it lies elsewhere. */
static void zero_points(void) {
  enum { MANY = 40 }; /* more than a vector's lanes */
  float values[32], scale[MANY], zero[MANY] = {0};
  for (int i = 0; i < 32; i++) values[i] = 10;
  for (int i = 0; i < MANY; i++) scale[i] = i ? 1.0f : 1.5f;
  scale[MANY - 1] = 0.5f, zero[MANY - 1] = -13;
  int32_t best[1];
  uint8_t sure[1];
  const agq_clip_problem p = {values, scale, zero, NULL, 1, 32, MANY, 0, -8, 7, 0};
  test_expect(agq_clip_search(&p, best, sure, 1) == AGQ_OK && best[0] == MANY - 1 && sure[0],
              "a range that lies elsewhere");
}

/* Bit for bit what PyTorch 2.13 computes on a processor with AVX2, on every level: three grids of one group, and with
 * importance; 1056 columns are more than a level of the cascade. Other orders of the sum differ in the last bits. */
static void pytorch(void) {
  enum { LONGEST = 1056 };
  static const struct {
    int size, important;
    float scale, error;
  } known[] = {
      {64, 0, 0.003f, 0x1.07a074p-18f},   {64, 0, 0.0028f, 0x1.9fd02ep-18f},   {64, 1, 0.0015f, 0x1.165386p-13f},
      {1056, 0, 0.003f, 0x1.ff45bcp-15f}, {1056, 0, 0.0028f, 0x1.7a06fcp-14f}, {1056, 1, 0.0015f, 0x1.2058f4p-9f},
  };
  float values[LONGEST], importance[LONGEST];
  for (int i = 0; i < LONGEST; i++) {
    values[i] = (float)(i * 37 % 101 - 50) / 64 * 0.03f;
    importance[i] = (float)(i % 7 + 1) / 8;
  }
  for (unsigned i = 0; i < sizeof known / sizeof *known; i++) {
    const agq_clip_problem p = {
        values, &known[i].scale, NULL, known[i].important ? importance : NULL, 1, known[i].size, 1, 1, -8, 7, 0};
    float errors[3];
    test_expect(agq_clip_errors(&p, 8, errors) == AGQ_OK && errors[0] == known[i].error, "PyTorch's sum");
    const double exact = error(&p, 0, 0);
    for (int lanes = 4; lanes <= 16; lanes *= 2) {
      test_expect(agq_clip_errors(&p, lanes, errors) == AGQ_OK, "vectors of this width");
      test_expect(fabs((double)errors[0] - exact) < 1e-5 * exact, "the sum in another order");
    }
  }
}

/* Of a group with zero points. */
static void errors_with_zero_points(void) {
  enum { MANY = 5, SIZE = 96 };
  float values[2 * SIZE], scale[2 * MANY], zero[2 * MANY], importance[SIZE], errors[2 * MANY];
  for (int i = 0; i < 2 * SIZE; i++) values[i] = random_float() + 0.3f;
  for (int i = 0; i < SIZE; i++) importance[i] = random_float() + 1.5f;
  for (int i = 0; i < 2 * MANY; i++) scale[i] = 0.2f - 0.01f * (float)i, zero[i] = (float)(i % 7 - 5);
  const agq_clip_problem p = {values, scale, zero, importance, 2, SIZE, MANY, 1, -8, 7, 0};
  test_expect(agq_clip_errors(&p, 16, errors) == AGQ_OK, "with zero points");
  for (int i = 0; i < 2 * MANY; i++) {
    const double exact = error(&p, i / MANY, i % MANY);
    test_expect(fabs((double)errors[i] - exact) < 1e-5 * exact, "the sum with zero points");
  }
}

static void refusals(void) {
  float values[32] = {1}, scale[1] = {1};
  int32_t best[1];
  uint8_t sure[1];
  const agq_clip_problem good = {values, scale, NULL, NULL, 1, 32, 1, 0, -8, 7, 0};
  test_expect(agq_clip_search(&good, best, sure, 1) == AGQ_OK && best[0] == 0 && sure[0], "one grid is certain");
  agq_clip_problem p = good;
  p.size = 48;
  test_expect(agq_clip_search(&p, best, sure, 1) == AGQ_ERR_ARGUMENT, "a size of 48");
  p = good, p.steps = AGQ_MAX_CLIP_STEPS + 1;
  test_expect(agq_clip_search(&p, best, sure, 1) == AGQ_ERR_ARGUMENT, "too many steps");
  p = good, p.importance = values;
  test_expect(agq_clip_search(&p, best, sure, 1) == AGQ_ERR_ARGUMENT, "importance of no period");
  test_expect(agq_clip_search(&good, best, sure, 0) == AGQ_ERR_ARGUMENT, "no threads");
  float errors[1];
  test_expect(agq_clip_errors(&good, 8, errors) == AGQ_OK, "one sum");
  test_expect(agq_clip_errors(&good, 5, errors) == AGQ_ERR_ARGUMENT, "vectors of 5");
  p = good, p.size = 48;
  test_expect(agq_clip_errors(&p, 8, errors) == AGQ_ERR_ARGUMENT, "sums of a size of 48");
}

int main(void) {
  if (!test_begin()) return 0;
  static const int problems[][2] = {{32, 4}, {64, 4}, {576, 8}}; /* size, bits */
  for (unsigned i = 0; i < 12; i++)
    if (test_takes(i / 3 + i)) against_double(problems[i % 3][0], problems[i % 3][1], i / 3 & 1, i / 6);
  if (test_takes(0)) against_double(2048, 4, 0, 1);
  zero_points();
  pytorch();
  errors_with_zero_points();
  refusals();
  return test_end("clip");
}
