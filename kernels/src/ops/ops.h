/* ops.h: everything of the forward pass that is neither a matrix product nor attention, one row (token) at a time.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_OPS_H
#define AGQ_OPS_H

#include "agq.h"

/* y = norm(x) over n features; y may be x. RMS: w x / sqrt(mean(x^2) + eps) (+ b); layer: mean removed first. NONE
 * copies. */
void agq_norm_row(int kind, const agq_norm *norm, float eps, const float *x, float *y, int n);

/* y = a + b; y may be a or b. */
void agq_add_row(const float *a, const float *b, float *y, int n);
/* y = a + factor * b, the product rounded first; y may be a or b. */
void agq_add_scaled_row(const float *a, const float *b, float factor, float *y, int n);
/* x *= factor, then x = cap * tanh(x / cap) where cap is not 0. */
void agq_cap_row(float *x, float factor, float cap, int n);

/* The kind is one of agq_gate_row. */
static inline int agq_gated(int kind) {
  return kind == AGQ_ACTIVATION_SILU_GATED || kind == AGQ_ACTIVATION_GELU_TANH_GATED ||
         kind == AGQ_ACTIVATION_GELU_ERF_GATED;
}
/* x = f(x): AGQ_ACTIVATION_RELU, _GELU_TANH or _GELU_ERF. */
void agq_activate_row(int kind, float *x, int n);
/* y = f(gate) * up of a gated kind; y may be gate. */
void agq_gate_row(int kind, const float *gate, const float *up, float *y, int n);

/* Bytes of an element of a float type; 0 for any other. */
int agq_float_bytes(int dtype);
/* y = x[n] of AGQ_F32, F16 or BF16 as float. */
void agq_to_float_row(int dtype, const void *x, float *y, int n);
/* y[i] = x[i] * scale[row][i / group] for i < n; group 0: one scale per row. */
void agq_scaled_row(const int8_t *x, const float *scale, size_t row, int group, float *y, int n);
/* y[in_features] = row `row` of a matrix in layout rl16, dequantized. */
void agq_panel_row(const agq_linear *l, int row, float *y);

/* cos and sin of position * inv_freq[i] (a float32 product, as transformers computes it), times `scaling`; half = turned
 * channels / 2. */
void agq_rope_table(const float *inv_freq, float scaling, int position, float *cosines, float *sines, int half);
/* 1: every x[i] is finite. */
int agq_finite_row(const float *x, int n);

/* Rotates pairs (i, i + half) of x[n], i < half; channels from 2 * half on stay. y may be x. */
void agq_rope_row(const float *x, const float *cosines, const float *sines, float *y, int half, int n);

/* y = the orthonormal Walsh-Hadamard transform (natural order) of every `block` of x[n]; block is a power of 2 that
 * divides n; y may be x. Butterflies (a, b) -> (a + b, a - b) from neighbours to halves, then one product with float(1
 * / sqrt(block)). */
void agq_hadamard_row(const float *x, float *y, int n, int block);

/* scale = amax / 127, codes = clamp(rint(x * 127 / amax)); 0 for a row of zeros. Returns the scale, which is not finite
 * where a value is not (codes 0). codes[i * stride]. */
float agq_quantize_head(const float *x, int8_t *codes, int n, int stride);

#endif
