/* arm.c: the features of an Arm CPU, as the operating system tells them.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#if defined(__aarch64__)
#include <stddef.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

#include "cpu.h"

#if defined(__linux__)
/* Bits of AT_HWCAP and AT_HWCAP2 (Linux arch/arm64/include/uapi/asm/hwcap.h), named here because older headers lack
 * some. */
static const struct {
  unsigned feature;
  unsigned char second, bit; /* second: in AT_HWCAP2 */
} capabilities[] = {
    {CPU_ASIMD, 0, 1}, {CPU_ATOMICS, 0, 8}, {CPU_ASIMDHP, 0, 10}, {CPU_ASIMDRDM, 0, 12}, {CPU_ASIMDDP, 0, 20},
    {CPU_SVE, 0, 22},  {CPU_SVE2, 1, 1},    {CPU_I8MM, 1, 13},    {CPU_BF16, 1, 14},
};

unsigned agq_cpu_found(void) {
  const unsigned long words[2] = {getauxval(AT_HWCAP), getauxval(AT_HWCAP2)};
  unsigned found = 0;
  for (size_t i = 0; i < sizeof capabilities / sizeof *capabilities; i++)
    if (words[capabilities[i].second] >> capabilities[i].bit & 1) found |= capabilities[i].feature;
  return found;
}
#else
unsigned agq_cpu_found(void) { return CPU_ASIMD; } /* no portable way to ask: Armv8.0 */
#endif
#endif
