/* arm.c: which Arm level this machine runs, as the kernel tells it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__aarch64__)
#include <stddef.h>
#include <stdio.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#include "agq.h"

/* Bits of AT_HWCAP and AT_HWCAP2 (Linux arch/arm64/include/uapi/asm/hwcap.h), named here because older headers lack some. */
#define CAP_ASIMD (1ul << 1)
#define CAP_ATOMICS (1ul << 8)
#define CAP_ASIMDHP (1ul << 10)
#define CAP_ASIMDRDM (1ul << 12)
#define CAP_ASIMDDP (1ul << 20)
#define CAP_SVE (1ul << 22)
#define CAP2_SVE2 (1ul << 1)
#define CAP2_I8MM (1ul << 13)
#define CAP2_BF16 (1ul << 14)

static const struct {
  const char *name;
  unsigned long bit;
  int second; /* in AT_HWCAP2 */
} names[] = {
    {"asimd", CAP_ASIMD, 0}, {"atomics", CAP_ATOMICS, 0}, {"asimdhp", CAP_ASIMDHP, 0}, {"asimdrdm", CAP_ASIMDRDM, 0},
    {"asimddp", CAP_ASIMDDP, 0}, {"sve", CAP_SVE, 0}, {"sve2", CAP2_SVE2, 1}, {"i8mm", CAP2_I8MM, 1}, {"bf16", CAP2_BF16, 1},
};

static void capabilities(unsigned long *first, unsigned long *second) {
#if defined(__linux__)
  *first = getauxval(AT_HWCAP);
  *second = getauxval(AT_HWCAP2);
#else
  *first = CAP_ASIMD; /* no portable way to ask: Armv8.0 */
  *second = 0;
#endif
}

/* -march=armv8.2-a lets the compiler use atomics and rounding multiplies of 8.1 too. */
#define V82 (CAP_ASIMD | CAP_ATOMICS | CAP_ASIMDRDM | CAP_ASIMDDP)
#if defined(AGQ_ISA_NEON)
#define NEEDED CAP_ASIMD
#define NEEDED2 0ul
#define SCORE 20
#elif defined(AGQ_ISA_DOTPROD)
#define NEEDED V82
#define NEEDED2 0ul
#define SCORE 30
#elif defined(AGQ_ISA_I8MM)
#define NEEDED V82
#define NEEDED2 CAP2_I8MM
#define SCORE 40
#else
#define NEEDED 0ul
#define NEEDED2 0ul
#define SCORE 10
#endif

int agq_cpu_score(void) {
  unsigned long first, second;
  capabilities(&first, &second);
  return (first & NEEDED) == NEEDED && (second & NEEDED2) == NEEDED2 ? SCORE : 0;
}

const char *agq_cpu_features(void) {
  static _Thread_local char text[128];
  unsigned long first, second;
  int at = 0;
  capabilities(&first, &second);
  text[0] = 0;
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if ((names[i].second ? second : first) & names[i].bit)
      at += snprintf(text + at, sizeof text - at, "%s%s", at ? " " : "", names[i].name);
  return text;
}
#endif
