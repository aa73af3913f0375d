/* attention_block.h: one block of AGQ_KEY_BLOCK keys and the rows of a tile that see some of it: scores, probabilities,
 * and what both add to the states. attention.c, which alone includes it, walks over the blocks.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_ATTENTION_BLOCK_H
#define AGQ_ATTENTION_BLOCK_H

#include <math.h>
#include <string.h>

#include "attention.h"
#include "ops.h"
#include "vmath.h"

enum { CONVERT_ROWS = 12, LANES = 16 /* of the sums, at every level (vec.h) */ };
static const float LOG2_E = 1.44269504f;

/* What a thread needs for a tile. Queries, scores and states of a row are contiguous. */
typedef struct {
  const agq_attention *a;
  const char *region;
  int rows;
  const int32_t *position, *begin;                    /* [row] of the query, and its first key */
  float *q, *scores;                                  /* [rows][width], [rows][64] */
  float *state, *total;                               /* [rows][width] each: of the current range, and merged */
  float *max, *carry, *total_max, *total_sum, *lanes; /* [rows]; lanes: [rows][LANES] sums of the current range */
  float *slope;                                       /* [rows], times log2 e */
  float *first;                                       /* [rows] score of key 0 */
  int32_t *place;                                     /* [rows] position of the query, with key_position */
  float *key_block, *value_block;                     /* [head_dim][64], [64][width] as floats */
  float *key_scale, *value_scale;                     /* [64] of the current block */
} tile;

static void widen(const int8_t *from, float *to, size_t n) {
  for (size_t i = 0; i < n; i += VW) vstore(to + i, vload_i8(from + i));
}

/* Keys and values are bytes times one scale for each position. */
static int byte_operands(const agq_kv_layout *kv) { return kv->bits == 8 || (kv->bits == 4 && kv->groups == 1); }

/* Factors of the scores (with log2 e, so that probabilities are powers of 2) and of the values of one block. */
static void block_scales(const tile *t, int key) {
  const agq_kv_layout *kv = t->a->kv;
  const vf factor = vset(t->a->scale * LOG2_E);
  const float *ks = (const float *)(t->region + kv->key_scale_offset) + key;
  const float *vs = (const float *)(t->region + kv->value_scale_offset) + key;
  for (int j = 0; j < AGQ_KEY_BLOCK; j += VW) {
    vf k = factor, v = vset(1);
    if (byte_operands(kv)) {
      k *= vload(ks + j);
      v = vload(vs + j);
    }
    vstore(t->key_scale + j, k);
    vstore(t->value_scale + j, v);
  }
}

/* Scores of a row: scaled, capped, biased, masked behind the query and before its window; and their maximum. `cols`
 * scores of the block were computed. special 0: there is neither cap nor window. */
VINLINE void row_scores(const tile *t, int row, int key, int cols, const int special) {
  float *s = t->scores + (size_t)row * AGQ_KEY_BLOCK;
  const int ahead = t->position[row] - key; /* last key of the block that the query sees, if < 63 */
  const int before = t->begin[row] - key;   /* first one, if > 0 */
  const vf cap = vset(t->a->softcap * LOG2_E), inverse = vset(special && t->a->softcap > 0 ? 1 / cap[0] : 0);
  const vi lanes = vlanes();
  vf max = vset(-INFINITY);
  for (int j = 0; j < cols; j += VW) {
    vf v = vload(s + j) * vload(t->key_scale + j);
    if (special && t->a->softcap > 0) v = vcap(v, cap, inverse);
    const vi behind = lanes + viset(j - ahead); /* key - query */
    if (t->a->slopes) {
      vi distance = behind;
      if (t->a->key_position) {
        memcpy(&distance, t->a->key_position + key + j, sizeof distance);
        distance -= viset(t->place[row]);
      }
      v = vmadd(vset(t->slope[row]), __builtin_convertvector(distance, vf), v);
    }
    if (j + VW > ahead) v = vselect((vi)(behind > viset(0)), vset(-INFINITY), v);
    if (special && j < before) v = vselect((vi)(lanes + viset(j) < viset(before)), vset(-INFINITY), v);
    vstore(s + j, v);
    max = vmax(max, v);
  }
  if (key == 0) t->first[row] = s[0];
  const float m = vmax_lane(max);
  t->carry[row] = t->max[row];
  t->max[row] = m > t->max[row] ? m : t->max[row];
}

/* Scores to probabilities (times the value scales), and their sum. Exactly 0 for keys that the query does not see, of
 * which vexp2 would make 2^-126. */
VINLINE void row_probabilities(const tile *t, int row, int key, int cols, const int special) {
  float *s = t->scores + (size_t)row * AGQ_KEY_BLOCK;
  const int ahead = t->position[row] - key, before = t->begin[row] - key;
  const vf max = vset(t->max[row]);
  const vi lanes = vlanes();
  float *sums = t->lanes + (size_t)row * LANES;
  vf sum[LANES / VW];
  for (int i = 0; i < LANES / VW; i++) sum[i] = vload(sums + i * VW) * vset(t->carry[row]);
  for (int k = 0; k < cols; k += LANES)
    for (int i = 0; i < LANES / VW; i++) {
      const int j = k + i * VW;
      vf p = vexp2(vload(s + j) - max);
      if (j + VW > ahead) p = vselect((vi)(lanes + viset(j - ahead) > viset(0)), vset(0), p);
      if (special && j < before) p = vselect((vi)(lanes + viset(j) < viset(before)), vset(0), p);
      sum[i] += p;
      vstore(s + j, p * vload(t->value_scale + j));
    }
  for (int i = 0; i < LANES / VW; i++) vstore(sums + i * VW, sum[i]);
}

/* Sets the states of rows [from, to) to those before any key. */
static void clear_states(const tile *t, int from, int to) {
  for (int r = from; r < to; r++) t->max[r] = -INFINITY;
  memset(t->lanes + (size_t)from * LANES, 0, (size_t)(to - from) * LANES * sizeof(float));
}

/* One block of keys for rows [from, to), all of which see some of it. Those from `fresh` on see none before it in the
 * range. */
static void tile_block(const tile *t, int key, int from, int to, int fresh) {
  const agq_kv_layout *kv = t->a->kv;
  const int rows = to - from, last = t->position[to - 1], special = t->a->window || t->a->softcap > 0;
  const int keys = last - key + 1 < AGQ_KEY_BLOCK ? last - key + 1 : AGQ_KEY_BLOCK, cols = (keys + 15) / 16 * 16;
  const size_t w = (size_t)kv->width, n = (size_t)kv->head_dim;
  const int i8 = byte_operands(kv), u4 = kv->bits == 4, convert = i8 && rows >= CONVERT_ROWS;
  const size_t element = i8 ? 1 : sizeof(float);
  const void *k = t->region + (size_t)key * n * element, *v = t->region + kv->value_offset + (size_t)key * w * element;
  if (u4) {
    /* Bytes go where the other block will be, so that they can be widened to their own. */
    void *to = i8 ? (void *)t->value_block : t->key_block;
    if (i8) agq_kv4_key_codes(kv, t->region, key, to);
    else agq_kv4_keys(kv, t->region, key, cols, to);
    k = to;
  }
  if (convert) {
    widen(k, t->key_block, n * AGQ_KEY_BLOCK);
    k = t->key_block;
  }
  block_scales(t, key);
  agq_block_product(t->q + (size_t)from * w, w, k, i8 && !convert, AGQ_KEY_BLOCK, rows, cols, (int)n,
                    t->scores + (size_t)from * AGQ_KEY_BLOCK, AGQ_KEY_BLOCK, NULL);
  clear_states(t, fresh, to);
  if (fresh > from) memset(t->state + (size_t)fresh * w, 0, (size_t)(to - fresh) * w * sizeof(float));
  if (special)
    for (int r = from; r < to; r++) row_scores(t, r, key, cols, 1);
  else
    for (int r = from; r < to; r++) row_scores(t, r, key, cols, 0);
  for (int r = from; r < to; r += VW) {
    const int m = to - r < VW ? to - r : VW;
    vstore_n(t->carry + r, vexp2(vload_n(t->carry + r, m) - vload_n(t->max + r, m)), m);
  }
  if (special)
    for (int r = from; r < to; r++) row_probabilities(t, r, key, cols, 1);
  else
    for (int r = from; r < to; r++) row_probabilities(t, r, key, cols, 0);
  if (u4) {
    void *to = i8 ? (void *)t->key_block : t->value_block;
    if (i8) agq_kv4_value_codes(kv, t->region, key, keys, to);
    else agq_kv4_values(kv, t->region, key, keys, to);
    v = to;
  }
  if (convert) {
    widen(v, t->value_block, w * (size_t)keys);
    v = t->value_block;
  }
  agq_block_product(t->scores + (size_t)from * AGQ_KEY_BLOCK, AGQ_KEY_BLOCK, v, i8 && !convert, w, rows, (int)w, keys,
                    t->state + (size_t)from * w, w, fresh > from ? t->carry + from : NULL);
}

#endif
