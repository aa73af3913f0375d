/* attention_log2.c: see attention_log2.h.
 *
 * Scores are exact: products of int8 codes summed in float32, below 2^24 for heads of up to 1024. A probability is the
 * power of two 2^-k with k = rint(-log2 p), and nothing where k >= 16; p follows from the row's maximum and sum, so
 * rows are computed whole, keys in ascending order. A row of such probabilities adds up to less than sqrt 2, which
 * bounds every accumulator by 128 * 2^15 * sqrt 2 < 2^23 and makes its conversion to float exact.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "attention_log2.h"

#include <math.h>
#include <string.h>

#include "ops.h"
#include "vmath.h"

enum { LANES = 16 };
static const float LOG2_E = 1.44269504f;

agq_kv_layout agq_kv_layout_log2(int head_dim, int context) {
  agq_kv_layout kv = {.bits = 8, .head_dim = head_dim, .log2 = 1};
  if (context > INT32_MAX - AGQ_KEY_BLOCK || head_dim > AGQ_LOG2_HEAD_DIM) return kv;
  kv.width = (head_dim + 15) / 16 * 16;
  kv.positions = (context + AGQ_KEY_BLOCK - 1) / AGQ_KEY_BLOCK * AGQ_KEY_BLOCK;
  kv.value_offset = (size_t)kv.positions * (size_t)head_dim;
  kv.region_bytes = kv.value_offset + (size_t)kv.positions * (size_t)kv.width;
  return kv;
}

/* 2^n for n in -126..127, exactly. */
static float power2(int n) {
  const int32_t bits = (n + 127) << 23;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

/* lo for a NaN */
static float clamp(float x, float lo, float hi) { return x > lo ? x < hi ? x : hi : lo; }

void agq_kv_store_log2(const agq_kv_layout *kv, const agq_log2_scales *s, char *region, int kv_head, int position,
                       const float *key, const float *value) {
  const size_t n = (size_t)kv->head_dim;
  const uint8_t *exponent = s->v_exponent + (size_t)kv_head * n;
  int8_t *k = (int8_t *)region + (size_t)(position / AGQ_KEY_BLOCK) * n * AGQ_KEY_BLOCK + position % AGQ_KEY_BLOCK;
  int8_t *v = (int8_t *)(region + kv->value_offset) + (size_t)position * (size_t)kv->width;
  const float key_inv = 1.0f / s->k_scale[kv_head], value_inv = 1.0f / s->v_scale;
  for (size_t i = 0; i < n; i++) {
    k[i * AGQ_KEY_BLOCK] = (int8_t)clamp(rintf(key[i] * key_inv), -127, 127);
    v[i] = (int8_t)(clamp(rintf(value[i] * (value_inv * power2(-exponent[i]))) + (float)s->v_zero, 0, 255) - 128);
  }
}

static float *take(float **scratch, size_t n) {
  float *p = *scratch;
  *scratch += (n + 15) / 16 * 16;
  return p;
}

/* Queries, scores, sums of a row; accumulators; which keys count, and by how much they are shifted. */
size_t agq_attention_log2_scratch(const agq_kv_layout *kv) {
  return (size_t)kv->width * (AGQ_LOG2_ROWS + 1) + (size_t)kv->positions * (AGQ_LOG2_ROWS + 2) + LANES + 6 * 16;
}

/* The codes of a query; 0 where it is not finite. */
static int query_codes(const agq_attention *a, int head, size_t row, float *to) {
  const size_t n = (size_t)a->kv->head_dim;
  const float *q = a->q + row * a->ldq + (size_t)head * n, inv = 1.0f / a->log2->q_scale[head];
  const size_t at = row * (size_t)a->half;
  if (a->cosines) agq_rope_row(q, a->cosines + at, a->sines + at, to, a->half, (int)n);
  else memcpy(to, q, n * sizeof(float));
  const int finite = agq_finite_row(to, (int)n);
  for (size_t i = 0; i < n; i++) to[i] = clamp(rintf(to[i] * inv), -127, 127);
  return finite;
}

/* Scores to base 2 of keys begin..last (the others of their vectors -inf); returns log2 of the sum of their powers. */
static float log2_sum(const agq_attention *a, int head, int kv_head, int place, int begin, int last, float *s,
                      float *lanes) {
  const agq_log2_scales *l = a->log2;
  const vf factor = vset(l->q_scale[head] * l->k_scale[kv_head] * a->scale * LOG2_E);
  const vf slope = vset(a->slopes ? a->slopes[head] * LOG2_E : 0);
  const vf cap = vset(a->softcap * LOG2_E), inverse = vset(a->softcap > 0 ? 1 / cap[0] : 0);
  const int from = begin / LANES * LANES, cols = (last + LANES) / LANES * LANES;
  vf max = vset(-INFINITY);
  for (int j = from; j < cols; j += VW) {
    vf v = vload(s + j) * factor;
    if (a->softcap > 0) v = vcap(v, cap, inverse);
    const vi behind = vlanes() + viset(j - last); /* key - query */
    if (a->slopes) {
      vi distance = behind;
      if (a->key_position) {
        memcpy(&distance, a->key_position + j, sizeof distance);
        distance -= viset(place);
      }
      v = vmadd(slope, __builtin_convertvector(distance, vf), v);
    }
    v = vselect((vi)(behind > viset(0)), vset(-INFINITY), v);
    if (j < begin) v = vselect((vi)(vlanes() + viset(j) < viset(begin)), vset(-INFINITY), v);
    vstore(s + j, v);
    max = vmax(max, v);
  }
  const float top = vmax_lane(max);
  vf sum[LANES / VW];
  for (int i = 0; i < LANES / VW; i++) sum[i] = vset(0);
  for (int j = from; j < cols; j += LANES)
    for (int i = 0; i < LANES / VW; i++) {
      const vf x = vload(s + j + i * VW);
      sum[i] += vselect((vi)(x > vset(-INFINITY)), vexp2(x - vset(top)), vset(0));
    }
  for (int i = 0; i < LANES / VW; i++) vstore(lanes + i * VW, sum[i]);
  return top + log2f(vsum_lanes(lanes, LANES));
}

/* Keys whose probability is not 0, and 15 - k of each; returns their number. */
static int exponents(const float *s, float total, int begin, int last, int32_t *keys, int32_t *shifts) {
  int count = 0;
  for (int j = begin / VW * VW; j <= last; j += VW) {
    const vf k = vmax(vrint(vmin(vset(total) - vload(s + j), vset(64))), vset(0));
    const vi shift = viset(AGQ_LOG2_FRACTION) - __builtin_convertvector(k, vi);
    int32_t lane[VW]; /* keys that the query does not see have -inf scores, so that k is 64 */
    memcpy(lane, &shift, sizeof lane);
    for (int i = 0; i < VW; i++) {
      keys[count] = j + i;
      shifts[count] = lane[i];
      count += lane[i] >= 0;
    }
  }
  return count;
}

/* acc[c] = sum over the keys of v[key][c] << shift, for `vectors` vectors of channels. */
VINLINE void shift_add(const int8_t *v, size_t width, const int32_t *keys, const int32_t *shifts, int count,
                       int vectors, int32_t *acc) {
  vi sum[8];
  for (int i = 0; i < vectors; i++) sum[i] = viset(0);
  for (int j = 0; j < count; j++) {
    const int8_t *row = v + (size_t)keys[j] * width;
    const vi shift = viset(shifts[j]);
    for (int i = 0; i < vectors; i++) sum[i] += vload_i8_int(row + i * VW) << shift;
  }
  memcpy(acc, sum, (size_t)vectors * sizeof(vi));
}

static void values(const int8_t *v, size_t width, const int32_t *keys, const int32_t *shifts, int count, int32_t *acc) {
  size_t c = 0;
  for (; c + 4 * VW <= width; c += 4 * VW) shift_add(v + c, width, keys, shifts, count, 4, acc + c);
  for (; c < width; c += VW) shift_add(v + c, width, keys, shifts, count, 1, acc + c);
}

static void write_row(const agq_attention *a, int kv_head, const int32_t *acc, const int32_t *shifts, int count,
                      float *out) {
  const agq_log2_scales *l = a->log2;
  const int n = a->kv->head_dim;
  const uint8_t *exponent = l->v_exponent + (size_t)kv_head * (size_t)n;
  int32_t total = 0;
  for (int j = 0; j < count; j++) total += (int32_t)1 << shifts[j];
  total *= 128 - l->v_zero;
  for (int c = 0; c < n; c++) out[c] = (float)(acc[c] + total) * (l->v_scale * power2(exponent[c] - AGQ_LOG2_FRACTION));
}

void agq_attention_log2_tile(const agq_attention *a, const char *region, int kv_head, int first, int begin, int end,
                             float *scratch) {
  const agq_kv_layout *kv = a->kv;
  const int rows = end - begin;
  const size_t w = (size_t)kv->width, n = (size_t)kv->head_dim, positions = (size_t)kv->positions;
  float *q = take(&scratch, w * AGQ_LOG2_ROWS), *scores = take(&scratch, positions * AGQ_LOG2_ROWS);
  float *lanes = take(&scratch, LANES);
  int32_t *acc = (int32_t *)take(&scratch, w), *keys = (int32_t *)take(&scratch, positions),
          *shifts = (int32_t *)take(&scratch, positions);
  int finite[AGQ_LOG2_ROWS];
  for (int r = 0; r < rows; r++)
    finite[r] = query_codes(a, kv_head * a->group + (begin + r) % a->group,
                            (size_t)a->token_row[first + (begin + r) / a->group], q + (size_t)r * w);
  for (int key = agq_attention_first_key(a, first + begin / a->group) / AGQ_KEY_BLOCK * AGQ_KEY_BLOCK, from = 0;
       from < rows; key += AGQ_KEY_BLOCK) {
    while (from < rows && a->token_position[first + (begin + from) / a->group] < key) from++;
    if (from < rows)
      agq_block_product(q + (size_t)from * w, w, region + (size_t)key * n, 1, AGQ_KEY_BLOCK, rows - from, AGQ_KEY_BLOCK,
                        (int)n, scores + (size_t)from * positions + key, positions, NULL);
  }
  for (int r = 0; r < rows; r++) {
    const int row = begin + r, token = first + row / a->group, head = kv_head * a->group + row % a->group;
    const int last = a->token_position[token], first_key = agq_attention_first_key(a, token);
    const int place = a->key_position ? a->query_position[a->token_row[token]] : 0;
    float *s = scores + (size_t)r * positions;
    const float total = log2_sum(a, head, kv_head, place, first_key, last, s, lanes);
    const int count = exponents(s, total, first_key, last, keys, shifts);
    values((const int8_t *)region + kv->value_offset, w, keys, shifts, count, acc);
    float *out = a->out + (size_t)token * a->ldo + (size_t)head * n;
    write_row(a, kv_head, acc, shifts, count, out);
    if (!finite[r]) out[0] = NAN;
    if (a->first_share)
      a->first_share[(size_t)token * (size_t)a->heads + (size_t)head] = first_key ? 0 : exp2f(s[0] - total);
  }
}
