/* attention.c: see attention.h for the order of operations, which fixes the bits of the result.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "attention.h"

#include "attention_block.h"
#include "attention_log2.h"

enum { MOST_ROWS = 96, TILE_FLOATS = 6144 };

int agq_attention_tile_rows(const agq_kv_layout *kv) {
  if (kv->log2) return AGQ_LOG2_ROWS;
  int rows = TILE_FLOATS / kv->width / 6 * 6;
  return rows < 6 ? 6 : rows > MOST_ROWS ? MOST_ROWS : rows;
}

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
