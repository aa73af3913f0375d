/* test_formats.c: the rows of the weight formats, their `unpack`, and the kernels that need nothing else of a format.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>

#include "formats/formats.h"
#include "gemm/scalar/kernels.h"
#include "test.h"

/* A format that no row knows: 3 bits, a panel's 32 columns as three planes of 64 bytes. Plane p, byte 4 * r + c / 8,
 * bit c % 8 is bit p of the code in row r, column c. */
static void unpack_u3(const uint8_t *w, int columns, int8_t *codes) {
  for (int first = 0; first < columns; first += 32, w += 192)
    for (int r = 0; r < AGQ_PANEL; r++)
      for (int c = 0; c < 32; c++) {
        int code = 0;
        for (int p = 0; p < 3; p++) code |= (w[64 * p + 4 * r + c / 8] >> (c % 8) & 1) << p;
        codes[(first + c) / 4 * 64 + 4 * r + c % 4] = (int8_t)code;
      }
}
static const agq_format u3 = {.name = "u3",
                              .bits = 3,
                              .integer = 1,
                              .least = 0,
                              .most = 7,
                              .symmetric_zero = 4,
                              .most_zero = 7,
                              .unpack = unpack_u3};

enum { K = 96, ROWS = 20, TOKENS = 3, BLOCKS = K / 32, PANELS = 2 };

/* Panels of random weights with everything that a tile needs. `outer`: 0: one activation scale per token; else blocks
 * of one. */
typedef struct {
  uint8_t w[PANELS * K * AGQ_PANEL];
  float scale[PANELS * BLOCKS * AGQ_PANEL], a_scale[TOKENS * BLOCKS], bias[ROWS];
  int8_t zero[PANELS * BLOCKS * AGQ_PANEL], a[TOKENS * K];
  int32_t sums[BLOCKS * TOKENS];
  agq_tile t;
} problem;

static void make(problem *p, const agq_format *f, int asymmetric, int block, int group_blocks, int act_blocks,
                 float *y) {
  const int blocks = K / block, groups = blocks / group_blocks;
  for (size_t i = 0; i < sizeof p->w; i++) p->w[i] = (uint8_t)random_bits();
  for (int i = 0; i < PANELS * groups * AGQ_PANEL; i++) {
    p->scale[i] = 0.01f + 0.02f * fabsf(random_float());
    p->zero[i] = (int8_t)random_int(f->least_zero, f->most_zero);
  }
  for (int i = 0; i < ROWS; i++) p->bias[i] = random_float();
  for (int i = 0; i < TOKENS * BLOCKS; i++) p->a_scale[i] = 0.01f + 0.02f * fabsf(random_float());
  for (int i = 0; i < TOKENS * K; i++) p->a[i] = (int8_t)random_int(-127, 127);
  for (int b = 0; b < blocks; b++)
    for (int i = 0; i < TOKENS; i++) {
      p->sums[b * TOKENS + i] = 0;
      for (int c = b * block; c < (b + 1) * block; c++)
        p->sums[b * TOKENS + i] += p->a[c / 4 * 4 * TOKENS + 4 * i + c % 4];
    }
  p->t = (agq_tile){.w = p->w,
                    .w_stride = agq_format_bytes(f, K),
                    .scale = p->scale,
                    .scale_stride = (size_t)groups * AGQ_PANEL * sizeof(float),
                    .zero = asymmetric ? p->zero : NULL,
                    .zero_stride = (size_t)groups * AGQ_PANEL,
                    .symmetric = f->symmetric_zero,
                    .panels = PANELS,
                    .block = block,
                    .blocks = blocks,
                    .group_blocks = group_blocks,
                    .width = TOKENS,
                    .a = p->a,
                    .sums = p->sums,
                    .a_scale = p->a_scale,
                    .a_scale_stride = BLOCKS,
                    .act_blocks = act_blocks,
                    .bias = p->bias,
                    .y = y,
                    .ldy = ROWS,
                    .rows = ROWS,
                    .format = f};
}

/* The code in row r of panel p, column c, from its definition in agq.h and above. */
static int code_at(const agq_format *f, const uint8_t *w, int p, int r, int c) {
  w += (size_t)p * agq_format_bytes(f, K);
  if (f->bits == 8) return (int8_t)w[c / 4 * 64 + 4 * r + c % 4];
  if (f->bits == 4) return w[c / 8 * 64 + 4 * r + c % 4] >> (c & 4) & 15;
  if (f->bits == 6) {
    const uint8_t *lines = w + c / 32 * 384 + 4 * r + c % 4;
    const int low = lines[c % 32 / 8 * 64] >> (c & 4) & 15,
              high = lines[256 + c % 32 / 16 * 64] >> (c % 16 / 4 * 2) & 3;
    return (high << 4 | low) - 32;
  }
  int code = 0;
  for (int b = 0; b < 3; b++) code += (w[c / 32 * 192 + 64 * b + 4 * r + c % 32 / 8] >> (c % 8) & 1) << b;
  return code;
}

static double exact(const problem *p, const agq_format *f, int token, int row, double *size) {
  const agq_tile *t = &p->t;
  const int panel = row / AGQ_PANEL, r = row % AGQ_PANEL;
  double y = p->bias[row];
  *size = fabs(y);
  for (int b = 0; b < t->blocks; b++) {
    const size_t at =
        ((size_t)panel * (size_t)(t->blocks / t->group_blocks) + (size_t)(b / t->group_blocks)) * AGQ_PANEL + (size_t)r;
    const int zero = t->zero ? p->zero[at] : f->symmetric_zero;
    const double as = p->a_scale[token * BLOCKS + (t->act_blocks ? b / t->act_blocks : 0)];
    int sum = 0;
    for (int c = b * t->block; c < (b + 1) * t->block; c++)
      sum += (code_at(f, p->w, panel, r, c) - zero) * p->a[c / 4 * 4 * TOKENS + 4 * token + c % 4];
    y += sum * as * p->scale[at];
    *size += abs(sum) * as * p->scale[at];
  }
  return y;
}

/* The kernels of `unpack` alone give what is defined, and the bits of the format's own scalar kernel where there is
 * one. */
static void test_integers(const agq_format *f, agq_tile_fn own) {
  /* Columns of a block; blocks per weight, activation group. */
  static const int groups[][3] = {{32, 1, 0}, {32, 1, 1}, {32, 3, 0}, {32, 3, 1}, {32, 1, 3}, {32, 3, 3}, {96, 1, 0}};
  char what[96];
  for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
    for (int asymmetric = 0; asymmetric < 2; asymmetric++) {
      static problem p;
      float y[TOKENS * ROWS], z[TOKENS * ROWS];
      make(&p, f, asymmetric, groups[g][0], groups[g][1], groups[g][2], y);
      agq_any_tile(&p.t);
      snprintf(what, sizeof what, "%s, groups of %d and %d blocks of %d, asymmetric %d", f->name, groups[g][1],
               groups[g][2], groups[g][0], asymmetric);
      for (int i = 0; i < TOKENS; i++)
        for (int row = 0; row < ROWS; row++) {
          double size;
          const double y_exact = exact(&p, f, i, row, &size);
          test_expect(fabs(y[i * ROWS + row] - y_exact) <= 1e-6 * size, what); /* 2^-24 for each of 14 roundings */
        }
      if (!own) continue;
      p.t.y = z;
      own(&p.t);
      test_expect(!memcmp(y, z, sizeof y), what);
    }
}

/* Float activations: against the format's own scalar kernel. */
static void test_floats(int dtype, agq_float_fn own) {
  static problem p;
  float x[TOKENS * K], y[TOKENS * ROWS], z[TOKENS * ROWS];
  for (int i = 0; i < TOKENS * K; i++) x[i] = random_float();
  for (int k = K; k >= 72; k -= 24) /* 72: the last unit is cut */
    for (int asymmetric = 0; asymmetric < 2; asymmetric++) {
      make(&p, &agq_formats[dtype], asymmetric, 32, k == K ? 1 : 3, 0, y);
      const agq_linear l = {.out_features = ROWS,
                            .in_features = k,
                            .weight_dtype = dtype,
                            .scale_dtype = AGQ_F32,
                            .group_size = k == K ? 32 : 0,
                            .act_bits = 32,
                            .weight = p.w,
                            .scale = p.scale,
                            .zero = p.t.zero,
                            .bias = p.bias};
      agq_float_tile t = {.l = &l, .panels = PANELS, .x = x, .ldx = K, .m = TOKENS, .y = y, .ldy = ROWS};
      agq_any_float(&t);
      t.y = z;
      own(&t);
      test_expect(!memcmp(y, z, sizeof y), agq_formats[dtype].name);
    }
}

static void test_unpack(const agq_format *f) {
  static uint8_t w[K * AGQ_PANEL];
  static int8_t codes[K * AGQ_PANEL];
  for (size_t i = 0; i < sizeof w; i++) w[i] = (uint8_t)random_bits();
  f->unpack(w, K, codes);
  for (int r = 0; r < AGQ_PANEL; r++)
    for (int c = 0; c < K; c++) {
      const int code = codes[c / 4 * 64 + 4 * r + c % 4];
      test_expect(code == code_at(f, w, 0, r, c) && code >= f->least && code <= f->most, f->name);
    }
}

/* Rows that contradict themselves, and the numbers of agq.h. */
static void test_rows(void) {
  test_expect(agq_formats[AGQ_U4].symmetric_zero == 8 && agq_formats[AGQ_I8].symmetric_zero == 0 &&
                  agq_formats[AGQ_I6].symmetric_zero == 0,
              "as agq.h says");
  test_expect(agq_format_of(-1) == NULL && agq_format_of(AGQ_I6 + 1) == NULL, "no row for unknown numbers");
  for (int dtype = AGQ_F32; dtype <= AGQ_I6; dtype++) {
    const agq_format *f = agq_format_of(dtype);
    if (!test_expect(f && f->name && f->floats, "every number of agq.h has a row with kernels for floats")) continue;
    const agq_linear l = {
        .out_features = 40, .in_features = 64, .weight_dtype = dtype, .scale_dtype = AGQ_F32, .act_bits = 32};
    test_expect(agq_linear_weight_bytes(&l) == 48 * 64 * f->bits / 8, f->name);
    test_expect(agq_linear_scale_bytes(&l) == (f->integer ? 48 * 4 : 0), f->name);
    if (!f->integer) continue;
    test_expect(f->unpack && f->many[0] && f->many[1] && f->one[0] && f->one[1], f->name);
    test_expect(f->most - f->least + 1 == 1 << f->bits && f->symmetric_zero >= f->least_zero &&
                    f->symmetric_zero <= f->most_zero,
                f->name);
    test_unpack(f);
  }
}

int main(void) {
  if (!test_begin()) return 0;
  test_rows();
  test_unpack(&u3);
  test_integers(&agq_formats[AGQ_U4], agq_scalar_u4);
  test_integers(&agq_formats[AGQ_I8], agq_scalar_i8);
  test_integers(&agq_formats[AGQ_I6], agq_bytes_scalar);
  test_integers(&u3, NULL);
  test_floats(AGQ_U4, agq_scalar_float_u4);
  test_floats(AGQ_I8, agq_scalar_float_i8);
  return test_end("formats");
}
