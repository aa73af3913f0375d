/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "gemm/quantize.h"
#include "ops.h"
#include "vec.h"

void agq_rope_table(const float *inv_freq, float scaling, int position, float *cosines, float *sines, int half) {
  const float p = (float)position;
  for (int i = 0; i < half; i++) {
    /* In double precision: float versions differ in the last bit between C libraries and machines. */
    const double angle = (double)(inv_freq[i] * p);
    cosines[i] = (float)cos(angle) * scaling;
    sines[i] = (float)sin(angle) * scaling;
  }
}

void agq_rope_row(const float *x, const float *cosines, const float *sines, float *y, int half, int n) {
  int i = 0;
  for (; i + VW <= half; i += VW) {
    vf a = vload(x + i), b = vload(x + half + i), c = vload(cosines + i), s = vload(sines + i);
    vstore(y + i, a * c - b * s);
    vstore(y + half + i, b * c + a * s);
  }
  for (; i < half; i++) {
    float a = x[i], b = x[half + i];
    y[i] = a * cosines[i] - b * sines[i];
    y[half + i] = b * cosines[i] + a * sines[i];
  }
  if (y != x && n > 2 * half) memcpy(y + 2 * half, x + 2 * half, (size_t)(n - 2 * half) * sizeof(float));
}

typedef int8_t vb __attribute__((vector_size(VW)));

float agq_quantize_head(const float *x, int8_t *codes, int n, int stride) {
  const float amax = vlargest_of(x, n);
  if (amax < AGQ_LEAST_RANGE || !isfinite(amax)) {
    for (int i = 0; i < n; i++) codes[(size_t)i * (size_t)stride] = 0;
    return isfinite(amax) ? 0 : amax;
  }
  const vf inverse = vset(127.0f / amax);
  for (int i = 0; i < n; i += VW) {
    vf v = (n - i < VW ? vload_n(x + i, n - i) : vload(x + i)) * inverse;
    v = vrint(vmax(vmin(v, vset(127.0f)), vset(-127.0f)));
    const vb b = __builtin_convertvector(__builtin_convertvector(v, vi), vb);
    if (stride == 1 && n - i >= VW) memcpy(codes + i, &b, VW);
    else
      for (int j = 0; j < VW && i + j < n; j++) codes[(size_t)(i + j) * (size_t)stride] = b[j];
  }
  return amax / 127.0f;
}
