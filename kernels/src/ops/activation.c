/* SPDX-License-Identifier: Apache-2.0 */
#include "ops.h"
#include "vmath.h"

VINLINE vf apply(int kind, vf x) {
  if (kind == AGQ_ACTIVATION_GELU_TANH) return vgelu_tanh(x);
  if (kind == AGQ_ACTIVATION_GELU_ERF) return vgelu_erf(x);
  return vmax(vset(0), x);
}

VINLINE void apply_row(int kind, float *x, int n) {
  int i = 0;
  for (; i + VW <= n; i += VW) vstore(x + i, apply(kind, vload(x + i)));
  if (i < n) vstore_n(x + i, apply(kind, vload_n(x + i, n - i)), n - i);
}

void agq_activate_row(int kind, float *x, int n) {
  if (kind == AGQ_ACTIVATION_GELU_TANH) apply_row(AGQ_ACTIVATION_GELU_TANH, x, n);
  else if (kind == AGQ_ACTIVATION_GELU_ERF) apply_row(AGQ_ACTIVATION_GELU_ERF, x, n);
  else apply_row(AGQ_ACTIVATION_RELU, x, n);
}

VINLINE vf gate_function(int kind, vf x) {
  if (kind == AGQ_ACTIVATION_GELU_TANH_GATED) return vgelu_tanh(x);
  if (kind == AGQ_ACTIVATION_GELU_ERF_GATED) return vgelu_erf(x);
  return vsilu(x);
}

VINLINE void gate_row(int kind, const float *gate, const float *up, float *y, int n) {
  int i = 0;
  for (; i + VW <= n; i += VW) vstore(y + i, gate_function(kind, vload(gate + i)) * vload(up + i));
  if (i < n) vstore_n(y + i, gate_function(kind, vload_n(gate + i, n - i)) * vload_n(up + i, n - i), n - i);
}

void agq_gate_row(int kind, const float *gate, const float *up, float *y, int n) {
  if (kind == AGQ_ACTIVATION_GELU_TANH_GATED) gate_row(AGQ_ACTIVATION_GELU_TANH_GATED, gate, up, y, n);
  else if (kind == AGQ_ACTIVATION_GELU_ERF_GATED) gate_row(AGQ_ACTIVATION_GELU_ERF_GATED, gate, up, y, n);
  else gate_row(AGQ_ACTIVATION_SILU_GATED, gate, up, y, n);
}

void agq_cap_row(float *x, float factor, float cap, int n) {
  const vf f = vset(factor), c = vset(cap), inverse = vset(cap > 0 ? 1 / cap : 0);
  for (int i = 0; i < n; i += VW) {
    vf v = (n - i < VW ? vload_n(x + i, n - i) : vload(x + i)) * f;
    if (cap > 0) v = vcap(v, c, inverse);
    if (n - i < VW) vstore_n(x + i, v, n - i);
    else vstore(x + i, v);
  }
}
