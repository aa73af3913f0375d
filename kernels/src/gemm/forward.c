/* forward.c: single products for tests and benchmarks (agq_linear_forward, agq_quantize_activations of agq.h).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "linear.h"
#include "quantize.h"
#include "shape.h"
#include "threads/pool.h"

typedef struct {
  const agq_kernel_table *kt;
  const agq_linear *l;
  agq_act act;
  const float *x;
  float *y;
  int m;
  int8_t *rows; /* one scratch row per thread */
} product;

static const agq_kernel_table *table(int scalar) { return scalar ? &agq_kernels_scalar : &agq_kernels_native; }

static void *allocate(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64 + 64); }

static void quantize_task(void *arg, int thread, int begin, int end) {
  product *p = arg;
  agq_act_quantize(&p->act, p->kt, p->l, p->x, (size_t)p->l->in_features, begin, end,
                   p->rows + (size_t)thread * p->act.k_padded);
}

static void product_task(void *arg, int thread, int begin, int end) {
  (void)thread;
  product *p = arg;
  agq_linear_run(p->kt, p->l, &p->act, p->x, (size_t)p->l->in_features, p->m, p->y, (size_t)p->l->out_features, begin,
                 end);
}

int agq_linear_forward(const agq_linear *l, const float *x, int m, float *y, int threads, int scalar) {
  int status = agq_linear_check(l);
  if (status != AGQ_OK) return status;
  if (m < 1 || threads < 1) return AGQ_ERR_ARGUMENT;
  product p = {.kt = table(scalar), .l = l, .x = x, .y = y, .m = m};
  agq_pool *pool = agq_pool_create(threads);
  if (!pool) return AGQ_ERR_MEMORY;
  void *workspace = 0;
  if (l->act_bits != 32) {
    workspace = allocate(agq_act_workspace(l, m));
    p.rows = allocate((size_t)threads * agq_pad32(l->in_features));
    if (!workspace || !p.rows) status = AGQ_ERR_MEMORY;
  }
  if (status == AGQ_OK) {
    if (l->act_bits != 32) {
      agq_act_init(&p.act, p.kt, l, m, workspace);
      agq_pool_run(pool, quantize_task, &p, agq_act_token_panels(&p.act), 1);
    }
    /* A few chunks per thread even out their speeds; a multiple of 4 panels suits every kernel. */
    const int panels = agq_panels(l->out_features), chunk = (panels / (4 * threads) + 3) / 4 * 4;
    agq_pool_run(pool, product_task, &p, panels, threads == 1 ? panels : chunk ? chunk : 4);
  }
  agq_pool_destroy(pool);
  free(p.rows);
  free(workspace);
  return status;
}

int agq_quantize_activations(const agq_linear *l, const float *x, int m, int8_t *codes, float *scales, int scalar) {
  agq_shape s;
  int status = agq_linear_shape(l, &s);
  if (status != AGQ_OK) return status;
  if (m < 1 || !s.integer) return AGQ_ERR_ARGUMENT;
  const int k = l->in_features, k_padded = agq_pad32(k);
  int8_t *row = allocate((size_t)k_padded);
  if (!row) return AGQ_ERR_MEMORY;
  const agq_static fixed = l->act_static ? agq_static_of(l) : (agq_static){0};
  for (int i = 0; i < m; i++) {
    if (l->act_static) {
      table(scalar)->quantize_static(x + (size_t)i * k, k, k_padded, &fixed, row);
      scales[i] = l->act_scale;
    } else table(scalar)->quantize_row(x + (size_t)i * k, k, k_padded, l->act_bits, l->act_group, l->act_symmetric, row,
                                scales + (size_t)i * s.act_scales);
    for (int c = 0; c < k; c++) codes[(size_t)i * k + c] = row[c];
  }
  free(row);
  return AGQ_OK;
}
