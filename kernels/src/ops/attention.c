/* attention.c: see attention.h for the order of operations, which fixes the bits of the result.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "attention.h"

#include <math.h>

#include "attention_log2.h"
#include "ops.h"
#include "vmath.h"

enum { MOST_ROWS = 96, TILE_FLOATS = 6144, CONVERT_ROWS = 12, LANES = 16 /* of the sums, at every level (vec.h) */ };
static const float LOG2_E = 1.44269504f;

int agq_attention_tile_rows(const agq_kv_layout *kv) {
  if (kv->log2) return AGQ_LOG2_ROWS;
  int rows = TILE_FLOATS / kv->width / 6 * 6;
  return rows < 6 ? 6 : rows > MOST_ROWS ? MOST_ROWS : rows;
}

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

size_t agq_attention_scratch(const agq_kv_layout *kv, int rows) {
  const size_t r = (size_t)rows, w = (size_t)kv->width;
  if (kv->log2) return agq_attention_log2_scratch(kv);
  return r * (3 * w + AGQ_KEY_BLOCK + 10 + LANES) + 2 * w * AGQ_KEY_BLOCK + 2 * AGQ_KEY_BLOCK + 17 * 16;
}

static float *take(float **scratch, size_t n) {
  float *p = *scratch;
  *scratch += (n + 15) / 16 * 16;
  return p;
}

int agq_attention_first_key(const agq_attention *a, int token) {
  const int last = a->token_position[token];
  if (!a->window) return 0;
  if (!a->key_position) return last >= a->window ? last - a->window + 1 : 0;
  const int before = a->query_position[a->token_row[token]] - a->window; /* the last position that it does not see */
  int low = 0, high = last;
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (a->key_position[middle] > before) high = middle;
    else low = middle + 1;
  }
  return low;
}

static tile tile_open(const agq_attention *a, const char *region, int kv_head, int first, int begin, int end,
                      float *scratch) {
  const agq_kv_layout *kv = a->kv;
  const size_t r = (size_t)(end - begin), w = (size_t)kv->width, n = (size_t)kv->head_dim;
  tile t = {.a = a, .region = region, .rows = end - begin};
  t.q = take(&scratch, r * w);
  t.state = take(&scratch, r * w);
  t.total = take(&scratch, r * w);
  t.scores = take(&scratch, r * AGQ_KEY_BLOCK);
  t.lanes = take(&scratch, r * LANES);
  t.key_block = take(&scratch, w * AGQ_KEY_BLOCK);
  t.value_block = take(&scratch, w * AGQ_KEY_BLOCK);
  t.key_scale = take(&scratch, AGQ_KEY_BLOCK);
  t.value_scale = take(&scratch, AGQ_KEY_BLOCK);
  t.max = take(&scratch, r);
  t.carry = take(&scratch, r);
  t.total_max = take(&scratch, r);
  t.total_sum = take(&scratch, r);
  t.slope = take(&scratch, r);
  t.first = take(&scratch, r);
  t.place = (int32_t *)take(&scratch, r);
  int32_t *position = (int32_t *)take(&scratch, r), *first_key = (int32_t *)take(&scratch, r);
  t.position = position, t.begin = first_key;
  for (int i = 0; i < t.rows; i++) {
    const int token = first + (begin + i) / a->group, head = kv_head * a->group + (begin + i) % a->group;
    const size_t row = (size_t)a->token_row[token];
    const float *q = a->q + row * a->ldq + (size_t)head * n;
    float *to = t.q + (size_t)i * w;
    position[i] = a->token_position[token];
    first_key[i] = agq_attention_first_key(a, token);
    t.first[i] = -INFINITY; /* until key 0 has gone by */
    t.place[i] = a->key_position ? a->query_position[row] : 0;
    t.slope[i] = a->slopes ? a->slopes[head] * LOG2_E : 0;
    const size_t at = row * (size_t)a->half;
    if (a->cosines) agq_rope_row(q, a->cosines + at, a->sines + at, to, a->half, (int)n);
    else memcpy(to, q, n * sizeof(float));
    if (kv->hadamard) agq_hadamard_row(to, to, (int)n, kv->hadamard);
  }
  return t;
}

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

/* Computes the states of a range for the rows [*first, end) that see some of it; returns the end. Positions and first
 * keys of the rows ascend. */
static int tile_range(const tile *t, int range, int *first) {
  const int begin = range * AGQ_KEY_RANGE, end = begin + AGQ_KEY_RANGE, last = t->position[t->rows - 1];
  *first = 0;
  while (t->position[*first] < begin) ++*first;
  int to = *first; /* rows that see a block: up to here */
  for (int key = begin, from = *first; key < end && key <= last; key += AGQ_KEY_BLOCK) {
    while (t->position[from] < key) from++;
    const int fresh = to > from ? to : from;
    for (to = fresh; to < t->rows && t->begin[to] < key + AGQ_KEY_BLOCK;) to++;
    if (to > from) tile_block(t, key, from, to, fresh);
  }
  return to;
}

/* (x, xm, xs) += (y, ym, ys) */
static void merge(float *x, float *xm, float *xs, const float *y, float ym, float ys, int width) {
  const float m = *xm > ym ? *xm : ym;
  const vf p = vexp2(vset(*xm - m)), q = vexp2(vset(ym - m));
  for (int i = 0; i < width; i += VW) vstore(x + i, vmadd(vload(y + i), q, vload(x + i) * p));
  const vf sum = vmadd(vset(ys), q, vset(*xs) * p);
  *xs = sum[0];
  *xm = m;
}

static void write_row(const agq_attention *a, int kv_head, int first, int row, const float *x, float sum) {
  const int token = first + row / a->group, head = kv_head * a->group + row % a->group, n = a->kv->head_dim;
  float *out = a->out + (size_t)token * a->ldo + (size_t)head * (size_t)n;
  const float f = 1.0f / sum;
  int i = 0;
  for (; i + VW <= n; i += VW) vstore(out + i, vload(x + i) * vset(f));
  for (; i < n; i++) out[i] = x[i] * f;
}

void agq_attention_tile(const agq_attention *a, const char *region, int kv_head, int first, int begin, int end,
                        float *scratch) {
  tile t = tile_open(a, region, kv_head, first, begin, end, scratch);
  const size_t w = (size_t)a->kv->width;
  for (int range = t.begin[0] / AGQ_KEY_RANGE; range <= t.position[t.rows - 1] / AGQ_KEY_RANGE; range++) {
    int from;
    const int to = tile_range(&t, range, &from);
    for (int r = from; r < to; r++) {
      float *state = t.state + (size_t)r * w, *total = t.total + (size_t)r * w;
      const float sum = vsum_lanes(t.lanes + (size_t)r * LANES, LANES);
      if (range == t.begin[r] / AGQ_KEY_RANGE) {
        memcpy(total, state, w * sizeof(float));
        t.total_max[r] = t.max[r];
        t.total_sum[r] = sum;
      } else {
        merge(total, &t.total_max[r], &t.total_sum[r], state, t.max[r], sum, a->kv->width);
      }
    }
  }
  for (int r = 0; r < t.rows; r++) write_row(a, kv_head, first, begin + r, t.total + (size_t)r * w, t.total_sum[r]);
  for (int r = 0; a->first_share && r < t.rows; r++) {
    const int row = begin + r, head = kv_head * a->group + row % a->group;
    const vf p = vexp2(vset(t.first[r] - t.total_max[r]));
    float *share = a->first_share + (size_t)(first + row / a->group) * (size_t)a->heads + (size_t)head;
    *share = t.begin[r] ? 0 : p[0] / t.total_sum[r];
  }
}

void agq_attention_range(const agq_attention *a, const char *region, int kv_head, int first, int begin, int end,
                         int range, float *states, float *scratch) {
  tile t = tile_open(a, region, kv_head, first, begin, end, scratch);
  const size_t w = (size_t)a->kv->width;
  int from;
  const int end_row = tile_range(&t, range, &from);
  for (int r = from; r < end_row; r++) {
    float *to = states + (size_t)r * agq_attention_state(a->kv);
    memcpy(to, t.state + (size_t)r * w, w * sizeof(float));
    to[w] = t.max[r];
    to[w + 1] = vsum_lanes(t.lanes + (size_t)r * LANES, LANES);
  }
}

void agq_attention_merge(const agq_attention *a, int kv_head, int first, int row, int ranges, float *states,
                         size_t stride) {
  const int w = a->kv->width;
  for (int i = 1; i < ranges; i++) {
    const float *y = states + (size_t)i * stride;
    merge(states, &states[w], &states[w + 1], y, y[w], y[w + 1], w);
  }
  write_row(a, kv_head, first, row, states, states[w + 1]);
}
