/* cpu.c: what this library is. Everything in src/isa is compiled without the level's instructions, so that a program may load a
 * library that the machine cannot run and ask it (agq_cpu_score) whether it may go on.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "agq.h"

int agq_abi_version(void) { return AGQ_ABI_VERSION; }
const char *agq_isa(void) { return AGQ_ISA_NAME; }

#if !defined(__x86_64__) && !defined(__aarch64__)
int agq_cpu_score(void) { return 1; }
const char *agq_cpu_features(void) { return ""; }
#endif
