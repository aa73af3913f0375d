/* x86.c: the packed 4-bit multiplier on SSE4.1, AVX2 and AVX-512BW; see packed4.h.
 *
 * A 16-bit lane holds column k of rows r (low byte) and r + 8 (high byte); four neighbouring lanes are four columns.
 * Two sums per lane: of the product's high byte, and of the whole product modulo 2^16, from which the low byte's sum
 * follows at the end: multiply, shift, two additions for two products per lane.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "gemm/x86/vec.h"

#if defined(AGQ_HAS_X86)
#include "packed4.h"

#define CHUNK (4 * AGQ_PACKED4_TERMS) /* columns between two widenings: a lane takes every fourth */

INLINE long long load8(const uint16_t *p) {
  long long x;
  memcpy(&x, p, 8);
  return x;
}

#if AGQ_VB == 64
#define N 2     /* vectors of pairs for the rows of a panel */
#define UNITS 2 /* units of 8 columns that lie side by side in a vector */
INLINE vi mul16(vi a, vi b) { return _mm512_mullo_epi16(a, b); }
INLINE vi add16(vi a, vi b) { return _mm512_add_epi16(a, b); }
INLINE vi sub16(vi a, vi b) { return _mm512_sub_epi16(a, b); }
INLINE vi shr16(vi a) { return _mm512_srli_epi16(a, 8); }
INLINE vi shl16(vi a) { return _mm512_slli_epi16(a, 8); }
/* Rows 0-7 of two units, rows 8-15 of both, interleaved. */
INLINE void pairs(const uint8_t *w, vi *low, vi *high) {
  const vi u = vi_load(w), v = vi_load(w + 64), m = vi_set8(15);
  const vi a = _mm512_shuffle_i64x2(u, v, 0x44), b = _mm512_shuffle_i64x2(u, v, 0xee);
  const vi al = vi_and(a, m), bl = vi_and(b, m), ah = vi_high_nibble(a, m), bh = vi_high_nibble(b, m);
  low[0] = _mm512_unpacklo_epi8(al, bl);
  low[1] = _mm512_unpackhi_epi8(al, bl);
  high[0] = _mm512_unpacklo_epi8(ah, bh);
  high[1] = _mm512_unpackhi_epi8(ah, bh);
}
/* a: columns 0..3 of a unit; those of the next unit stand 8 codes further. */
INLINE vi codes4(const uint16_t *a) {
  const __m256i x = _mm256_set1_epi64x(load8(a)), y = _mm256_set1_epi64x(load8(a + 8));
  return _mm512_inserti64x4(_mm512_castsi256_si512(x), y, 1);
}
/* Sums of the four lanes of each row, rows 0..7. Lanes are positive int16. */
INLINE void rows8(const vi *s, int32_t *out) {
  const vi one = _mm512_set1_epi16(1), a = _mm512_madd_epi16(s[0], one), b = _mm512_madd_epi16(s[1], one);
  const __m256i x = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
  const __m256i y = _mm256_add_epi32(_mm512_castsi512_si256(b), _mm512_extracti64x4_epi64(b, 1));
  __m256i *p = (__m256i *)out;
  _mm256_storeu_si256(p, _mm256_add_epi32(_mm256_loadu_si256(p), _mm256_hadd_epi32(x, y)));
}

#elif AGQ_VB == 32
#define N 2
#define UNITS 1
INLINE vi mul16(vi a, vi b) { return _mm256_mullo_epi16(a, b); }
INLINE vi add16(vi a, vi b) { return _mm256_add_epi16(a, b); }
INLINE vi sub16(vi a, vi b) { return _mm256_sub_epi16(a, b); }
INLINE vi shr16(vi a) { return _mm256_srli_epi16(a, 8); }
INLINE vi shl16(vi a) { return _mm256_slli_epi16(a, 8); }
INLINE void pairs(const uint8_t *w, vi *low, vi *high) {
  const vi a = vi_load(w), b = vi_load(w + 32), m = vi_set8(15);
  const vi al = vi_and(a, m), bl = vi_and(b, m), ah = vi_high_nibble(a, m), bh = vi_high_nibble(b, m);
  low[0] = _mm256_unpacklo_epi8(al, bl);
  low[1] = _mm256_unpackhi_epi8(al, bl);
  high[0] = _mm256_unpacklo_epi8(ah, bh);
  high[1] = _mm256_unpackhi_epi8(ah, bh);
}
INLINE vi codes4(const uint16_t *a) { return _mm256_set1_epi64x(load8(a)); }
INLINE void rows8(const vi *s, int32_t *out) {
  const vi one = _mm256_set1_epi16(1);
  vi *p = (vi *)out;
  const vi sum = _mm256_hadd_epi32(_mm256_madd_epi16(s[0], one), _mm256_madd_epi16(s[1], one));
  vi_store(p, vi_add32(vi_load(p), sum));
}

#else /* SSE4.1 */
#define N 4
#define UNITS 1
INLINE vi mul16(vi a, vi b) { return _mm_mullo_epi16(a, b); }
INLINE vi add16(vi a, vi b) { return _mm_add_epi16(a, b); }
INLINE vi sub16(vi a, vi b) { return _mm_sub_epi16(a, b); }
INLINE vi shr16(vi a) { return _mm_srli_epi16(a, 8); }
INLINE vi shl16(vi a) { return _mm_slli_epi16(a, 8); }
INLINE void pairs(const uint8_t *w, vi *low, vi *high) {
  const vi m = vi_set8(15);
  for (int i = 0; i < 2; i++) {
    const vi a = vi_load(w + 16 * i), b = vi_load(w + 32 + 16 * i);
    const vi al = vi_and(a, m), bl = vi_and(b, m), ah = vi_high_nibble(a, m), bh = vi_high_nibble(b, m);
    low[2 * i] = _mm_unpacklo_epi8(al, bl);
    low[2 * i + 1] = _mm_unpackhi_epi8(al, bl);
    high[2 * i] = _mm_unpacklo_epi8(ah, bh);
    high[2 * i + 1] = _mm_unpackhi_epi8(ah, bh);
  }
}
INLINE vi codes4(const uint16_t *a) { return _mm_set1_epi64x(load8(a)); }
INLINE void rows8(const vi *s, int32_t *out) {
  const vi one = _mm_set1_epi16(1);
  for (int i = 0; i < 2; i++) {
    const vi sum = _mm_hadd_epi32(_mm_madd_epi16(s[2 * i], one), _mm_madd_epi16(s[2 * i + 1], one));
    vi_store(out + 4 * i, vi_add32(vi_load(out + 4 * i), sum));
  }
}
#endif

/* From the two sums of each lane: rows 0..7 from the low bytes, 8..15 from the high ones. */
INLINE void widen(const vi *all, const vi *high, int32_t *out) {
  vi low[N];
  for (int i = 0; i < N; i++) low[i] = sub16(all[i], shl16(high[i]));
  rows8(low, out);
  rows8(high, out + 8);
}

#include "body.h"
#endif
