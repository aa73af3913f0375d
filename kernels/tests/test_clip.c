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
}

int main(void) {
  if (!test_begin()) return 0;
  static const int problems[][2] = {{32, 4}, {64, 4}, {576, 8}}; /* size, bits */
  for (unsigned i = 0; i < 12; i++)
    if (test_takes(i / 3 + i)) against_double(problems[i % 3][0], problems[i % 3][1], i / 3 & 1, i / 6);
  if (test_takes(0)) against_double(2048, 4, 0, 1);
  zero_points();
  refusals();
  return test_end("clip");
}
