/* x86.c: which x86 level this machine runs, by cpuid and the register state that the operating system saves.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__x86_64__)
#include <cpuid.h>
#include <stdio.h>

#include "agq.h"

enum {
  SSSE3 = 1, SSE41 = 2, AVX = 4, F16C = 8, FMA = 16, AVX2 = 32, AVX512F = 64, AVX512DQ = 128, AVX512BW = 256, AVX512VL = 512,
  AVX512VNNI = 1024, AVXVNNI = 2048
};
static const char *const names[] = {"ssse3", "sse4_1", "avx", "f16c", "fma", "avx2", "avx512f", "avx512dq", "avx512bw", "avx512vl",
                                    "avx512_vnni", "avx_vnni"};

static unsigned saved_state(void) {
  unsigned lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return lo;
}

static unsigned features(void) {
  unsigned a, b, c, d, found = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  if (c >> 9 & 1) found |= SSSE3;
  if (c >> 19 & 1) found |= SSE41;
  /* xgetbv exists only with OSXSAVE (bit 27). XCR0: bits 1, 2 = xmm, ymm; 5 to 7 = mask registers and zmm. */
  const unsigned state = c >> 27 & 1 ? saved_state() : 0;
  const int ymm = (state & 6) == 6, zmm = (state & 0xe6) == 0xe6;
  if (!ymm || !(c >> 28 & 1)) return found;
  found |= AVX;
  if (c >> 29 & 1) found |= F16C;
  if (c >> 12 & 1) found |= FMA;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const unsigned subleaves = a;
  if (b >> 5 & 1) found |= AVX2;
  if (zmm && (b >> 16 & 1)) {
    found |= AVX512F;
    if (b >> 17 & 1) found |= AVX512DQ;
    if (b >> 30 & 1) found |= AVX512BW;
    if (b >> 31 & 1) found |= AVX512VL;
    if (c >> 11 & 1) found |= AVX512VNNI;
  }
  if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1)) found |= AVXVNNI;
  return found;
}

#if defined(AGQ_ISA_SSE41)
#define NEEDED (SSSE3 | SSE41)
#define SCORE 20
#elif defined(AGQ_ISA_AVX2)
#define NEEDED (AVX | AVX2 | FMA | F16C)
#define SCORE 30
#elif defined(AGQ_ISA_AVXVNNI)
#define NEEDED (AVX | AVX2 | FMA | F16C | AVXVNNI)
#define SCORE 40
#elif defined(AGQ_ISA_AVX512VNNI)
#define NEEDED (AVX | AVX2 | FMA | F16C | AVX512F | AVX512DQ | AVX512BW | AVX512VL | AVX512VNNI)
#define SCORE 50
#else
#define NEEDED 0
#define SCORE 10
#endif

int agq_cpu_score(void) { return (features() & NEEDED) == NEEDED ? SCORE : 0; }

const char *agq_cpu_features(void) {
  static _Thread_local char text[128];
  const unsigned found = features();
  int at = 0;
  for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
    if (found >> i & 1) at += snprintf(text + at, sizeof text - at, "%s%s", at ? " " : "", names[i]);
  return text;
}
#endif
