/* hadamard.c: the Walsh-Hadamard transform of rows.
 *
 * Every addition and subtraction, and the multiplication at the end, is one rounding of the same operands at every
 * vector width: all levels give the same bits, which are those of the torch reference.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "ops.h"
#include "vec.h"

/* Lane i gets lane i ^ h; h is a constant. */
#if VW == 16
#define LANES_XOR(h) \
  0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h, 4 ^ h, 5 ^ h, 6 ^ h, 7 ^ h, 8 ^ h, 9 ^ h, 10 ^ h, 11 ^ h, 12 ^ h, 13 ^ h, 14 ^ h, 15 ^ h
#elif VW == 8
#define LANES_XOR(h) 0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h, 4 ^ h, 5 ^ h, 6 ^ h, 7 ^ h
#else
#define LANES_XOR(h) 0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h
#endif
#if defined(__clang__) || __GNUC__ >= 12
#define SWAP(v, h) __builtin_shufflevector(v, v, LANES_XOR(h))
#else
#define SWAP(v, h) __builtin_shuffle(v, (vi){LANES_XOR(h)})
#endif
/* The second of a pair of lanes gets first - second = first + (-second). */
#define BUTTERFLY(v, h) (SWAP(v, h) + (vf)((vi)(v) ^ (((vlanes() & viset(h)) != viset(0)) & viset(INT32_MIN))))

/* The steps between lanes of one vector. */
VINLINE vf inside(vf v, int block) {
  if (block > 1) v = BUTTERFLY(v, 1);
  if (block > 2) v = BUTTERFLY(v, 2);
#if VW > 4
  if (block > 4) v = BUTTERFLY(v, 4);
#endif
#if VW > 8
  if (block > 8) v = BUTTERFLY(v, 8);
#endif
  return v;
}

/* Steps `half` and 2 half of a block of n. */
VINLINE void two_steps(float *y, int n, int half, vf f) {
  for (int base = 0; base < n; base += 4 * half)
    for (int i = base; i < base + half; i += VW) {
      const vf a = vload(y + i), b = vload(y + i + half), c = vload(y + i + 2 * half), d = vload(y + i + 3 * half);
      const vf p = a + b, q = a - b, r = c + d, s = c - d;
      vstore(y + i, (p + r) * f);
      vstore(y + i + half, (q + s) * f);
      vstore(y + i + 2 * half, (p - r) * f);
      vstore(y + i + 3 * half, (q - s) * f);
    }
}

VINLINE void one_step(float *y, int n, int half, vf f) {
  for (int i = 0; i < n / 2; i += VW) { /* half = n / 2: the last step */
    const vf a = vload(y + i), b = vload(y + i + half);
    vstore(y + i, (a + b) * f);
    vstore(y + i + half, (a - b) * f);
  }
}

void agq_hadamard_row(const float *x, float *y, int n, int block) {
  const vf f = vset((float)(1.0 / sqrt((double)block))), one = vset(1);
  if (block <= VW) { /* several blocks in a vector */
    int i = 0;
    for (; i + VW <= n; i += VW) vstore(y + i, inside(vload(x + i), block) * f);
    if (i < n) vstore_n(y + i, inside(vload_n(x + i, n - i), block) * f, n - i);
    return;
  }
  for (int base = 0; base < n; base += block, x += block, y += block) {
    for (int i = 0; i < block; i += VW) vstore(y + i, inside(vload(x + i), block));
    int half = VW;
    for (; half * 4 <= block; half *= 4) two_steps(y, block, half, half * 4 == block ? f : one);
    if (half < block) one_step(y, block, half, f);
  }
}
