/* forward.c: the forward pass over a batch, and the small calls of the engine.
 *
 * A layer is: prepare (residual addition, norm, quantization) - qkv - attention - prepare - out - prepare - up and
 * activation - prepare - down. What out and down give (`delta`) is added to the residual stream by the next prepare. In
 * the last layer only the tokens whose logits are wanted go on after keys and values are stored.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "ops/ops.h"

static int fail(agq_engine *e, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int fail(agq_engine *e, int code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(e->error, sizeof e->error, format, args);
  va_end(args);
  return code;
}

/* Input `x` of `l`, transformed and quantized as it asks, without touching the residual stream; then the product.
 * position: of the rows (agq_prepare); NULL for linears outside the blocks. */
static void product(agq_engine *e, int part, const agq_prepared *l, const int32_t *position, const float *x, size_t ldx,
                    int m, float *y, size_t ldy, int epilogue) {
  agq_act act;
  agq_prepare p = {.next = l, .x = x, .ldx = ldx, .position = position};
  agq_pass_prepare(e, &p, m, &act);
  agq_pass_linear(e, part, l, &act, p.x, p.ldx, m, y, ldy, epilogue);
}

/* What happens to the residual stream before a product: what is still to be added, after a norm of its own or none,
 * then norms, or none. */
typedef struct {
  int has_delta;
  int second_delta; /* 1: of a parallel block both parts */
  const agq_norm *post, *norm, *second;
} stream_step;

/* Input of `l` that comes from the residual stream: .x is where it stands after the pass, before it is transformed or
 * quantized. */
static agq_prepare of_stream(agq_engine *e, const agq_prepared *l, const int32_t *position, stream_step step) {
  return (agq_prepare){.next = l,
                       .x = step.norm && !e->model.norm_after ? e->normed : e->h,
                       .ldx = (size_t)e->model.hidden,
                       .residual = step.has_delta || step.norm,
                       .norm = step.norm,
                       .second_norm = step.second,
                       .post_norm = step.post,
                       .position = position,
                       .base = e->model.residual_from_norm ? e->normed : e->h,
                       .delta = step.has_delta ? e->delta : NULL,
                       .second_delta = step.second_delta ? e->normed : NULL};
}

/* The same as `product` for such an input. */
static void product_of_stream(agq_engine *e, int part, const agq_prepared *l, const int32_t *position, stream_step step,
                              int m, float *y, size_t ldy, int epilogue) {
  agq_act act;
  agq_prepare p = of_stream(e, l, position, step);
  agq_pass_prepare(e, &p, m, &act);
  agq_pass_linear(e, part, l, &act, p.x, p.ldx, m, y, ldy, epilogue);
}

/* What a forward pass gives. */
typedef enum { LOGITS, STATES } output;

static void embed(agq_engine *e, const int32_t *tokens, int m) {
  const agq_model *model = &e->model;
  const size_t hidden = (size_t)model->hidden, dim = (size_t)model->embed_dim;
  if (model->project_in.in_features) {
    agq_pass_embed(e, tokens, m, e->embedded, dim);
    product(e, AGQ_PROFILE_PROJECT, &e->project_in, NULL, e->embedded, dim, m, e->h, hidden, AGQ_EPILOGUE_NONE);
  } else {
    agq_pass_embed(e, tokens, m, e->h, hidden);
  }
  agq_pass_positions(e, m);
}

/* Keeps the rows of the residual stream whose tokens are still wanted. */
static void gather(agq_engine *e, int active) {
  const size_t bytes = (size_t)e->model.hidden * sizeof(float);
  for (int i = 0; i < active; i++) {
    const size_t from = (size_t)e->token_row[i] * bytes, to = (size_t)i * bytes;
    if (from == to) continue;
    memcpy((char *)e->h + to, (char *)e->h + from, bytes);
    if (e->model.residual_from_norm) memcpy((char *)e->normed + to, (char *)e->normed + from, bytes);
  }
}

/* The same for what is still to be added to it. */
static void gather_delta(agq_engine *e, int active) {
  const size_t n = (size_t)e->model.hidden;
  for (int i = 0; i < active; i++) {
    const size_t to = (size_t)i * n, from = (size_t)e->token_row[i] * n;
    if (from == to) continue;
    memcpy(e->delta + to, e->delta + from, n * sizeof(float));
    if (e->model.parallel) memcpy(e->normed + to, e->normed + from, n * sizeof(float));
  }
}

/* Positions in their sequences of the rows that are worked on, `given` without pruning (which numbers rows otherwise);
 * NULL where nothing depends on them. */
static const int32_t *positions(const agq_engine *e, const int32_t *given) {
  if (!e->model.sink_tokens) return NULL;
  return e->prune.on ? e->prune.place : given;
}

/* After a block: what its feed-forward part gave is to be added, and normed where norms follow. */
static stream_step after_block(const agq_model *m, const agq_block *b) {
  return (stream_step){.has_delta = 1,
                       .second_delta = m->parallel,
                       .post = m->post_norms ? &b->mlp_post_norm : NULL,
                       .norm = m->norm_after ? &b->mlp_norm : NULL};
}

/* One layer for m tokens, of which `active` (e->token_row) go on after attention; returns those that leave the
 * layer. */
static int layer(agq_engine *e, int index, int m, int active) {
  const agq_model *model = &e->model;
  const agq_block *b = &model->blocks[index];
  const agq_block_linears *linears = &e->linears[index];
  const int after = model->norm_after;
  const size_t d = (size_t)model->head_dim, hidden = (size_t)model->hidden, width = (size_t)e->ffn_width;
  stream_step step = index ? after_block(model, b - 1) : (stream_step){0};
  if (!after) step.norm = model->no_pre_norms ? NULL : &b->attn_norm;
  product_of_stream(e, AGQ_PROFILE_QKV, &linears->qkv, positions(e, e->token_position), step, m, e->qkv,
                    ((size_t)model->heads + 2 * (size_t)model->kv_heads) * d, AGQ_EPILOGUE_NONE);
  agq_pass_attention(e, index, m, active);
  if (active == 0) return 0;
  if (active < m) {
    gather(e, active);
    if (e->prune.on) agq_prune_moved(e, active);
  }
  const int32_t *position = positions(e, e->active_position);
  product(e, AGQ_PROFILE_OUT, &linears->out, position, e->attended, (size_t)model->heads * d, active, e->delta, hidden,
          AGQ_EPILOGUE_NONE);
  if (e->prune.on) active = agq_prune_leave(e, index, active);
  const int gated = agq_gated(model->activation_kind);
  step = (stream_step){.has_delta = !model->parallel,
                       .post = model->post_norms ? &b->attn_post_norm : NULL,
                       .norm = after                 ? &b->attn_norm
                               : model->no_pre_norms ? NULL
                                                     : &b->mlp_norm};
  product_of_stream(e, AGQ_PROFILE_UP, &linears->up, position, step, active, e->ffn, width,
                    e->gate_fused ? AGQ_EPILOGUE_GATE
                    : gated       ? AGQ_EPILOGUE_NONE
                                  : AGQ_EPILOGUE_ACTIVATE);
  if (gated && !e->gate_fused) agq_pass_gate(e, active);
  product(e, AGQ_PROFILE_DOWN, &linears->down, position, e->ffn, width, active, model->parallel ? e->normed : e->delta,
          hidden, AGQ_EPILOGUE_NONE);
  return active;
}

/* Logits of the first m rows of the residual stream, or the states that they come from. has_delta 0: the last layer's
 * output has been added, and normed. */
static void head(agq_engine *e, int m, int has_delta, output what, float *out) {
  const agq_model *model = &e->model;
  const size_t vocab = (size_t)model->vocab, dim = (size_t)model->embed_dim;
  const agq_norm *final = model->has_final_norm ? &model->final_norm : NULL;
  const int epilogue = model->logit_factor != 1 || model->logit_softcap > 0 ? AGQ_EPILOGUE_LOGITS : AGQ_EPILOGUE_NONE;
  stream_step step = {0};
  if (has_delta) step = after_block(model, &model->blocks[model->layers - 1]);
  if (step.norm) step.second = final;
  else step.norm = final;
  if (model->project_out.in_features) {
    product_of_stream(e, AGQ_PROFILE_PROJECT, &e->project_out, NULL, step, m, e->embedded, dim, AGQ_EPILOGUE_NONE);
    if (what == STATES) memcpy(out, e->embedded, (size_t)m * dim * sizeof(float));
    else product(e, AGQ_PROFILE_HEAD, &e->head, NULL, e->embedded, dim, m, out, vocab, epilogue);
  } else if (what == STATES) {
    agq_act act;
    agq_prepare p = of_stream(e, &e->head, NULL, step);
    const float *states = p.x;
    agq_pass_prepare(e, &p, m, &act);
    memcpy(out, states, (size_t)m * dim * sizeof(float));
  } else {
    product_of_stream(e, AGQ_PROFILE_HEAD, &e->head, NULL, step, m, out, vocab, epilogue);
  }
}

/* Lists in e->token_row the rows whose logits are wanted; returns their number. */
static int wanted_rows(agq_engine *e, const agq_batch *b, int first, int m) {
  if (e->prune.on) return agq_prune_wanted(e, m);
  int wanted = 0;
  for (int i = 0; i < m; i++)
    if (b->want ? b->want[first + i] : first + i == b->n - 1) {
      e->token_row[wanted] = i;
      e->active_position[wanted++] = e->token_position[i];
    }
  return wanted;
}

/* Computes m <= options.batch tokens; returns the number of rows written. */
static int piece(agq_engine *e, const agq_batch *b, int first, int m, output what, float *out) {
  const int last = e->model.layers - 1;
  int rows = m, active = m;
  for (int i = 0; i < m; i++) {
    const int slot = b->slots ? b->slots[first + i] : 0;
    e->token_slot[i] = slot;
    e->token_position[i] = e->length[slot]++;
  }
  if (e->prune.on) agq_prune_begin(e, b, first, m);
  embed(e, b->tokens + first, m);
  for (int l = 0; l <= last; l++, rows = active) {
    if (e->prune.on) agq_prune_enter(e, l, rows);
    if (l == 0 || e->prune.on)
      for (int i = 0; i < rows; i++) {
        e->token_row[i] = i;
        e->active_position[i] = e->token_position[i];
      }
    active = rows;
    if (l == last && !agq_prune_acts(e, l)) active = wanted_rows(e, b, first, rows);
    active = layer(e, l, rows, active);
  }
  if (agq_prune_acts(e, last)) { /* the last layer had all rows */
    active = agq_prune_wanted(e, rows);
    gather(e, active);
    gather_delta(e, active);
    agq_prune_moved(e, active);
  }
  const int all = e->prune.on ? agq_prune_finish(e, active) : 0;
  if (all) active = all;
  if (active) head(e, active, all == 0, what, out);
  return active;
}

static int check_batch(agq_engine *e, const agq_batch *b, const float *logits) {
  const agq_model *m = &e->model;
  if (!b || b->n < 1 || !b->tokens) return fail(e, AGQ_ERR_ARGUMENT, "an empty batch");
  int wanted = b->want == NULL;
  for (int i = 0; i < b->n; i++) {
    if (b->tokens[i] < 0 || b->tokens[i] >= m->vocab)
      return fail(e, AGQ_ERR_ARGUMENT, "token %d of the batch is %d, not in 0..%d", i, b->tokens[i], m->vocab - 1);
    if (b->want && b->want[i]) wanted = 1;
  }
  if (wanted && !logits) return fail(e, AGQ_ERR_ARGUMENT, "logits are wanted, but there is no place for them");
  memset(e->slot_seen, 0, (size_t)e->options.slots);
  for (int i = 0, end; i < b->n; i = end) {
    const int slot = b->slots ? b->slots[i] : 0;
    if (slot < 0 || slot >= e->options.slots)
      return fail(e, AGQ_ERR_ARGUMENT, "slot %d of token %d is not in 0..%d", slot, i, e->options.slots - 1);
    for (end = i + 1; end < b->n && (b->slots ? b->slots[end] : 0) == slot; end++) {}
    if (e->slot_seen[slot]) return fail(e, AGQ_ERR_ARGUMENT, "the tokens of slot %d are not contiguous", slot);
    e->slot_seen[slot] = 1;
    if (end - i > e->options.context - e->length[slot])
      return fail(e, AGQ_ERR_CONTEXT, "slot %d holds %d of %d positions: %d more do not fit", slot, e->length[slot],
                  e->options.context, end - i);
    if (e->prune.on && e->prune.ratio > 0 && e->length[slot] == 0 && b->n > e->options.batch)
      return fail(e, AGQ_ERR_ARGUMENT, "token pruning needs the prompt in one piece: %d tokens, the batch is %d", b->n,
                  e->options.batch);
    for (int r = 0; r < AGQ_ROPES; r++)
      if (e->rope_used[r] && !e->rope_set[r * e->options.slots + slot])
        return fail(e, AGQ_ERR_ARGUMENT, "no RoPE frequencies (%s) were set for slot %d",
                    r == AGQ_ROPE_GLOBAL ? "global" : "local", slot);
  }
  return AGQ_OK;
}

static int forward(agq_engine *e, const agq_batch *batch, output what, float *out) {
  if (!e) return AGQ_ERR_ARGUMENT;
  const int status = check_batch(e, batch, out);
  if (status != AGQ_OK) return status;
  const size_t width = (size_t)(what == STATES ? e->model.embed_dim : e->model.vocab);
  for (int i = 0, m; i < batch->n; i += m) {
    m = batch->n - i < e->options.batch ? batch->n - i : e->options.batch;
    const int rows = piece(e, batch, i, m, what, out);
    if (rows) out += (size_t)rows * width;
  }
  return AGQ_OK;
}

int agq_engine_forward(agq_engine *e, const agq_batch *batch, float *logits) {
  return forward(e, batch, LOGITS, logits);
}

int agq_engine_states(agq_engine *e, const agq_batch *batch, float *states) {
  return forward(e, batch, STATES, states);
}

int agq_engine_slot_length(const agq_engine *e, int slot) {
  return e && slot >= 0 && slot < e->options.slots ? e->length[slot] : AGQ_ERR_ARGUMENT;
}

int agq_engine_slot_truncate(agq_engine *e, int slot, int length) {
  if (!e) return AGQ_ERR_ARGUMENT;
  if (slot < 0 || slot >= e->options.slots)
    return fail(e, AGQ_ERR_ARGUMENT, "slot %d is not in 0..%d", slot, e->options.slots - 1);
  if (length < 0) return fail(e, AGQ_ERR_ARGUMENT, "length %d is negative", length);
  if (length >= e->length[slot]) return AGQ_OK;
  if (e->prune.on && length && length < e->prune.prompt[slot])
    return fail(e, AGQ_ERR_ARGUMENT, "slot %d holds a pruned prompt of %d tokens: it cannot be cut to %d, only emptied",
                slot, e->prune.prompt[slot], length);
  agq_prune_truncate(e, slot, length, e->length[slot] - length);
  e->length[slot] = length;
  return AGQ_OK;
}

int agq_engine_set_rope(agq_engine *e, int slot, int rope, const float *inv_freq, float attention_scaling) {
  if (!e || !inv_freq) return AGQ_ERR_ARGUMENT;
  if (slot < 0 || slot >= e->options.slots)
    return fail(e, AGQ_ERR_ARGUMENT, "slot %d is not in 0..%d", slot, e->options.slots - 1);
  if (rope < 0 || rope >= AGQ_ROPES) return fail(e, AGQ_ERR_ARGUMENT, "rope %d is not in 0..%d", rope, AGQ_ROPES - 1);
  if (e->model.position_kind != AGQ_POSITION_ROPE) return fail(e, AGQ_ERR_ARGUMENT, "this model has no RoPE");
  const size_t half = (size_t)e->half, at = (size_t)rope * (size_t)e->options.slots + (size_t)slot;
  memcpy(e->inv_freq + at * half, inv_freq, half * sizeof(float));
  e->rope_scaling[at] = attention_scaling;
  e->rope_set[at] = 1;
  return AGQ_OK;
}

const char *agq_engine_error(const agq_engine *e) { return e ? e->error : "no engine"; }
