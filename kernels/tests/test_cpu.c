/* What the library says of this processor against what the system says.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "isa/cpu.h"
#include "test.h"

/* What each level needs, of both architectures, and its score: the numbers that choose a library. */
static const struct {
  const char *level, *needs[12];
  int score;
} levels[] = {
    {"scalar", {0}, 10},
    {"sse41", {"ssse3", "sse4_1"}, 20},
    {"avx2", {"ssse3", "sse4_1", "avx", "avx2", "fma", "f16c"}, 30},
    {"avxvnni", {"ssse3", "sse4_1", "avx", "avx2", "fma", "f16c", "avx_vnni"}, 40},
    {"avx512vnni",
     {"ssse3", "sse4_1", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"},
     50},
    {"neon", {"asimd"}, 20},
    {"dotprod", {"asimd", "atomics", "asimdrdm", "asimddp"}, 30},
    {"i8mm", {"asimd", "atomics", "asimdrdm", "asimddp", "i8mm"}, 40},
};
enum { LEVELS = sizeof levels / sizeof *levels };

static const char *const features[] = {
#define TEXT(name, text) text,
    AGQ_CPU_FEATURES(TEXT)
#undef TEXT
};
enum { FEATURES = sizeof features / sizeof *features };

static int needs(size_t level, const char *feature) {
  for (int i = 0; levels[level].needs[i]; i++)
    if (!strcmp(levels[level].needs[i], feature)) return 1;
  return 0;
}

/* This level's score on CPUs that have all features but one. */
static void without_one(void) {
  size_t level = 0;
  while (level < LEVELS && strcmp(levels[level].level, agq_isa())) level++;
  if (!test_expect(level < LEVELS, "a level that this test knows")) return;
  for (unsigned i = 0; i < FEATURES; i++)
    test_expect(agq_cpu_score_of(~(1u << i)) == (needs(level, features[i]) ? 0 : levels[level].score), features[i]);
}

#if defined(__x86_64__)
/* 1: the words of `list`, which are separated by spaces, hold `word`. */
static int holds(const char *list, const char *word) {
  const size_t n = strlen(word);
  for (const char *p = list; (p = strstr(p, word)); p += n)
    if ((p == list || p[-1] == ' ') && (p[n] == ' ' || p[n] == 0 || p[n] == '\n')) return 1;
  return 0;
}

static void against_the_system(void) {
  static const char *const names[] = {"ssse3",   "sse4_1",   "avx",      "f16c",     "fma",         "avx2",
                                      "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni"};
  static char line[1 << 14];
  FILE *file = fopen("/proc/cpuinfo", "r");
  if (!file) return;
  while (fgets(line, sizeof line, file) && strncmp(line, "flags", 5)) {}
  fclose(file);
  if (strncmp(line, "flags", 5)) return;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    test_expect(holds(line, names[i]) == holds(agq_cpu_features(), names[i]), names[i]);
  for (size_t i = 0; i < LEVELS; i++) {
    if (strcmp(levels[i].level, agq_isa())) continue;
    int can = 1;
    for (int k = 0; levels[i].needs[k]; k++) can &= holds(line, levels[i].needs[k]);
    test_expect(can == (agq_cpu_score() > 0), "a level runs where the system names all that it needs");
  }
}
#else
static void against_the_system(void) {} /* under emulation the system's list is that of another processor */
#endif

int main(void) {
  without_one();
  against_the_system(); /* where the level cannot run, too */
  if (!test_begin()) return test_failures != 0;
  test_expect(agq_abi_version() == AGQ_ABI_VERSION, "the version of the interface");
  test_expect(agq_cpu_score() <= 100 && agq_isa()[0] != 0, "score and name");
  return test_end("cpu");
}
