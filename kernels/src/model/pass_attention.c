/* pass_attention.c: keys and values of a piece to the cache, then attention, cut into work for the threads.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "engine.h"
#include "ops/attention_log2.h"
#include "ops/ops.h"

enum { STORE_TOKENS = 64 };

typedef struct {
  agq_engine *e;
  agq_attention a;
  int layer, tiles;
  int m;           /* tokens whose keys and values are stored */
  int store_first; /* 1: one token per slot, stored by whoever computes its attention */
  int ranges;      /* of the longest token, when cut into key ranges */
} attention_job;

static agq_log2_scales log2_scales(const agq_engine *e, int layer) {
  const agq_block *b = &e->model.blocks[layer];
  return (agq_log2_scales){b->q_scale, b->k_scale, b->v_scale, b->v_zero, b->v_exponent};
}

/* Where the layer's cosines and sines begin; 0: it has none. */
static int rope_at(const agq_engine *e, int layer, size_t *at) {
  const int rope = e->model.blocks[layer].rope;
  *at = (size_t)rope * (size_t)e->options.batch * (size_t)e->half;
  return e->half && rope != AGQ_ROPE_NONE;
}

static void store_token(const agq_engine *e, int layer, int token, int kv_head, float *key) {
  const agq_model *m = &e->model;
  const size_t d = (size_t)m->head_dim, heads = (size_t)m->heads, kv_heads = (size_t)m->kv_heads;
  const float *row = e->qkv + (size_t)token * (heads + 2 * kv_heads) * d;
  const float *k = row + (heads + (size_t)kv_head) * d, *v = k + kv_heads * d;
  size_t at;
  if (rope_at(e, layer, &at)) {
    at += (size_t)token * (size_t)e->half;
    agq_rope_row(k, e->cosines + at, e->sines + at, key, e->half, m->head_dim);
    k = key;
  }
  if (e->kv_layout.hadamard) {
    agq_hadamard_row(k, key, (int)d, e->kv_layout.hadamard);
    k = key;
  }
  if (e->kv_layout.log2) {
    const agq_log2_scales scales = log2_scales(e, layer);
    agq_kv_store_log2(&e->kv_layout, &scales, agq_kv_region(e, layer, e->token_slot[token], kv_head), kv_head,
                      e->token_position[token], k, v);
    return;
  }
  agq_kv_store(&e->kv_layout, agq_kv_region(e, layer, e->token_slot[token], kv_head), e->token_position[token], k, v);
}

/* Items: (64 tokens, kv head). */
static void store_task(void *arg, int thread, int begin, int end) {
  const attention_job *j = arg;
  for (int i = begin; i < end; i++) {
    const int kv_head = i % j->e->model.kv_heads, first = i / j->e->model.kv_heads * STORE_TOKENS;
    for (int t = first; t < first + STORE_TOKENS && t < j->m; t++)
      store_token(j->e, j->layer, t, kv_head, agq_scratch(j->e, thread));
  }
}

/* The scratch after that of a tile: room for one key. */
static float *key_scratch(const agq_engine *e, float *scratch) {
  return scratch + agq_attention_scratch(&e->kv_layout, agq_attention_tile_rows(&e->kv_layout));
}

/* Attention as the tokens of a slot see it. */
static agq_attention attention_of(const attention_job *j, int slot) {
  agq_attention a = j->a;
  if (a.key_position) a.key_position += (size_t)slot * (size_t)a.kv->positions;
  return a;
}

/* Items: (tile, kv head). */
static void tile_task(void *arg, int thread, int begin, int end) {
  const attention_job *j = arg;
  const agq_engine *e = j->e;
  float *scratch = agq_scratch(e, thread);
  for (int i = begin; i < end; i++) {
    const agq_row_tile *t = &e->tiles[i / e->model.kv_heads];
    const int kv_head = i % e->model.kv_heads;
    if (j->store_first) store_token(e, j->layer, j->a.token_row[t->first], kv_head, key_scratch(e, scratch));
    const agq_attention a = attention_of(j, t->slot);
    (a.log2 ? agq_attention_log2_tile : agq_attention_tile)(&a, agq_kv_region(e, j->layer, t->slot, kv_head), kv_head,
                                                            t->first, t->begin, t->end, scratch);
  }
}

/* The first key range that a tile of one token sees. */
static int first_range(const agq_attention *a, const agq_row_tile *t) {
  return agq_attention_first_key(a, t->first + t->begin / a->group) / AGQ_KEY_RANGE;
}

static size_t unit_floats(const attention_job *j) {
  const int rows = agq_attention_tile_rows(&j->e->kv_layout);
  return (size_t)(j->a.group < rows ? j->a.group : rows) * agq_attention_state(&j->e->kv_layout);
}

/* Items: (tile of one token, kv head, key range), range fastest. */
static void range_task(void *arg, int thread, int begin, int end) {
  const attention_job *j = arg;
  const agq_engine *e = j->e;
  float *scratch = agq_scratch(e, thread);
  for (int i = begin; i < end; i++) {
    const int range = i % j->ranges, pair = i / j->ranges, kv_head = pair % e->model.kv_heads;
    const agq_row_tile *t = &e->tiles[pair / e->model.kv_heads];
    const int last = j->a.token_position[t->first + t->begin / j->a.group] / AGQ_KEY_RANGE;
    const agq_attention a = attention_of(j, t->slot);
    if (range > last || range < first_range(&a, t)) continue;
    if (range == last && j->store_first)
      store_token(e, j->layer, j->a.token_row[t->first], kv_head, key_scratch(e, scratch));
    agq_attention_range(&a, agq_kv_region(e, j->layer, t->slot, kv_head), kv_head, t->first, t->begin, t->end, range,
                        e->states + (size_t)i * unit_floats(j), scratch);
  }
}

/* Items: (tile, kv head). */
static void merge_task(void *arg, int thread, int begin, int end) {
  const attention_job *j = arg;
  const agq_engine *e = j->e;
  const size_t unit = unit_floats(j);
  (void)thread;
  for (int i = begin; i < end; i++) {
    const agq_row_tile *t = &e->tiles[i / e->model.kv_heads];
    const agq_attention a = attention_of(j, t->slot);
    const int last = a.token_position[t->first + t->begin / a.group] / AGQ_KEY_RANGE, first = first_range(&a, t);
    for (int r = t->begin; r < t->end; r++)
      agq_attention_merge(&a, i % e->model.kv_heads, t->first, r, last - first + 1,
                          e->states + ((size_t)i * (size_t)j->ranges + (size_t)first) * unit +
                              (size_t)(r - t->begin) * agq_attention_state(&e->kv_layout),
                          unit);
  }
}

/* Cuts the active tokens, slot by slot, into tiles. *single: every slot has one token. */
static int make_tiles(agq_engine *e, int active, int group, int *single, int *longest) {
  const int rows = agq_attention_tile_rows(&e->kv_layout);
  int tiles = 0;
  *single = 1;
  *longest = 0;
  for (int first = 0, end; first < active; first = end) {
    const int slot = e->token_slot[e->token_row[first]];
    for (end = first + 1; end < active && e->token_slot[e->token_row[end]] == slot; end++) {}
    if (end - first > 1) *single = 0;
    if (e->active_position[end - 1] > *longest) *longest = e->active_position[end - 1];
    for (int r = 0; r < (end - first) * group; r += rows) {
      const int last = (end - first) * group;
      e->tiles[tiles++] = (agq_row_tile){first, r, last - r < rows ? last : r + rows, slot};
    }
  }
  return tiles;
}

void agq_pass_attention(agq_engine *e, int layer, int m, int active) {
  const agq_model *model = &e->model;
  const int group = model->heads / model->kv_heads, kv_heads = model->kv_heads;
  int single, longest;
  size_t table;
  const int rotary = rope_at(e, layer, &table);
  if (model->qk_norm) agq_pass_qk_norm(e, layer, m);
  attention_job j = {.e = e, .layer = layer, .m = m};
  j.tiles = make_tiles(e, active, group, &single, &longest);
  j.a = (agq_attention){
      .kv = &e->kv_layout,
      .group = group,
      .scale = model->attention_scale,
      .slopes = model->position_kind == AGQ_POSITION_ALIBI ? model->alibi_slopes : NULL,
      .q = e->qkv,
      .ldq = (size_t)(model->heads + 2 * kv_heads) * (size_t)model->head_dim,
      .cosines = rotary ? e->cosines + table : NULL,
      .sines = rotary ? e->sines + table : NULL,
      .half = e->half,
      .softcap = model->attention_softcap,
      .window = model->blocks[layer].window,
      .token_row = e->token_row,
      .token_position = e->active_position,
      .out = e->attended,
      .ldo = (size_t)model->heads * (size_t)model->head_dim,
  };
  const agq_log2_scales scales = log2_scales(e, layer);
  if (e->kv_layout.log2) j.a.log2 = &scales;
  if (e->prune.on) {
    const size_t region = (size_t)layer * (size_t)e->options.slots;
    if (agq_uses_distances(e) && !e->prune.paper) {
      j.a.key_position = e->prune.key_position + region * (size_t)e->kv_layout.positions;
      j.a.query_position = e->prune.place;
    }
    if (agq_prune_acts(e, layer)) j.a.first_share = e->prune.shares, j.a.heads = model->heads;
  }
  /* Decoding: one tile per token, all tokens active; then storing needs no pass of its own. */
  j.store_first = single && active == m && j.tiles == active;
  if (!j.store_first)
    agq_pass_run(e, AGQ_PROFILE_KV_STORE, store_task, &j, (m + STORE_TOKENS - 1) / STORE_TOKENS * kv_heads, 1);
  j.ranges = longest / AGQ_KEY_RANGE + 1;
  if (single && j.ranges > 1 && !e->kv_layout.log2 && j.tiles <= e->most_split_units / kv_heads) {
    agq_pass_run(e, AGQ_PROFILE_ATTENTION, range_task, &j, j.tiles * kv_heads * j.ranges, 1);
    agq_pass_run(e, AGQ_PROFILE_ATTENTION, merge_task, &j, j.tiles * kv_heads, 4);
  } else {
    agq_pass_run(e, AGQ_PROFILE_ATTENTION, tile_task, &j, j.tiles * kv_heads, 1);
  }
}
