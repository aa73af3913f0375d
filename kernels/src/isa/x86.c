/* x86.c: the features of an x86 CPU, by cpuid and the register state that the operating system saves.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__x86_64__)
#include <cpuid.h>

#include "cpu.h"

static unsigned saved_state(void) {
  unsigned lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return lo;
}

unsigned agq_cpu_found(void) {
  unsigned a, b, c, d, found = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  if (c >> 9 & 1) found |= CPU_SSSE3;
  if (c >> 19 & 1) found |= CPU_SSE4_1;
  /* xgetbv exists only with OSXSAVE (bit 27). XCR0: bits 1, 2 = xmm, ymm; 5 to 7 = mask registers and zmm. */
  const unsigned state = c >> 27 & 1 ? saved_state() : 0;
  const int ymm = (state & 6) == 6, zmm = (state & 0xe6) == 0xe6;
  if (!ymm || !(c >> 28 & 1)) return found;
  found |= CPU_AVX;
  if (c >> 29 & 1) found |= CPU_F16C;
  if (c >> 12 & 1) found |= CPU_FMA;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const unsigned subleaves = a;
  if (b >> 5 & 1) found |= CPU_AVX2;
  if (zmm && (b >> 16 & 1)) {
    found |= CPU_AVX512F;
    if (b >> 17 & 1) found |= CPU_AVX512DQ;
    if (b >> 30 & 1) found |= CPU_AVX512BW;
    if (b >> 31 & 1) found |= CPU_AVX512VL;
    if (c >> 11 & 1) found |= CPU_AVX512_VNNI;
  }
  if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1)) found |= CPU_AVX_VNNI;
  return found;
}
#endif
