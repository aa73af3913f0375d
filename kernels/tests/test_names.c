/* test_names.c: the names of all kernels of this level against the grammar that gemm.h states, and against their slots.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <ctype.h>

#include "gemm/gemm.h"
#include "isa/features.h"
#include "test.h"

static const struct {
  const char *name, *parent;
} levels[] = {
#define LEVEL(name, architecture, parent, score, features, flags) {#name, #parent},
#include "isa/levels.def"
#undef LEVEL
};

/* 1: `level` is this library's, or an ancestor of it. */
static int in_chain(const char *level) {
  for (const char *at = AGQ_ISA_NAME; at;) {
    const char *parent = NULL;
    if (!strcmp(at, level)) return 1;
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
      if (!strcmp(at, levels[i].name)) parent = levels[i].parent;
    at = parent;
  }
  return 0;
}

/* Takes the word that stands at *text, or gives 0. */
static int word(const char **text, const char *expected) {
  const size_t n = strlen(expected);
  if (strncmp(*text, expected, n)) return 0;
  *text += n;
  return 1;
}

/* A number without leading zeros; 0: none. */
static int number(const char **text) {
  int n = 0;
  if (**text == '0') return 0;
  while (isdigit((unsigned char)**text)) n = 10 * n + *(*text)++ - '0';
  return n;
}

/* <weights><activations>_<rows>x<tokens>_<level>, of these weights and activations. */
static int parse(const char *name, const char *weights, const char *activations, int *rows, int *tokens) {
  return word(&name, weights) && word(&name, activations) && word(&name, "_") && (*rows = number(&name)) &&
         word(&name, "x") && (*tokens = number(&name)) && word(&name, "_") && in_chain(name);
}

static void check(const char *name, const char *weights, const char *activations, int most) {
  int rows = 0, tokens = 0;
  char what[160];
  snprintf(what, sizeof what, "%s: not %s x %s, <rows>x<tokens>, a level of %s, at most %d tokens", name, weights,
           activations, AGQ_ISA_NAME, most);
  test_expect(name && parse(name, weights, activations, &rows, &tokens) && rows % 4 == 0 && tokens <= most, what);
}

static void check_table(const agq_kernel_table *kt) {
  const struct {
    const agq_kernel *kernel;
    const char *weights, *activations;
    int one; /* takes one token only */
  } integers[] = {{&kt->u4a8, "u4", "s8", 0},    {&kt->u4a4, "u4", "s4", 0},    {&kt->i8a8, "i8", "s8", 0},
                  {&kt->i8a4, "i8", "s4", 0},    {&kt->u4a8_m1, "u4", "s8", 1}, {&kt->u4a4_m1, "u4", "s4", 1},
                  {&kt->i8a8_m1, "i8", "s8", 1}, {&kt->i8a4_m1, "i8", "s4", 1}, {&kt->packed4, "u4", "u4", 0},
                  {&kt->any, "any", "s8", 0},    {&kt->bytes, "bytes", "s8", 0}};
  for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
    const agq_kernel *k = integers[i].kernel;
    check(k->name, integers[i].weights, integers[i].activations, k->mr);
    test_expect(k->run && k->mr >= 1 && k->mr <= AGQ_MAX_MR && k->step >= 1 && k->accumulator, k->name);
    test_expect(integers[i].one ? k->mr == 1 : k->mr >= kt->mr, k->name);
  }
  const struct {
    const agq_float_kernel *kernel;
    const char *weights;
  } floats[] = {{&kt->f32, "f32"}, {&kt->f16, "f16"}, {&kt->bf16, "bf16"},
                {&kt->u4, "u4"},   {&kt->i8, "i8"},   {&kt->any_float, "any"}};
  for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
    check(floats[i].kernel->name, floats[i].weights, "f32", 64);
    test_expect(floats[i].kernel->run != NULL, floats[i].weights);
  }
  test_expect(kt->quantize_row && kt->quantize_static && kt->sum_blocks, "functions of the table");
}

/* The parser itself. */
static void test_parser(void) {
  int rows, tokens;
  const char *good = AGQ_NAME("u4", "s8", "32x12", "scalar");
  test_expect(parse(good, "u4", "s8", &rows, &tokens) && rows == 32 && tokens == 12, good);
  static const char *const bad[] = {"u4s8_m1_scalar",           "u4s8_scalar",       "u4s8_32x12_avx3",
                                    "u4s8_032x12_scalar",       "u4s4_32x12_scalar", "u4s8_32x12",
                                    "u4s8_32x12_scalar_packed", "i8s8_32x12_scalar", "u4_s8_32x12_scalar"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) test_expect(!parse(bad[i], "u4", "s8", &rows, &tokens), bad[i]);
}

int main(void) {
  test_parser();
  check_table(&agq_kernels_native);
  check_table(&agq_kernels_scalar);
  test_expect(!strcmp(agq_kernels_native.isa, agq_isa()) && !strcmp(agq_isa(), AGQ_ISA_NAME), "the table's level");
  return test_end("names");
}
