/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "ops.h"
#include "vec.h"

/* Lanes of the sums at every level (vec.h). */
enum { LANES = 32 };

static float sum_row(const float *x, int n) {
  vf sum[LANES / VW];
  float rest[LANES] = {0}, lanes[LANES];
  for (int j = 0; j < LANES / VW; j++) sum[j] = vset(0);
  int i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int j = 0; j < LANES / VW; j++) sum[j] += vload(x + i + j * VW);
  if (i < n) memcpy(rest, x + i, (size_t)(n - i) * sizeof(float));
  for (int j = 0; j < LANES / VW; j++) vstore(lanes + j * VW, sum[j] + vload(rest + j * VW));
  return vsum_lanes(lanes, LANES);
}

/* Sum of (x - mean)^2. */
static float sum_squares(const float *x, float mean, int n) {
  vf sum[LANES / VW];
  const vf m = vset(mean);
  float rest[LANES], lanes[LANES];
  for (int j = 0; j < LANES / VW; j++) sum[j] = vset(0);
  int i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int j = 0; j < LANES / VW; j++) {
      const vf d = vload(x + i + j * VW) - m;
      sum[j] = vmadd(d, d, sum[j]);
    }
  for (int j = 0; j < LANES; j++) rest[j] = i + j < n ? x[i + j] : mean;
  for (int j = 0; j < LANES / VW; j++) {
    const vf d = vload(rest + j * VW) - m;
    vstore(lanes + j * VW, vmadd(d, d, sum[j]));
  }
  return vsum_lanes(lanes, LANES);
}

void agq_norm_row(int kind, const agq_norm *norm, float eps, const float *x, float *y, int n) {
  if (kind == AGQ_NORM_NONE) {
    if (y != x) memcpy(y, x, (size_t)n * sizeof(float));
    return;
  }
  const float mean = kind == AGQ_NORM_LAYER ? sum_row(x, n) / (float)n : 0.0f;
  const float variance = sum_squares(x, mean, n) / (float)n;
  const float factor = (float)(1.0 / sqrt((double)variance + (double)eps));
  const float *w = norm->weight, *b = norm->bias;
  int i = 0;
  for (; i + VW <= n; i += VW) {
    vf v = (vload(x + i) - vset(mean)) * vset(factor);
    if (w) v *= vload(w + i);
    if (b) v += vload(b + i);
    vstore(y + i, v);
  }
  for (; i < n; i++) {
    float v = (x[i] - mean) * factor;
    if (w) v *= w[i];
    if (b) v += b[i];
    y[i] = v;
  }
}

void agq_add_scaled_row(const float *a, const float *b, float factor, float *y, int n) {
  int i = 0;
  for (; i + VW <= n; i += VW) vstore(y + i, vload(a + i) + vload(b + i) * vset(factor));
  for (; i < n; i++) y[i] = a[i] + b[i] * factor;
}

void agq_add_row(const float *a, const float *b, float *y, int n) {
  int i = 0;
  for (; i + VW <= n; i += VW) vstore(y + i, vload(a + i) + vload(b + i));
  for (; i < n; i++) y[i] = a[i] + b[i];
}
