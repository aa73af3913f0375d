/* linear.h: from a descriptor and rows of floats to kernel calls. Everything here can be cut into ranges and given to threads;
 * nothing allocates. */
#ifndef AGQ_LINEAR_H
#define AGQ_LINEAR_H

#include "gemm.h"

/* Bytes of workspace (64-byte aligned parts) for the activations of up to m tokens of this linear. Float activations: the
 * transformed rows, 0 without `hadamard`. */
size_t agq_act_workspace(const agq_linear *l, int m);
/* Bytes of scratch (64-byte aligned) that agq_act_quantize wants per thread. */
size_t agq_act_scratch(const agq_linear *l);

/* Lays `a` out in `workspace` for m tokens. Two linears may share `a` if agq_act_compatible says so. */
void agq_act_init(agq_act *a, const agq_kernel_table *kt, const agq_linear *l, int m, void *workspace);
int agq_act_compatible(const agq_linear *p, const agq_linear *q);
int agq_act_token_panels(const agq_act *a);
agq_token_panel agq_act_panel(const agq_act *a, int panel);

/* `l` on the same weights with 8-bit activations, symmetric, per token and without clip: the linear that sink tokens go through. */
agq_linear agq_eight_bits(const agq_linear *l);
static inline int agq_dynamic_four_bits(const agq_linear *l) { return l->act_bits == 4 && !l->act_static; }
/* After agq_act_init, for an `l` with dynamic 4-bit activations: tokens whose position[m] is below `sinks` will have 8 bits. Uses
 * panels[m] if there are any. Needs no more workspace: blocks do not get shorter with one scale per token. */
void agq_act_sinks(agq_act *a, const agq_kernel_table *kt, const int32_t *position, int sinks, agq_token_panel *panels);

/* Transforms and quantizes token panels [begin, end) of x[m][ldx]. `scratch`: the calling thread's agq_act_scratch bytes. */
void agq_act_quantize(agq_act *a, const agq_kernel_table *kt, const agq_linear *l, const float *x, size_t ldx, int begin, int end,
                      void *scratch);
/* Float activations with `hadamard`: transforms tokens [begin, end) of x[m][ldx] to rows[m][in_features]. */
void agq_act_rotate(const agq_linear *l, const float *x, size_t ldx, int begin, int end, float *rows);

/* y[t][row] for all tokens and weight panels [begin, end). Integer linears take `a`; float ones (act_bits 32) take x. */
void agq_linear_run(const agq_kernel_table *kt, const agq_linear *l, const agq_act *a, const float *x, size_t ldx, int m, float *y,
                    size_t ldy, int begin, int end);

#endif
