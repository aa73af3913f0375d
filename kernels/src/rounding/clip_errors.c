/* clip_errors.c: the errors of the clip search as PyTorch's vectors compute them, bit for bit: agq_clip_search leaves a
 * choice open where two grids differ by less than the rounding of sums, and there the definition
 * (agq/numerics/quantizers.py) is float32 arithmetic of PyTorch's: a power, and the order of a sum.
 *
 * The power is SLEEF's (N. Shibata, F. Petrogalli, "SLEEF: a portable vectorized library of C standard mathematical
 * functions", 2019; powf with an error below 1 ulp, with fused multiply-add): exp(y log x) on pairs of floats whose
 * sum is the value. Each operation must be rounded as there, so none may be left out or put in another order.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <string.h>

#include "agq.h"

enum {
  ROWS = 4,    /* sums that a row of vectors is divided between */
  WIDEST = 16, /* floats of a vector, at most */
  LEVELS = 4,
  STEP_BITS = 4 /* each level of sums holds 2^STEP_BITS of the level below */
};

/* high + low, low below half an ulp of high or little more. */
typedef struct {
  float high, low;
} pair;

static inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
static inline float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
/* x where `kept` is 1, 0 where it is 0; without a branch the compiler makes vectors of it. */
static inline float kept_if(int kept, float x) { return float_of(bits_of(x) & -(uint32_t)kept); }
/* 2^n of -127 < n < 128; 0 of -127. */
static inline float exponential(int n) { return float_of((uint32_t)(n + 127) << 23); }

static inline pair normalized(pair a) {
  const float sum = a.high + a.low;
  return (pair){sum, a.high - sum + a.low};
}
/* a + b of any a, b. */
static inline pair sum_of(pair a, pair b) {
  const float sum = a.high + b.high, part = sum - a.high;
  return (pair){sum, (a.high - (sum - part)) + (b.high - part) + (a.low + b.low)};
}
/* a + b where |a| >= |b|. */
static inline pair sum_of_smaller(pair a, pair b) {
  const float sum = a.high + b.high;
  return (pair){sum, a.high - sum + b.high + a.low + b.low};
}
static inline pair product(pair a, pair b) {
  const float high = a.high * b.high;
  return (pair){high, fmaf(a.high, b.low, fmaf(a.low, b.high, fmaf(a.high, b.high, -high)))};
}
static inline pair scaled(pair a, float b) {
  const float high = a.high * b;
  return (pair){high, fmaf(a.low, b, fmaf(a.high, b, -high))};
}
static inline pair square(pair a) {
  const float high = a.high * a.high;
  return (pair){high, fmaf(a.high + a.high, a.low, fmaf(a.high, a.high, -high))};
}
static inline pair quotient(pair a, pair b) {
  const float inverse = 1.0f / b.high, high = a.high * inverse;
  const float rest = fmaf(inverse, a.high, -high), error = fmaf(-b.low, inverse, fmaf(-b.high, inverse, 1.0f));
  return (pair){high, fmaf(high, error, fmaf(a.low, inverse, rest))};
}

/* The logarithm of x > 0: of 2^n m, 0.75 <= m < 1.5, with a series in ((m - 1) / (m + 1))^2. */
static inline pair logarithm(float x) {
  const int small = x < 0x1p-126f;
  x *= float_of((uint32_t)(127 + 64 * small) << 23);
  const int n = (int)(bits_of(x * (1.0f / 0.75f)) >> 23 & 0xff) - 127;
  const float m = float_of(bits_of(x) - ((uint32_t)n << 23));
  const pair r = quotient(sum_of((pair){-1, 0}, (pair){m, 0}), sum_of((pair){1, 0}, (pair){m, 0})), r2 = square(r);
  float t = fmaf(0x1.ec2d14p-3f, r2.high, 0x1.23f494p-2f);
  t = fmaf(t, r2.high, 0x1.999bb2p-2f);
  pair result = scaled((pair){0x1.62e43p-1f, -0x1.05c61p-29f}, (float)(n - 64 * small));
  result = sum_of_smaller(result, (pair){r.high * 2, r.low * 2});
  const pair third = sum_of(scaled(r2, t), (pair){0x1.555554p-1f, 0x1.fb6706p-29f});
  return sum_of_smaller(result, product(product(r2, r), third));
}

/* e^a. */
static inline float power_of_e(pair a) {
  const int n = (int)rintf((a.high + a.low) * 0x1.715476p0f);
  pair s = sum_of(a, (pair){(float)n * -0x1.62e4p-1f, 0});
  s = normalized(sum_of(s, (pair){(float)n * -0x1.7f7d1cp-20f, 0}));
  float t = fmaf(0x1.655decp-10f, s.high, 0x1.1222d6p-7f);
  t = fmaf(t, s.high, 0x1.555e98p-5f);
  t = fmaf(t, s.high, 0x1.5554bcp-3f);
  t = fmaf(t, s.high, 0x1.fffff6p-2f);
  s = sum_of_smaller((pair){1, 0}, sum_of_smaller(s, scaled(square(s), t)));
  const int sign = n >> 31, quarter = (((sign + n) >> 6) - sign) * 16; /* 2^n may be no normal number */
  const float factor = exponential(quarter < -127 ? -127 : quarter > 128 ? 128 : quarter);
  const float result = (s.high + s.low) * factor * factor * factor * factor * exponential(n - 4 * quarter);
  return kept_if(!(a.high < -104), result);
}

static inline float power(float x) { return kept_if(x != 0, power_of_e(scaled(logarithm(x), 2.4f))); }

/* Lanes are added as `sum` adds a row of vectors: every fourth vector goes into one of four sums, and each of these is
 * a cascade, so that small terms are not lost in a large sum. */
typedef struct {
  float level[LEVELS][ROWS * WIDEST];
  int width, taken;
} cascade;

static void add(cascade *c, const float *terms) {
  for (int i = 0; i < c->width; i++) c->level[0][i] += terms[i];
  c->taken++;
  for (int up = 1; up < LEVELS && !(c->taken & ((1 << STEP_BITS * up) - 1)); up++)
    for (int i = 0; i < c->width; i++) {
      c->level[up][i] += c->level[up - 1][i];
      c->level[up - 1][i] = 0;
    }
}

/* rest: `left` vectors that fill no row. */
static float total(cascade *c, int lanes, const float *rest, int left) {
  float *sums = c->level[0], result = 0;
  for (int up = 1; up < LEVELS; up++)
    for (int i = 0; i < c->width; i++) sums[i] += c->level[up][i];
  for (int v = 0; v < left; v++)
    for (int i = 0; i < lanes; i++) sums[i] += rest[v * lanes + i];
  for (int row = 1; row < ROWS; row++)
    for (int i = 0; i < lanes; i++) sums[i] += sums[row * lanes + i];
  for (int i = 0; i < lanes; i++) result += sums[i];
  return result;
}

static float error(const agq_clip_problem *p, int group, int step, int lanes) {
  const size_t grid = (size_t)group * (size_t)p->steps + (size_t)step;
  const float *w = p->values + (size_t)group * (size_t)p->size, scale = p->scale[grid];
  const float *importance = p->importance ? p->importance + (size_t)(group % p->period) * (size_t)p->size : NULL;
  const float zero = p->zero ? p->zero[grid] : 0, lowest = p->lowest, highest = p->highest;
  cascade sums = {.width = ROWS * lanes};
  float terms[ROWS * WIDEST];
  int at = 0;
  for (; at < p->size; at += sums.width) {
    const int count = p->size - at < sums.width ? p->size - at : sums.width;
    for (int i = 0; i < count; i++) {
      const float code = rintf(w[at + i] / scale) + zero;
      const float above = code < lowest ? lowest : code, within = above > highest ? highest : above;
      terms[i] = power(fabsf((within - zero) * scale - w[at + i]));
    }
    if (importance)
      for (int i = 0; i < count; i++) terms[i] *= importance[at + i];
    if (count < sums.width) return total(&sums, lanes, terms, count / lanes);
    add(&sums, terms);
  }
  return total(&sums, lanes, terms, 0);
}

int agq_clip_errors(const agq_clip_problem *p, int lanes, float *errors) {
  const int bad = p->groups < 0 || p->size < 32 || p->size % 32 || p->steps < 1 || (p->importance && p->period < 1);
  if (bad || (lanes != 4 && lanes != 8 && lanes != 16)) return AGQ_ERR_ARGUMENT;
  for (int g = 0; g < p->groups; g++)
    for (int s = 0; s < p->steps; s++) errors[(size_t)g * (size_t)p->steps + (size_t)s] = error(p, g, s, lanes);
  return AGQ_OK;
}
