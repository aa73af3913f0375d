/* api.c: single products for tests and benchmarks (agq_linear_forward, agq_quantize_activations of agq.h).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "linear.h"
#include "threads/pool.h"

typedef struct {
  agq_prepared linear;
  agq_act act;
  const float *x;
  float *y;
  int m;
  char *scratch; /* agq_act_scratch bytes per thread */
} product;

static const agq_kernel_table *table(int scalar) { return scalar ? &agq_kernels_scalar : &agq_kernels_native; }

static void *allocate(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64 + 64); }

static void quantize_task(void *arg, int thread, int begin, int end) {
  product *p = arg;
  agq_act_quantize(&p->act, &p->linear, p->x, (size_t)p->linear.l.in_features, begin, end,
                   p->scratch + (size_t)thread * agq_act_scratch(&p->linear));
}

static void product_task(void *arg, int thread, int begin, int end) {
  (void)thread;
  product *p = arg;
  agq_linear_run(&p->linear, &p->act, p->x, (size_t)p->linear.l.in_features, p->m, p->y,
                 (size_t)p->linear.l.out_features, begin, end);
}

int agq_linear_forward(const agq_linear *l, const float *x, int m, float *y, int threads, int scalar) {
  int status = agq_linear_check(l);
  if (status != AGQ_OK) return status;
  if (m < 1 || threads < 1) return AGQ_ERR_ARGUMENT;
  product p = {.x = x, .y = y, .m = m};
  status = agq_linear_prepare(&p.linear, table(scalar), l, 0);
  if (status != AGQ_OK) return status;
  agq_pool *pool = agq_pool_create(threads);
  if (!pool) return AGQ_ERR_MEMORY;
  void *workspace = allocate(agq_act_workspace(&p.linear, m));
  p.scratch = allocate((size_t)threads * agq_act_scratch(&p.linear));
  if (!workspace || !p.scratch) status = AGQ_ERR_MEMORY;
  if (status == AGQ_OK) {
    agq_act_init(&p.act, &p.linear, m, workspace);
    if (l->act_bits != 32) {
      agq_pool_run(pool, quantize_task, &p, agq_act_token_panels(&p.act), 1);
    } else {
      agq_act_floats(&p.act, &p.linear, x, (size_t)l->in_features, 0, m);
      if (p.act.rows) p.x = p.act.rows;
    }
    /* A few chunks per thread even out their speeds; a multiple of 4 panels suits every kernel. */
    const int panels = agq_panels(l->out_features), chunk = (panels / (4 * threads) + 3) / 4 * 4;
    agq_pool_run(pool, product_task, &p, panels, threads == 1 ? panels : chunk ? chunk : 4);
  }
  agq_pool_destroy(pool);
  free(p.scratch);
  free(workspace);
  return status;
}

int agq_quantize_activations(const agq_linear *l, const float *x, int m, int8_t *codes, float *scales, int scalar) {
  agq_prepared p;
  int status = agq_linear_prepare(&p, table(scalar), l, 0);
  if (status != AGQ_OK) return status;
  if (m < 1 || !p.own.shape.integer) return AGQ_ERR_ARGUMENT;
  const int k = l->in_features, groups = p.own.shape.act_scales;
  void *workspace = allocate(agq_act_workspace(&p, 1)), *scratch = allocate(agq_act_scratch(&p));
  if (!workspace || !scratch) status = AGQ_ERR_MEMORY;
  for (int i = 0; status == AGQ_OK && i < m; i++) {
    agq_act a;
    agq_act_init(&a, &p, 1, workspace);
    agq_act_quantize(&a, &p, x + (size_t)i * k, (size_t)k, 0, 1, scratch);
    memcpy(codes + (size_t)i * k, a.codes, (size_t)k);
    memcpy(scales + (size_t)i * groups, a.scales, (size_t)groups * sizeof(float));
  }
  free(workspace);
  free(scratch);
  return status;
}
