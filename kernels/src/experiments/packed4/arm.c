/* arm.c: the packed 4-bit multiplier on NEON (Armv8.0 and later); see packed4.h and x86.c, whose lanes these are. Three
 * instructions for sixteen products: MUL, ADD, USRA.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "isa/features.h"

#if defined(AGQ_HAS_NEON)

#include "gemm/arm/common.h"
#include "packed4.h"

#define CHUNK (4 * AGQ_PACKED4_TERMS)
#define N 4
#define UNITS 1
#define INLINE AGQ_INLINE
typedef uint16x8_t vi;
AGQ_INLINE vi vi_load(const void *p) { return vreinterpretq_u16_u8(vld1q_u8(p)); }
AGQ_INLINE void vi_store(void *p, vi a) { vst1q_u8(p, vreinterpretq_u8_u16(a)); }
AGQ_INLINE vi vi_zero(void) { return vdupq_n_u16(0); }
AGQ_INLINE vi mul16(vi a, vi b) { return vmulq_u16(a, b); }
AGQ_INLINE vi add16(vi a, vi b) { return vaddq_u16(a, b); }
AGQ_INLINE vi shr16(vi a) { return vshrq_n_u16(a, 8); } /* with the addition that follows: USRA */
AGQ_INLINE void pairs(const uint8_t *w, vi *low, vi *high) {
  const uint8x16_t m = vdupq_n_u8(15);
  AGQ_UNROLL_FOR (int i = 0; i < 2; i++) {
    const uint8x16_t a = vld1q_u8(w + 16 * i), b = vld1q_u8(w + 32 + 16 * i);
    const uint8x16_t al = vandq_u8(a, m), bl = vandq_u8(b, m), ah = vshrq_n_u8(a, 4), bh = vshrq_n_u8(b, 4);
    low[2 * i] = vreinterpretq_u16_u8(vzip1q_u8(al, bl));
    low[2 * i + 1] = vreinterpretq_u16_u8(vzip2q_u8(al, bl));
    high[2 * i] = vreinterpretq_u16_u8(vzip1q_u8(ah, bh));
    high[2 * i + 1] = vreinterpretq_u16_u8(vzip2q_u8(ah, bh));
  }
}
AGQ_INLINE vi codes4(const uint16_t *a) {
  const uint16x4_t x = vld1_u16(a);
  return vcombine_u16(x, x);
}
AGQ_INLINE void rows8(const vi *s, int32_t *out) {
  AGQ_UNROLL_FOR (int i = 0; i < 2; i++) {
    const uint32x4_t sum = vpaddq_u32(vpaddlq_u16(s[2 * i]), vpaddlq_u16(s[2 * i + 1]));
    vst1q_s32(out + 4 * i, vaddq_s32(vld1q_s32(out + 4 * i), vreinterpretq_s32_u32(sum)));
  }
}
AGQ_INLINE void widen(const vi *all, const vi *high, int32_t *out) {
  vi low[N];
  AGQ_UNROLL_FOR (int i = 0; i < N; i++) low[i] = vsubq_u16(all[i], vshlq_n_u16(high[i], 8));
  rows8(low, out);
  rows8(high, out + 8);
}

#include "body.h"
#endif
