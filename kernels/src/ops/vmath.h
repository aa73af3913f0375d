/* vmath.h: exponential functions and what is made of them, on vectors. Relative errors are bounded by tests/test_ops.c.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_VMATH_H
#define AGQ_VMATH_H

#include "vec.h"

/* All of them are NaN where x is. */

/* 2^x for x <= 127; x below -126 counts as -126. Exactly 1 at 0. Minimax polynomial of degree 5 on [-1/2, 1/2]
 * (9.2e-8). */
VINLINE vf vexp2(vf x) {
  x = vmax(vset(-126.0f), x);
  vf t = x + vset(AGQ_ROUND_MAGIC);
  vf r = x - (t - vset(AGQ_ROUND_MAGIC));
  vf p = vmadd(vset(1.326472721371121e-3f), r, vset(9.671512812535607e-3f));
  p = vmadd(p, r, vset(5.550733744825044e-2f));
  p = vmadd(p, r, vset(2.402224208267683e-1f));
  p = vmadd(p, r, vset(6.931469775973303e-1f));
  p = vmadd(p, r, vset(1.0f));
  return (vf)((vi)p + ((vi)t << 23)); /* the low bits of t hold the rounded exponent */
}

/* e^x, x clamped to -87 .. 88. Minimax polynomial of degree 6 on the reduced range (2e-9), reduction in two parts of
 * ln 2. */
VINLINE vf vexp(vf x) {
  x = vmin(vset(88.0f), vmax(vset(-87.0f), x));
  vf t = vmadd(x, vset(1.44269504f), vset(AGQ_ROUND_MAGIC));
  vf n = t - vset(AGQ_ROUND_MAGIC);
  vf r = vmadd(n, vset(-0.693359375f), x); /* exact: few bits in the first part */
  r = vmadd(n, vset(2.12194440e-4f), r);
  vf p = vmadd(vset(1.3843653654417726e-3f), r, vset(8.374155421463024e-3f));
  p = vmadd(p, r, vset(4.166800203920338e-2f));
  p = vmadd(p, r, vset(1.6666431261329384e-1f));
  p = vmadd(p, r, vset(4.999999420900938e-1f));
  p = vmadd(p, r, vset(1.000000032165328f));
  p = vmadd(p, r, vset(1.0f));
  return (vf)((vi)p + ((vi)t << 23));
}

VINLINE vf vsilu(vf x) { return x / (vset(1.0f) + vexp(-x)); }

/* tanh: an odd polynomial below 0.55 (fitted, 1.1e-9), where 1 - 2 / (1 + e^2x) would cancel; that above. Exactly 0 at
 * 0. */
VINLINE vf vtanh(vf x) {
  vf z = x * x;
  vf p = vmadd(vset(-6.27424e-3f), z, vset(2.107168e-2f));
  p = vmadd(p, z, vset(-5.385231e-2f));
  p = vmadd(p, z, vset(1.3332586e-1f));
  p = vmadd(p, z, vset(-3.3333318e-1f));
  vf a = vabs(x);
  vf far = vset(1.0f) - vset(2.0f) / (vset(1.0f) + vexp(a + a));
  return vselect((vi)(a < vset(0.55f)), vmadd(p, z * x, x), vselect((vi)(x < vset(0.0f)), -far, far));
}

/* cap tanh(x / cap) */
VINLINE vf vcap(vf x, vf cap, vf inverse) { return cap * vtanh(x * inverse); }

/* x/2 (1 + tanh y) = x / (1 + e^-2y), without the cancellation of 1 + tanh; y = 0.79788456 x (1 + 0.044715 x^2) as
 * BLOOM in transformers. */
VINLINE vf vgelu_tanh(vf x) {
  vf y = vset(0.79788456f) * x * (vset(1.0f) + vset(0.044715f) * x * x);
  return x / (vset(1.0f) + vexp(vset(-2.0f) * y));
}

/* x/2 (1 + erf(x/sqrt 2)) by the Chebyshev fit of erfc of Numerical Recipes (erfcc, relative error below 1.2e-7). */
VINLINE vf vgelu_erf(vf x) {
  vf z = vabs(x) * vset(0.70710678f);
  vf t = vset(1.0f) / (vset(1.0f) + vset(0.5f) * z);
  vf p = vmadd(t, vset(0.17087277f), vset(-0.82215223f));
  p = vmadd(t, p, vset(1.48851587f));
  p = vmadd(t, p, vset(-1.13520398f));
  p = vmadd(t, p, vset(0.27886807f));
  p = vmadd(t, p, vset(-0.18628806f));
  p = vmadd(t, p, vset(0.09678418f));
  p = vmadd(t, p, vset(0.37409196f));
  p = vmadd(t, p, vset(1.00002368f));
  p = vmadd(t, p, vset(-1.26551223f));
  vf tail = t * vexp(p - z * z); /* erfc(z) */
  vf half = vset(0.5f) * x;
  return vselect((vi)(x < vset(0.0f)), half * tail, half * (vset(2.0f) - tail));
}

#endif
