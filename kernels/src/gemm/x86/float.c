/* float.c: float activations (unquantized, W4A16 and W8A16 models). A chunk of columns is converted to float32 once
 * in L1 and multiplied by a batch of tokens, whose accumulators lie in L1 between chunks; see gemm.h for the order of
 * the sums.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "vec.h"

#if defined(AGQ_HAS_X86)
#include "kernels.h"
#include "formats/formats.h"

#define CHUNK 64                /* columns */
#define BATCH 32                /* tokens whose accumulators are held */
#define TOKENS AGQ_FLOAT_TOKENS /* register tile: TOKENS x RV vectors of rows */
#define RV (AGQ_FLOAT_ROWS / AGQ_VL)
#define PANELS (AGQ_VB == 64 ? 2 : 1)
/* agq_formats[dtype].integer, written so that the compiler sees it before it inlines. */
#define CODED(dtype) ((dtype) == AGQ_U4 || (dtype) == AGQ_I8)
#define ONE_PANELS (4 * PANELS) /* panels side by side for one token */

/* c[W][R vectors] += w[columns][stride floats] * x[token][column], columns ascending. `acc` is [token][acc_stride
 * vectors]. */
INLINE void multiply(const int R, const int W, const float *w, int stride, int columns, const float *x, size_t ldx,
                     vf *acc, int acc_stride) {
  vf c[RV][TOKENS];
#pragma GCC unroll 8
  for (int t = 0; t < W; t++)
#pragma GCC unroll 2
    for (int i = 0; i < R; i++) c[i][t] = acc[t * acc_stride + i];
  for (int k = 0; k < columns; k++, w += stride) {
    vf v[RV];
#pragma GCC unroll 2
    for (int i = 0; i < R; i++) v[i] = vf_load(w + i * AGQ_VL);
#pragma GCC unroll 8
    for (int t = 0; t < W; t++) {
      const vf b = vf_set(x[t * ldx + k]);
#pragma GCC unroll 2
      for (int i = 0; i < R; i++) c[i][t] = vf_madd(v[i], b, c[i][t]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < W; t++)
#pragma GCC unroll 2
    for (int i = 0; i < R; i++) acc[t * acc_stride + i] = c[i][t];
}

INLINE void multiply_any(const int R, int width, const float *w, int stride, int columns, const float *x, size_t ldx,
                         vf *acc, int acc_stride) {
  switch (width) {
    case 1: multiply(R, 1, w, stride, columns, x, ldx, acc, acc_stride); break;
    case 2: multiply(R, 2, w, stride, columns, x, ldx, acc, acc_stride); break;
    case 3: multiply(R, 3, w, stride, columns, x, ldx, acc, acc_stride); break;
#if TOKENS > 3
    case 4: multiply(R, 4, w, stride, columns, x, ldx, acc, acc_stride); break;
    case 5: multiply(R, 5, w, stride, columns, x, ldx, acc, acc_stride); break;
    case 6: multiply(R, 6, w, stride, columns, x, ldx, acc, acc_stride); break;
#endif
#if TOKENS > 6
    case 7: multiply(R, 7, w, stride, columns, x, ldx, acc, acc_stride); break;
    case 8: multiply(R, 8, w, stride, columns, x, ldx, acc, acc_stride); break;
#endif
  }
}

/* One token: N vectors of rows side by side, so that the adders' latency is hidden. */
INLINE void multiply_one(const int N, const float *w, int stride, int columns, const float *x, vf *acc) {
  vf c[16];
#pragma GCC unroll 16
  for (int i = 0; i < N; i++) c[i] = acc[i];
  for (int k = 0; k < columns; k++, w += stride) {
    const vf b = vf_set(x[k]);
#pragma GCC unroll 16
    for (int i = 0; i < N; i++) c[i] = vf_madd(vf_load(w + i * AGQ_VL), b, c[i]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; i++) acc[i] = c[i];
}

INLINE vf load_float(const void *w, size_t at, const int dtype) {
  return dtype == AGQ_F32    ? vf_load((const float *)w + at)
         : dtype == AGQ_BF16 ? vf_load_bf16((const uint16_t *)w + at)
                             : vf_load_f16((const uint16_t *)w + at);
}

/* One token times panels [panel, panel + P) of floats, which are used as they lie. */
INLINE void floats_one(const agq_linear *l, const int dtype, int panel, const int P, const float *x, vf *f) {
  const size_t k = (size_t)l->in_features, bytes = dtype == AGQ_F32 ? 4 : 2;
  const char *w = (const char *)l->weight + (size_t)panel * k * AGQ_PANEL * bytes;
  vf c[ONE_PANELS * AGQ_NV];
#pragma GCC unroll 16
  for (int i = 0; i < P * AGQ_NV; i++) c[i] = vf_zero();
  for (size_t at = 0; at < k; at++, w += AGQ_PANEL * bytes) {
    const vf b = vf_set(x[at]);
#pragma GCC unroll 16
    for (int i = 0; i < P * AGQ_NV; i++)
      c[i] = vf_madd(load_float(w + (size_t)(i / AGQ_NV) * k * AGQ_PANEL * bytes, (size_t)(i % AGQ_NV * AGQ_VL), dtype),
                     b, c[i]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < P * AGQ_NV; i++) f[i] = c[i];
}

/* Columns [column, column + n) of one panel to float32, `to` advancing by `stride` floats per column. U4 and I8: code -
 * zero. */
INLINE void convert(const agq_linear *l, const int dtype, int panel, int column, int n, const vf *zero, float *to,
                    int stride) {
  const size_t k = (size_t)l->in_features, first = ((size_t)panel * k + column) * AGQ_PANEL;
  const agq_format *format = &agq_formats[dtype];
  if (CODED(dtype)) {
    const int per_unit = agq_format_unit(format);
    const uint8_t *w = (const uint8_t *)l->weight + (size_t)panel * agq_pad32(l->in_features) * 64 / per_unit;
    /* Groups and chunks start at multiples of a unit; only the end of a row may cut one. */
    for (int c = 0; c < n; c += per_unit) {
      const uint8_t *unit = w + (size_t)(column + c) / per_unit * 64;
#pragma GCC unroll 4
      for (int i = 0; i < AGQ_NV; i++) {
        const vi v = vi_load(unit + i * AGQ_VB);
#pragma GCC unroll 8
        for (int j = 0; j < per_unit; j++) {
          if (c + j >= n) break;
          const vi code = format->bits == 4 ? vi_and(vi_shr32(v, 8 * (j & 3) + (j & 4)), vi_set32(15))
                                            : vi_sra32(vi_shl32(v, 24 - 8 * j), 24);
          vf_store(to + (size_t)(c + j) * stride + i * AGQ_VL, vf_sub(vf_from_int(code), zero[i]));
        }
      }
    }
    return;
  }
  for (int c = 0; c < n; c++)
#pragma GCC unroll 4
    for (int i = 0; i < AGQ_NV; i++) {
      const vf v = load_float(l->weight, first + (size_t)c * AGQ_PANEL + i * AGQ_VL, dtype);
      vf_store(to + (size_t)c * stride + i * AGQ_VL, v);
    }
}

static void write_out(const agq_float_tile *t, int token, int tokens, int panel, int vectors, const vf *f, int stride) {
  const int row0 = panel * AGQ_PANEL;
  for (int i = 0; i < tokens; i++) {
    const float *addend = agq_float_addend(t, token + i);
    for (int v = 0; v < vectors; v++) {
      const int row = row0 + v * AGQ_VL, rows = t->l->out_features - row;
      if (rows <= 0) break;
      vf r = f[i * stride + v];
      if (addend) r = vf_add(r, vf_load_rows(addend + row, rows));
      vf_store_rows(t->y + (token + i) * t->ldy + row, r, rows);
    }
  }
}

/* Panels [panel, panel + P) times tokens [token, token + tokens), tokens <= BATCH. */
INLINE void float_panels(const agq_float_tile *t, const int dtype, int panel, const int P, int token, int tokens) {
  const agq_linear *l = t->l;
  const int k = l->in_features, coded = CODED(dtype), vectors = P * AGQ_NV, R = vectors < RV ? vectors : RV;
  const int group = coded && l->group_size ? l->group_size : k, groups = k / group;
  const float *x = t->x + token * t->ldx;
  _Alignas(64) float w[CHUNK * ONE_PANELS * AGQ_PANEL];
  vf f[BATCH * PANELS * AGQ_NV > ONE_PANELS * AGQ_NV ? BATCH * PANELS * AGQ_NV : ONE_PANELS * AGQ_NV];
  vf part[sizeof f / sizeof f[0]];
  vf zero[ONE_PANELS * AGQ_NV];
  if (!coded && tokens == 1) {
    floats_one(l, dtype, panel, P, x, f);
    write_out(t, token, tokens, panel, vectors, f, vectors);
    return;
  }
  for (int i = 0; i < tokens * vectors; i++) f[i] = vf_zero();
  for (int g = 0; g < groups; g++) {
    vf *sum = f;
    if (coded) {
      sum = part;
      for (int i = 0; i < tokens * vectors; i++) part[i] = vf_zero();
      for (int i = 0; i < vectors; i++) {
        const size_t at = ((size_t)(panel + i / AGQ_NV) * groups + g) * AGQ_PANEL + i % AGQ_NV * AGQ_VL;
        zero[i] = l->zero ? vf_from_int(vi_from_s8(l->zero + at)) : vf_set((float)agq_symmetric_zero(l));
      }
    }
    for (int c = g * group; c < (g + 1) * group; c += CHUNK) {
      const int n = (g + 1) * group - c < CHUNK ? (g + 1) * group - c : CHUNK;
      for (int p = 0; p < P; p++)
        convert(l, dtype, panel + p, c, n, zero + p * AGQ_NV, w + p * AGQ_PANEL, P * AGQ_PANEL);
      if (tokens == 1) {
        multiply_one(P * AGQ_NV, w, P * AGQ_PANEL, n, x + c, sum);
      } else {
        for (int i = 0; i < tokens; i += TOKENS)
          for (int v = 0; v < vectors; v += R)
            multiply_any(R, tokens - i < TOKENS ? tokens - i : TOKENS, w + v * AGQ_VL, P * AGQ_PANEL, n,
                         x + i * t->ldx + c, t->ldx, sum + i * vectors + v, vectors);
      }
    }
    if (coded)
      for (int v = 0; v < vectors; v++) {
        const size_t at = ((size_t)(panel + v / AGQ_NV) * groups + g) * AGQ_PANEL + v % AGQ_NV * AGQ_VL;
        const vf scale = vf_load_scale(l->scale, at, l->scale_dtype);
        for (int i = 0; i < tokens; i++) f[i * vectors + v] = vf_madd(part[i * vectors + v], scale, f[i * vectors + v]);
      }
  }
  write_out(t, token, tokens, panel, vectors, f, vectors);
}

INLINE void run(const agq_float_tile *t, const int dtype) {
  const int end = t->panel + t->panels;
  int p = t->panel;
  if (t->m == 1) {
    for (; p + ONE_PANELS <= end; p += ONE_PANELS) float_panels(t, dtype, p, ONE_PANELS, 0, 1);
    for (; p < end; p++) float_panels(t, dtype, p, 1, 0, 1);
    return;
  }
  for (; p < end;) {
    const int n = p + PANELS <= end ? PANELS : 1;
    for (int i = 0; i < t->m; i += BATCH) {
      const int tokens = t->m - i < BATCH ? t->m - i : BATCH;
      if (n == PANELS) float_panels(t, dtype, p, PANELS, i, tokens);
      else float_panels(t, dtype, p, 1, i, tokens);
    }
    p += n;
  }
}

void agq_x86_f32(const agq_float_tile *t) { run(t, AGQ_F32); }
void agq_x86_f16(const agq_float_tile *t) { run(t, AGQ_F16); }
void agq_x86_bf16(const agq_float_tile *t) { run(t, AGQ_BF16); }
void agq_x86_u4(const agq_float_tile *t) { run(t, AGQ_U4); }
void agq_x86_i8(const agq_float_tile *t) { run(t, AGQ_I8); }
#endif
