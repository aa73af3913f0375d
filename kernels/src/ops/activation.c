/* SPDX-License-Identifier: Apache-2.0 */
#include "ops.h"
#include "vmath.h"

VINLINE vf apply(int kind, vf x) {
  if (kind == AGQ_ACTIVATION_GELU_TANH) return vgelu_tanh(x);
  if (kind == AGQ_ACTIVATION_GELU_ERF) return vgelu_erf(x);
  return vmax(x, vset(0));
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

void agq_silu_gate_row(const float *gate, const float *up, float *y, int n) {
  int i = 0;
  for (; i + VW <= n; i += VW) vstore(y + i, vsilu(vload(gate + i)) * vload(up + i));
  if (i < n) vstore_n(y + i, vsilu(vload_n(gate + i, n - i)) * vload_n(up + i, n - i), n - i);
}
