/* cpu.c: what this library is, and whether this machine runs it. Everything in src/isa is compiled without the level's
 * instructions, so that a program may load a library that the machine cannot run and ask it (agq_cpu_score) whether it
 * may go on.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cpu.h"

#include <stdio.h>

#include "agq.h"
#include "features.h"
#include "levels.h"

static const struct {
  int parent, score;
  unsigned features;
} rows[] = {
    [AGQ_LEVEL_none] = {0},
#define LEVEL(name, architecture, parent, score, features, flags) {AGQ_LEVEL_##parent, score, features},
#include "levels.def"
#undef LEVEL
};

int agq_abi_version(void) { return AGQ_ABI_VERSION; }
const char *agq_isa(void) { return AGQ_ISA_NAME; }

int agq_cpu_score_of(unsigned found) {
  unsigned needed = 0;
  for (int level = AGQ_ISA_LEVEL; level != AGQ_LEVEL_none; level = rows[level].parent) needed |= rows[level].features;
  return (found & needed) == needed ? rows[AGQ_ISA_LEVEL].score : 0;
}
int agq_cpu_score(void) { return agq_cpu_score_of(agq_cpu_found()); }

const char *agq_cpu_features(void) {
  static const char *const names[] = {
#define TEXT(name, text) text,
      AGQ_CPU_FEATURES(TEXT)
#undef TEXT
  };
  static _Thread_local char text[256];
  const unsigned found = agq_cpu_found();
  int at = 0;
  text[0] = 0;
  for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
    if (found >> i & 1) at += snprintf(text + at, sizeof text - (size_t)at, "%s%s", at ? " " : "", names[i]);
  return text;
}

#if !defined(__x86_64__) && !defined(__aarch64__)
unsigned agq_cpu_found(void) { return 0; }
#endif
