/* linear.h: from a descriptor and rows of floats to kernel calls. A linear is prepared once; everything after that can
 * be cut into ranges and given to threads, and nothing allocates.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_LINEAR_H
#define AGQ_LINEAR_H

#include "formats/formats.h"
#include "gemm.h"
#include "shape.h"

/* One way to quantize the input of a linear, and what follows from it. */
typedef struct {
  int bits, group, symmetric; /* act_bits, act_group, act_symmetric of agq.h */
  float clip;                 /* above 0 */
  agq_shape shape;
  const agq_kernel *one, *many; /* for one token, for several; NULL: float activations */
} agq_scheme;

/* A linear with all that is derived from it: sizes, kernels, constants of its quantizers. Holds no memory of its
 * own. */
typedef struct {
  agq_linear l;
  const agq_format *format; /* of the weights */
  const agq_kernel_table *kernels;
  agq_scheme own;                 /* as `l` says */
  agq_scheme eight;               /* of sink tokens; set with `sinks` where `l` has dynamic 4-bit activations */
  const agq_float_kernel *floats; /* for float activations */
  agq_static fixed;               /* for static activations */
  agq_linear minimum;             /* minima as float weights whose columns are the groups; out_features 0: none */
  const agq_float_kernel *minimum_floats;
} agq_prepared;

/* Fills `p` for kernels of `kt`. sinks: sink tokens go through it, too. AGQ_OK, or as agq_linear_shape; whether the
 * tensors are there and large enough is agq_linear_check's to say. */
int agq_linear_prepare(agq_prepared *p, const agq_kernel_table *kt, const agq_linear *l, int sinks);
/* Weight panels [begin, end) as a linear of their own. */
agq_prepared agq_linear_slice(const agq_prepared *p, int begin, int end);

/* `l` on the same weights with 8-bit activations, symmetric, per token and without clip: the linear that sink tokens go
 * through. */
agq_linear agq_eight_bits(const agq_linear *l);
static inline int agq_dynamic_four_bits(const agq_linear *l) { return l->act_bits == 4 && !l->act_static; }

/* ---- activations (activations.c) */

/* Bytes of workspace (64-byte aligned parts) for the activations of up to m tokens of this linear. Float activations:
 * the moved rows and sums of groups, 0 without either. */
size_t agq_act_workspace(const agq_prepared *p, int m);
/* Bytes of scratch (64-byte aligned) that agq_act_quantize wants per thread. */
size_t agq_act_scratch(const agq_prepared *p);

/* Lays `a` out in `workspace` for m tokens. */
void agq_act_init(agq_act *a, const agq_prepared *p, int m, void *workspace);
/* 1: rows of the input are put into another order or transformed before anything else. */
static inline int agq_act_moves(const agq_linear *l) { return l->input_order || l->hadamard; }
static inline int agq_act_token_panels(const agq_act *a) {
  return a->panels ? a->panel_count : (a->m + a->mr - 1) / a->mr;
}
static inline agq_token_panel agq_act_panel(const agq_act *a, int panel) {
  if (a->panels) return a->panels[panel];
  const int first = panel * a->mr, rest = a->m - first;
  return (agq_token_panel){first, rest < a->mr ? rest : a->mr, 0};
}
/* After agq_act_init, for a linear prepared with `sinks` that has dynamic 4-bit activations: tokens whose position[m]
 * is below `sinks` will have 8 bits. Uses panels[m] if there are any. Needs no more workspace: blocks do not get
 * shorter with one scale per token. */
void agq_act_sinks(agq_act *a, const agq_prepared *p, const int32_t *position, int sinks, agq_token_panel *panels);

/* Moves and quantizes token panels [begin, end) of x[m][ldx]. `scratch`: the calling thread's agq_act_scratch
 * bytes. */
void agq_act_quantize(agq_act *a, const agq_prepared *p, const float *x, size_t ldx, int begin, int end, void *scratch);
/* 1: float activations that agq_act_floats has something to do for. */
static inline int agq_act_needs_floats(const agq_prepared *p) {
  return !p->own.shape.integer && (agq_act_moves(&p->l) || p->l.minimum);
}
/* Of float activations, tokens [begin, end) of x[m][ldx]: moves them to a->rows, makes a->groups with minima. */
void agq_act_floats(agq_act *a, const agq_prepared *p, const float *x, size_t ldx, int begin, int end);

/* y[t][row] for all tokens and weight panels [begin, end). Integer activations and sums of groups come from `a`,
 * floats from x. */
void agq_linear_run(const agq_prepared *p, const agq_act *a, const float *x, size_t ldx, int m, float *y, size_t ldy,
                    int begin, int end);

#endif
