/* passes.c: what the pool runs between the attention passes.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine.h"
#include "ops/ops.h"

enum {
  FLOAT_TOKENS = 8,        /* tokens handled at once where no token panel says how many */
  LEAST_WORK = 128 * 1024, /* multiply-accumulates worth giving to another thread */
  CHUNKS_PER_THREAD = 6,
  TILE_PANELS = 8, /* weight panels at once with many tokens: they stay in L2 while all tokens pass */
};

/* --- before a linear
 * ------------------------------------------------------------------------------------------------------ */

typedef struct {
  agq_engine *e;
  const agq_prepare *p;
  agq_act *act;
  int m;
} prepare_job;

void agq_add_delta(const agq_engine *e, const agq_norm *post_norm, const float *base, float *delta, float *to) {
  const agq_model *m = &e->model;
  if (post_norm) agq_norm_row(m->norm_kind, post_norm, m->norm_eps, delta, delta, m->hidden);
  if (m->residual_factor == 1) agq_add_row(base, delta, to, m->hidden);
  else agq_add_scaled_row(base, delta, m->residual_factor, to, m->hidden);
}

static void prepare_token(const agq_engine *e, const agq_prepare *p, size_t t) {
  const int n = e->model.hidden, kind = e->model.norm_kind;
  const float eps = e->model.norm_eps;
  float *h = e->h + t * (size_t)n, *normed = e->normed + t * (size_t)n;
  if (p->delta) agq_add_delta(e, p->post_norm, p->base + t * (size_t)n, p->delta + t * (size_t)n, h);
  if (p->second_delta) agq_add_delta(e, NULL, h, p->second_delta + t * (size_t)n, h);
  if (e->model.norm_after && p->norm) {
    agq_norm_row(kind, p->norm, eps, h, h, n);
    if (p->second_norm) agq_norm_row(kind, p->second_norm, eps, h, h, n);
  } else if (p->norm) {
    agq_norm_row(kind, p->norm, eps, h, normed, n);
  }
}

static void prepare_task(void *arg, int thread, int begin, int end) {
  const prepare_job *j = arg;
  agq_engine *e = j->e;
  for (int panel = begin; panel < end; panel++) {
    const int quantize = j->p->next->own.shape.integer;
    const agq_token_panel rows =
        quantize ? agq_act_panel(j->act, panel) : (agq_token_panel){panel * FLOAT_TOKENS, FLOAT_TOKENS, 0};
    const int end_token = rows.first + rows.width < j->m ? rows.first + rows.width : j->m;
    if (j->p->residual)
      for (int t = rows.first; t < end_token; t++) prepare_token(e, j->p, (size_t)t);
    if (quantize) agq_act_quantize(j->act, j->p->next, j->p->x, j->p->ldx, panel, panel + 1, agq_scratch(e, thread));
    else if (agq_act_needs_floats(j->p->next))
      agq_act_floats(j->act, j->p->next, j->p->x, j->p->ldx, rows.first, end_token);
  }
}

void agq_pass_prepare(agq_engine *e, agq_prepare *p, int m, agq_act *act) {
  const int quantize = p->next->own.shape.integer;
  agq_act_init(act, p->next, m, e->act_memory);
  if (p->position && agq_dynamic_four_bits(&p->next->l))
    agq_act_sinks(act, p->next, p->position, e->model.sink_tokens, e->token_panels);
  if (!quantize && !agq_act_needs_floats(p->next) && !p->residual) return;
  prepare_job j = {e, p, act, m};
  agq_pass_run(e, AGQ_PROFILE_PREPARE, prepare_task, &j,
               quantize ? agq_act_token_panels(act) : (m + FLOAT_TOKENS - 1) / FLOAT_TOKENS, 1);
  if (act->rows) {
    p->x = act->rows;
    p->ldx = (size_t)p->next->l.in_features;
  }
}

/* --- linears
 * -------------------------------------------------------------------------------------------------------------- */

typedef struct {
  agq_engine *e;
  const agq_prepared *p;
  const agq_act *act;
  const float *x;
  size_t ldx;
  int m;
  float *y;
  size_t ldy;
} linear_job;

static void linear_task(void *arg, int thread, int begin, int end) {
  const linear_job *j = arg;
  (void)thread;
  agq_linear_run(j->p, j->act, j->x, j->ldx, j->m, j->y, j->ldy, begin, end);
}

static void activate_task(void *arg, int thread, int begin, int end) {
  const linear_job *j = arg;
  linear_task(arg, thread, begin, end);
  const int row = begin * AGQ_PANEL,
            rows = (end * AGQ_PANEL < j->p->l.out_features ? end * AGQ_PANEL : j->p->l.out_features) - row;
  for (int t = 0; t < j->m; t++) agq_activate_row(j->e->model.activation_kind, j->y + (size_t)t * j->ldy + row, rows);
}

static void logits_task(void *arg, int thread, int begin, int end) {
  const linear_job *j = arg;
  const agq_model *m = &j->e->model;
  linear_task(arg, thread, begin, end);
  const int row = begin * AGQ_PANEL, last = end * AGQ_PANEL < m->vocab ? end * AGQ_PANEL : m->vocab;
  for (int t = 0; t < j->m; t++)
    agq_cap_row(j->y + (size_t)t * j->ldy + row, m->logit_factor, m->logit_softcap, last - row);
}

/* Panels [begin, end) of the gate and the same of up, to scratch; f(gate) * up from there. */
static void gate_task(void *arg, int thread, int begin, int end) {
  const linear_job *j = arg;
  const int panels = end - begin, rows = panels * AGQ_PANEL, half = agq_panels(j->p->l.out_features) / 2;
  const size_t ld = (size_t)rows * 2;
  float *both = agq_scratch(j->e, thread);
  const agq_prepared gate = agq_linear_slice(j->p, begin, end), up = agq_linear_slice(j->p, half + begin, half + end);
  agq_linear_run(&gate, j->act, j->x, j->ldx, j->m, both, ld, 0, panels);
  agq_linear_run(&up, j->act, j->x, j->ldx, j->m, both + rows, ld, 0, panels);
  for (int t = 0; t < j->m; t++) {
    const float *g = both + (size_t)t * ld;
    agq_gate_row(j->e->model.activation_kind, g, g + rows, j->y + (size_t)t * j->ldy + (size_t)begin * AGQ_PANEL, rows);
  }
}

/* Panels per chunk: enough work to be worth a hand-over, several chunks per thread for balance. */
static int chunk_panels(const agq_engine *e, int panels, int k, int m, int most) {
  const int threads = agq_pool_threads(e->pool);
  int chunk = panels / (threads * CHUNKS_PER_THREAD);
  if (m > FLOAT_TOKENS && chunk > TILE_PANELS) chunk = TILE_PANELS;
  const int64_t work = (int64_t)k * AGQ_PANEL * m;
  const int least = (int)((LEAST_WORK + work - 1) / work);
  if (chunk < least) chunk = least;
  chunk = (chunk + 3) & ~3;
  return chunk > most ? most : chunk;
}

void agq_pass_linear(agq_engine *e, int part, const agq_prepared *p, const agq_act *act, const float *x, size_t ldx,
                     int m, float *y, size_t ldy, int epilogue) {
  linear_job j = {e, p, act, x, ldx, m, y, ldy};
  int panels = agq_panels(p->l.out_features), most = panels;
  agq_task_fn task = linear_task;
  if (epilogue == AGQ_EPILOGUE_ACTIVATE) task = activate_task;
  if (epilogue == AGQ_EPILOGUE_LOGITS) task = logits_task;
  if (epilogue == AGQ_EPILOGUE_GATE) {
    task = gate_task;
    panels /= 2;
    const size_t fit = e->scratch_floats / ((size_t)m * 2 * AGQ_PANEL);
    most = fit < (size_t)panels ? (int)fit : panels;
  }
  agq_pass_run(e, part, task, &j, panels, chunk_panels(e, panels, p->l.in_features, m, most));
}

static void gate_rows_task(void *arg, int thread, int begin, int end) {
  agq_engine *e = arg;
  (void)thread;
  for (int t = begin; t < end; t++) {
    float *row = e->ffn + (size_t)t * (size_t)e->ffn_width;
    agq_gate_row(e->model.activation_kind, row, row + e->model.ffn, row, e->model.ffn);
  }
}

void agq_pass_gate(agq_engine *e, int m) { agq_pass_run(e, AGQ_PROFILE_UP, gate_rows_task, e, m, FLOAT_TOKENS); }

/* --- embedding
 * ------------------------------------------------------------------------------------------------------------ */

typedef struct {
  agq_engine *e;
  const int32_t *tokens;
  float *to;
  size_t ldto;
} embed_job;

static void embed_task(void *arg, int thread, int begin, int end) {
  const embed_job *j = arg;
  const agq_model *m = &j->e->model;
  (void)thread;
  for (int t = begin; t < end; t++) {
    float *to = j->to + (size_t)t * j->ldto;
    const size_t token = (size_t)j->tokens[t], dim = (size_t)m->embed_dim;
    if (m->embed_in_head) agq_panel_row(&m->head, (int)token, to);
    else if (m->embed_dtype == AGQ_I8)
      agq_scaled_row((const int8_t *)m->embed + token * dim, m->embed_scale, token, m->embed_group, to, m->embed_dim);
    else
      agq_to_float_row(m->embed_dtype, (const char *)m->embed + token * dim * (size_t)agq_float_bytes(m->embed_dtype),
                       to, m->embed_dim);
    if (m->embed_factor != 1) agq_cap_row(to, m->embed_factor, 0, m->embed_dim);
  }
}

void agq_pass_embed(agq_engine *e, const int32_t *tokens, int m, float *to, size_t ldto) {
  embed_job j = {e, tokens, to, ldto};
  agq_pass_run(e, AGQ_PROFILE_EMBED, embed_task, &j, m, FLOAT_TOKENS);
}

/* --- positions, and what comes before attention
 * --------------------------------------------------------------------------------------------------- */

void agq_rope_tables(agq_engine *e, int row, int position) {
  const size_t half = (size_t)e->half, slots = (size_t)e->options.slots, batch = (size_t)e->options.batch;
  for (size_t r = 0; r < AGQ_ROPES; r++) {
    const size_t slot = r * slots + (size_t)e->token_slot[row], at = (r * batch + (size_t)row) * half;
    if (e->rope_used[r])
      agq_rope_table(e->inv_freq + slot * half, e->rope_scaling[slot], position, e->cosines + at, e->sines + at,
                     e->half);
  }
}

static void position_task(void *arg, int thread, int begin, int end) {
  agq_engine *e = arg;
  const agq_model *m = &e->model;
  const size_t hidden = (size_t)m->hidden;
  for (int t = begin; t < end; t++) {
    float *h = e->h + (size_t)t * hidden;
    const int position = e->token_position[t];
    if (m->position_kind == AGQ_POSITION_LEARNED) {
      const size_t row = (size_t)position + (size_t)m->position_offset,
                   bytes = hidden * (size_t)agq_float_bytes(m->position_dtype);
      float *learned = e->normed + (size_t)t * hidden;
      agq_to_float_row(m->position_dtype, (const char *)m->position + row * bytes, learned, m->hidden);
      agq_add_row(h, learned, h, m->hidden);
    } else if (m->position_kind == AGQ_POSITION_ROPE) {
      agq_rope_tables(e, t, position);
    }
    if (m->has_embed_norm) agq_norm_row(m->norm_kind, &m->embed_norm, m->norm_eps, h, h, m->hidden);
  }
  (void)thread;
}

void agq_pass_positions(agq_engine *e, int m) { agq_pass_run(e, AGQ_PROFILE_EMBED, position_task, e, m, FLOAT_TOKENS); }

typedef struct {
  agq_engine *e;
  const agq_block *b;
} qk_norm_job;

static void qk_norm_task(void *arg, int thread, int begin, int end) {
  const qk_norm_job *j = arg;
  const agq_model *m = &j->e->model;
  const int parts = m->qk_norm == AGQ_QK_NORM_WHOLE ? 1 : m->heads, q = m->heads * m->head_dim / parts;
  const int k_parts = m->qk_norm == AGQ_QK_NORM_WHOLE ? 1 : m->kv_heads, k = m->kv_heads * m->head_dim / k_parts;
  (void)thread;
  for (int t = begin; t < end; t++) {
    float *row = j->e->qkv + (size_t)t * (size_t)(m->heads + 2 * m->kv_heads) * (size_t)m->head_dim;
    for (int i = 0; i < parts; i++, row += q) agq_norm_row(AGQ_NORM_RMS, &j->b->q_norm, m->norm_eps, row, row, q);
    for (int i = 0; i < k_parts; i++, row += k) agq_norm_row(AGQ_NORM_RMS, &j->b->k_norm, m->norm_eps, row, row, k);
  }
}

void agq_pass_qk_norm(agq_engine *e, int layer, int m) {
  qk_norm_job j = {e, &e->model.blocks[layer]};
  agq_pass_run(e, AGQ_PROFILE_PREPARE, qk_norm_task, &j, m, FLOAT_TOKENS);
}
