/* packed4.h: the packed 4-bit multiplier of Agile-Quant (arXiv 2312.05693): one 16-bit multiplication gives two
 * products.
 *
 * Two unsigned 4-bit weights of neighbouring rows and one column lie in one operand, (high << 8) + low. Times an
 * unsigned 4-bit activation a that is at most 57825: the low product stays below 2^8, so the fields do not touch. Sums
 * of products are kept in 16-bit fields, 65535 / 225 = 291 terms at most; kernels widen them to 32 bits after
 * AGQ_PACKED4_TERMS. Zero points of weights and activations are taken off afterwards. As an agq_tile_fn: u4 weights,
 * 4-bit activations (agq_tile holds code - zero; the smallest one of a block serves as the zero point here, since codes
 * span 15 at most).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_PACKED4_H
#define AGQ_PACKED4_H

#include "gemm/convert.h"
#include "gemm/gemm.h"

#define AGQ_PACKED4_TERMS 128 /* 128 * 225 = 28800 is also a positive int16 */

/* The operand of two weights, and the two sums of up to 291 products: in the high and the low half of 32 bits. */
static inline uint32_t agq_packed4_pair(int high, int low) { return ((uint32_t)high << 8) + (uint32_t)low; }
static inline uint32_t agq_packed4_add(uint32_t sums, uint32_t pair, int a) {
  const uint32_t r = pair * (uint32_t)a;      /* [high product | low product], 8 bits each */
  return sums + ((r | r << 8) & 0x00ff00ffu); /* [0 | high | 0 | low] */
}

/* What a block's integer sums are made into, for one panel. */
typedef struct {
  float scale[AGQ_PANEL];
  int32_t zero[AGQ_PANEL];  /* of the weights */
  const float *a_scale;     /* of token 0 in this block, NULL: per token */
  int tokens_first, closes; /* agq_tokens_first; the last of the blocks that share the outer scale */
} agq_packed4_block;
agq_packed4_block agq_packed4_begin(const agq_tile *t, int panel, int block);
/* Takes the block into the sums f[0] and, inside it, f[1] of gemm.h, for token `token`, whose codes add up to `sum`.
 * products[16]: sum of (code - least) * weight code; weights[16]: sum of the weight codes. */
static inline void agq_packed4_finish(const agq_tile *t, const agq_packed4_block *k, int token, int32_t sum,
                                      int32_t least, const int32_t *products, const int32_t *weights,
                                      float (*f)[AGQ_PANEL]) {
  const float as = k->a_scale ? k->a_scale[(size_t)token * (size_t)t->a_scale_stride] : 1;
  for (int r = 0; r < AGQ_PANEL; r++) {
    const float acc = (float)(products[r] + least * weights[r] - k->zero[r] * sum);
    f[1][r] = agq_madd(acc, k->tokens_first ? as : k->scale[r], f[1][r]);
  }
  if (!k->closes) return;
  for (int r = 0; r < AGQ_PANEL; r++) {
    f[0][r] = agq_madd(f[1][r], k->tokens_first ? k->scale[r] : as, f[0][r]);
    f[1][r] = 0;
  }
}
/* y of one token and panel from its float sums. */
void agq_packed4_store(const agq_tile *t, int panel, int token, float (*f)[AGQ_PANEL]);
/* The smallest of the block's codes of a token: at most 0 where there is padding or a zero. a: the tile's codes of the
 * block, of that token. */
int agq_packed4_least(const int8_t *a, int stride, int columns);

/* What the SIMD ones sum in. */
#define AGQ_PACKED4_SUMS "16-bit fields over 512 columns, then int32"
void agq_packed4_scalar(const agq_tile *t);
void agq_packed4_native(const agq_tile *t); /* of the SIMD levels */

#endif
