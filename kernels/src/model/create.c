/* create.c: the only place that allocates. Workspace is laid out twice by the same code: once to count, once to place.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "ops/attention_log2.h"
#include "ops/ops.h"

/* More than an address space has: refused without asking the allocator. */
#define MOST_BYTES ((size_t)1 << 46)

typedef struct {
  char *base; /* NULL while counting */
  size_t used;
  int overflow;
} arena;

/* count elements of `size` bytes, 64-byte aligned. */
static void *take(arena *a, size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes) || __builtin_add_overflow(bytes, 63, &bytes)) a->overflow = 1;
  else bytes &= ~(size_t)63;
  void *p = a->base ? a->base + a->used : NULL;
  if (a->overflow || __builtin_add_overflow(a->used, bytes, &a->used)) a->overflow = 1;
  return p;
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* What follows from the model's numbers: factors that are not 0, which rotary positions and windows there are. */
static void derive(agq_engine *e) {
  agq_model *m = &e->model;
  float *factors[] = {&m->embed_factor, &m->residual_factor, &m->logit_factor};
  for (size_t i = 0; i < sizeof factors / sizeof *factors; i++)
    if (*factors[i] == 0) *factors[i] = 1;
  const int rope = m->position_kind == AGQ_POSITION_ROPE;
  e->half = rope ? agq_rotary_dim(m) / 2 : 0;
  for (int i = 0; i < m->layers; i++) {
    if (rope && m->blocks[i].rope != AGQ_ROPE_NONE) e->rope_used[m->blocks[i].rope] = 1;
    e->windows |= m->blocks[i].window > 0;
  }
  for (int r = 0; r < AGQ_ROPES; r++)
    if (e->rope_used[r]) e->rope_tables = r + 1;
}

/* All linears of the model, which has been checked. */
static int prepare(agq_engine *e, const agq_kernel_table *kt) {
  const agq_model *m = &e->model;
  e->linears = calloc((size_t)m->layers, sizeof *e->linears);
  if (!e->linears) return 0;
  agq_linear_prepare(&e->head, kt, &m->head, 0);
  if (m->project_in.in_features) agq_linear_prepare(&e->project_in, kt, &m->project_in, 0);
  if (m->project_out.in_features) agq_linear_prepare(&e->project_out, kt, &m->project_out, 0);
  for (int i = 0; i < m->layers; i++) {
    const agq_block *b = &m->blocks[i];
    agq_linear_prepare(&e->linears[i].qkv, kt, &b->qkv, m->sink_tokens);
    agq_linear_prepare(&e->linears[i].out, kt, &b->out, m->sink_tokens);
    agq_linear_prepare(&e->linears[i].up, kt, &b->up, m->sink_tokens);
    agq_linear_prepare(&e->linears[i].down, kt, &b->down, m->sink_tokens);
  }
  return 1;
}

/* Most bytes that the quantized input of any linear takes, and the most scratch that its making wants. */
static size_t act_bytes(const agq_engine *e, size_t *scratch) {
  const agq_prepared *ends[] = {&e->head, &e->project_in, &e->project_out};
  size_t bytes = 64;
  *scratch = 0;
  for (int i = 0; i < 3 + 4 * e->model.layers; i++) {
    const agq_block_linears *b = e->linears + (i - 3) / 4;
    const agq_prepared *linears[] = {&b->qkv, &b->out, &b->up, &b->down}, *p = i < 3 ? ends[i] : linears[(i - 3) % 4];
    bytes = larger(bytes, agq_act_workspace(p, e->options.batch));
    *scratch = larger(*scratch, agq_act_scratch(p));
  }
  return bytes;
}

static void place(agq_engine *e, arena *a) {
  const agq_model *m = &e->model;
  const size_t batch = (size_t)e->options.batch, slots = (size_t)e->options.slots, threads = (size_t)e->options.threads;
  const size_t hidden = (size_t)m->hidden, d = (size_t)m->head_dim, half = (size_t)e->half, heads = (size_t)m->heads;
  const int group = m->heads / m->kv_heads, tile_rows = agq_attention_tile_rows(&e->kv_layout);
  agq_block *blocks = take(a, (size_t)m->layers, sizeof *blocks);
  if (blocks) {
    memcpy(blocks, e->model.blocks, (size_t)m->layers * sizeof *blocks);
    e->model.blocks = blocks;
  }
  e->length = take(a, slots, sizeof *e->length);
  e->slot_seen = take(a, slots, 1);
  e->rope_set = take(a, AGQ_ROPES * slots, 1);
  e->inv_freq = take(a, AGQ_ROPES * slots * half, sizeof(float));
  e->rope_scaling = take(a, AGQ_ROPES * slots, sizeof(float));
  e->token_slot = take(a, batch, sizeof(int32_t));
  e->token_position = take(a, batch, sizeof(int32_t));
  e->token_row = take(a, batch, sizeof(int32_t));
  e->active_position = take(a, batch, sizeof(int32_t));
  /* Each run of tokens of a slot ends with at most one partial tile. */
  e->most_tiles = (int)(batch * (size_t)group / (size_t)tile_rows + batch);
  e->tiles = take(a, (size_t)e->most_tiles, sizeof *e->tiles);
  e->cosines = take(a, (size_t)e->rope_tables * batch * half, sizeof(float));
  e->sines = take(a, (size_t)e->rope_tables * batch * half, sizeof(float));
  e->embedded = take(a, m->project_in.in_features || m->project_out.in_features ? batch : 0,
                     (size_t)m->embed_dim * sizeof(float));
  e->h = take(a, batch, hidden * sizeof(float));
  e->normed = take(a, batch, hidden * sizeof(float));
  /* The normed rows are dead once their products are computed, unless the residual starts from them, or other norms of
   * the same states follow. */
  e->delta = m->residual_from_norm || m->parallel ? take(a, batch, hidden * sizeof(float)) : e->normed;
  const int gated = agq_gated(m->activation_kind);
  e->gate_fused = gated && m->ffn % AGQ_PANEL == 0;
  e->ffn_width = gated && !e->gate_fused ? 2 * m->ffn : m->ffn;
  agq_prune *p = &e->prune;
  const size_t layers = (size_t)m->layers, context = (size_t)e->options.context;
  p->layer = take(a, layers, 1);
  p->layer_length = take(a, slots, layers * sizeof(int));
  p->prompt = take(a, slots, sizeof(int));
  p->kept = take(a, slots, context);
  p->key_position =
      take(a, agq_uses_distances(e) ? slots * layers : 0, (size_t)e->kv_layout.positions * sizeof(int32_t));
  p->starts = take(a, slots, 1);
  int32_t **rows[] = {&p->origin, &p->place, &p->rope_at, &p->rank, &p->exits};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) *rows[i] = take(a, batch, sizeof(int32_t));
  p->victim = take(a, batch, 1);
  p->keys = take(a, batch, sizeof *p->keys);
  p->shares = take(a, batch, heads * sizeof(float));
  /* Attention, the feed-forward part and tokens that leave are never alive together. */
  arena attention = *a, feed = *a, leave = *a;
  p->leaving = take(&leave, batch, hidden * sizeof(float));
  e->qkv = take(&attention, batch, (heads + 2 * (size_t)m->kv_heads) * d * sizeof(float));
  e->attended = take(&attention, batch, heads * d * sizeof(float));
  e->ffn = take(&feed, batch, (size_t)e->ffn_width * sizeof(float));
  a->used = larger(larger(attention.used, feed.used), leave.used);
  a->overflow = attention.overflow | feed.overflow | leave.overflow;
  size_t act_scratch;
  const size_t act = act_bytes(e, &act_scratch);
  e->act_memory = take(a, act, 1);
  e->token_panels = take(a, m->sink_tokens ? batch : 0, sizeof *e->token_panels);
  /* With few (token, kv head) pairs, attention is cut into key ranges so that all threads have work. */
  const size_t ranges = ((size_t)e->options.context + AGQ_KEY_RANGE - 1) / AGQ_KEY_RANGE;
  e->most_split_units = threads > 1 && ranges > 1 ? 4 * (int)threads : 0;
  const size_t unit_rows = (size_t)(group < tile_rows ? group : tile_rows);
  e->states =
      take(a, (size_t)e->most_split_units * ranges, unit_rows * agq_attention_state(&e->kv_layout) * sizeof(float));
  /* Scratch of a thread: an attention tile and a key row; or a row of activations; or gate and up of some panels. */
  e->scratch_floats = agq_attention_scratch(&e->kv_layout, tile_rows) + d + 16;
  e->scratch_floats = larger(e->scratch_floats, act_scratch / sizeof(float) + 16);
  if (e->gate_fused) e->scratch_floats = larger(e->scratch_floats, larger(batch, 64) * 2 * AGQ_PANEL * 4);
  e->scratch_floats = (e->scratch_floats + 31) / 16 * 16;
  e->scratch = take(a, threads, e->scratch_floats * sizeof(float));
}

static void *align64(void *p) { return (void *)(((uintptr_t)p + 63) & ~(uintptr_t)63); }

static int allocate(agq_engine *e) {
  e->kv_layout = e->model.attention_kind == AGQ_ATTENTION_LOG2
                     ? agq_kv_layout_log2(e->model.head_dim, e->options.context)
                     : agq_kv_layout_make(e->options.kv_bits, e->model.head_dim, e->options.context);
  size_t regions;
  if (e->kv_layout.region_bytes == 0 ||
      __builtin_mul_overflow((size_t)e->model.layers * (size_t)e->options.slots, (size_t)e->model.kv_heads, &regions) ||
      __builtin_mul_overflow(regions, e->kv_layout.region_bytes, &e->kv_bytes) || e->kv_bytes > MOST_BYTES)
    return 0;
  arena count = {0};
  place(e, &count);
  if (count.overflow || count.used > MOST_BYTES) return 0;
  e->memory_bytes = count.used;
  /* calloc: pages that no position has reached yet are not backed by memory. */
  e->memory = calloc(1, e->memory_bytes + 64);
  e->kv_memory = calloc(1, e->kv_bytes + 64);
  if (!e->memory || !e->kv_memory) return 0;
  e->kv = align64(e->kv_memory);
  arena real = {.base = align64(e->memory)};
  place(e, &real);
  return 1;
}

agq_engine *agq_engine_create(const agq_model *model, const agq_options *options, char *error, size_t error_size) {
  if (error && error_size) error[0] = 0;
  if (!model || !options) {
    if (error && error_size) snprintf(error, error_size, "no model or no options");
    return NULL;
  }
  if (agq_check_model(model, options, error, error_size) != AGQ_OK) return NULL;
  agq_engine *e = calloc(1, sizeof *e);
  if (e) {
    e->model = *model;
    e->options = *options;
    derive(e);
    if (prepare(e, options->scalar ? &agq_kernels_scalar : &agq_kernels_native) && allocate(e)) {
      e->pool = agq_pool_create(options->threads);
      if (e->pool) return e;
      if (error && error_size) snprintf(error, error_size, "cannot start %d threads", options->threads);
    } else if (error && error_size) {
      snprintf(error, error_size,
               "not enough memory: KV cache of %zu bytes (%d slots x %d positions), workspace of %zu bytes",
               e->kv_bytes, options->slots, options->context, e->memory_bytes);
    }
    agq_engine_destroy(e);
  } else if (error && error_size) {
    snprintf(error, error_size, "not enough memory");
  }
  return NULL;
}

void agq_engine_destroy(agq_engine *e) {
  if (!e) return;
  agq_pool_destroy(e->pool);
  free(e->kv_memory);
  free(e->memory);
  free(e->linears);
  free(e);
}

size_t agq_engine_kv_bytes(const agq_engine *e) { return e->kv_bytes; }
size_t agq_engine_workspace_bytes(const agq_engine *e) { return e->memory_bytes; }
