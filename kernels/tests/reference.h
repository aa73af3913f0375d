/* reference.h: the forward pass in double precision, written straight from the definition.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_TEST_REFERENCE_H
#define AGQ_TEST_REFERENCE_H

#include "model.h"

static inline double *doubles(size_t n) { return calloc(n ? n : 1, sizeof(double)); }

/* Orthonormal, natural order. */
static inline void ref_hadamard(double *x, int n, int block) {
  for (int half = 1; half < block; half *= 2)
    for (int i = 0; i < n; i++)
      if (!(i & half)) {
        const double a = x[i], b = x[i + half];
        x[i] = a + b, x[i + half] = a - b;
      }
  for (int i = 0; i < n && block; i++) x[i] /= sqrt(block);
}

/* clip: share of the range that the codes cover. */
static inline void fake_quantize(double *x, int n, int bits, double clip) {
  if (bits == 32) return;
  double lo = 0, hi = 0, amax = 0;
  for (int i = 0; i < n; i++) lo = fmin(lo, x[i]), hi = fmax(hi, x[i]), amax = fmax(amax, fabs(x[i]));
  if (amax == 0) return;
  lo *= clip, hi *= clip, amax *= clip;
  if (bits == 8) {
    for (int i = 0; i < n; i++) x[i] = fmin(fmax(rint(x[i] * 127 / amax), -127), 127) * amax / 127;
  } else {
    const double scale = (hi - lo) / 15, zero = rint(-lo / scale);
    for (int i = 0; i < n; i++) x[i] = (fmin(fmax(rint(x[i] / scale) + zero, 0), 15) - zero) * scale;
  }
}

/* sink: 4-bit activations have 8 bits per token instead. */
static inline void ref_linear(const agq_linear *l, const dense *d, const double *x, double *y, int sink) {
  const int in = l->in_features, eight = sink && l->act_bits == 4, group = l->act_group && !eight ? l->act_group : in;
  const double clip = l->act_clip > 0 && !eight ? (double)l->act_clip : 1;
  double *q = doubles((size_t)in);
  for (int c = 0; c < in; c++) q[c] = x[l->input_order ? (int)l->input_order[c] : c];
  ref_hadamard(q, in, l->hadamard);
  for (int c = 0; c < in && l->act_static; c++) {
    const double step = (double)l->act_scale * (1 << l->act_exponent[c]);
    q[c] = (fmin(fmax(rint(q[c] / step) + l->act_zero, 0), 15) - l->act_zero) * step;
  }
  for (int g = 0; g < in && !l->act_static; g += group) fake_quantize(q + g, group, eight ? 8 : l->act_bits, clip);
  for (int r = 0; r < l->out_features; r++) {
    double s = d->bias ? d->bias[r] : 0;
    for (int c = 0; c < in; c++) s += (double)d->w[(size_t)r * (size_t)in + (size_t)c] * q[c];
    y[r] = s;
  }
  free(q);
}

static inline void ref_norm(const test_model *t, const agq_norm *norm, const double *x, double *y) {
  const int n = t->s.hidden;
  double mean = 0, variance = 0;
  if (t->s.norm == AGQ_NORM_LAYER)
    for (int i = 0; i < n; i++) mean += x[i] / n;
  for (int i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean) / n;
  const double f = 1 / sqrt(variance + (double)t->m.norm_eps);
  for (int i = 0; i < n; i++)
    y[i] = (x[i] - mean) * f * (double)norm->weight[i] + (norm->bias ? (double)norm->bias[i] : 0);
}

static inline double ref_activation(int kind, double x) {
  if (kind == AGQ_ACTIVATION_RELU) return x > 0 ? x : 0;
  if (kind == AGQ_ACTIVATION_GELU_ERF || kind == AGQ_ACTIVATION_GELU_ERF_GATED) return 0.5 * x * (1 + erf(x / sqrt(2)));
  if (kind == AGQ_ACTIVATION_GELU_TANH || kind == AGQ_ACTIVATION_GELU_TANH_GATED)
    return 0.5 * x * (1 + tanh(0.79788456 * x * (1 + 0.044715 * x * x)));
  return x / (1 + exp(-x));
}

static inline void ref_rope(const test_model *t, int layer, double *x, int position) {
  const int half = (t->s.rotary_dim ? t->s.rotary_dim : t->s.head_dim) / 2, local = t->s.local >> layer & 1;
  if (t->s.unrotated >> layer & 1) return;
  const double scaling = (double)(local ? t->local_scaling : t->rope_scaling);
  for (int i = 0; i < half; i++) {
    const double angle = (double)((local ? t->local_freq : t->inv_freq)[i] * (float)position), a = x[i],
                 b = x[i + half];
    x[i] = (a * cos(angle) - b * sin(angle)) * scaling;
    x[i + half] = (b * cos(angle) + a * sin(angle)) * scaling;
  }
}

/* RMSNorm of n values. */
static inline void ref_gains(const test_model *t, const agq_norm *norm, double *x, int n) {
  double squares = 0;
  for (int i = 0; i < n; i++) squares += x[i] * x[i] / n;
  for (int i = 0; i < n; i++) x[i] *= (double)norm->weight[i] / sqrt(squares + (double)t->m.norm_eps);
}

static inline void ref_qk_norm(const test_model *t, const agq_block *b, double *row) {
  const int d = t->s.head_dim, q = t->s.heads * d, kv = t->s.kv_heads * d;
  if (t->s.qk_norm == AGQ_QK_NORM_WHOLE) ref_gains(t, &b->q_norm, row, q), ref_gains(t, &b->k_norm, row + q, kv);
  if (t->s.qk_norm != AGQ_QK_NORM_HEAD) return;
  for (int c = 0; c < q; c += d) ref_gains(t, &b->q_norm, row + c, d);
  for (int c = q; c < q + kv; c += d) ref_gains(t, &b->k_norm, row + c, d);
}

static inline double ref_cap(double x, double cap) { return cap > 0 ? cap * tanh(x / cap) : x; }
static inline double ref_factor(float factor) { return factor == 0 ? 1 : (double)factor; }

static inline void fixed_codes(double *x, int n, double step, int zero, int lo, int hi) {
  for (int i = 0; i < n; i++) x[i] = (fmin(fmax(rint(x[i] / step) + zero, lo), hi) - zero) * step;
}

/* Integer attention: queries, keys and values of a row on their static scales. */
static inline void ref_log2_row(const test_model *t, const agq_block *b, double *row) {
  const int d = t->s.head_dim, heads = t->s.heads, kv_heads = t->s.kv_heads;
  for (int h = 0; h < heads; h++) fixed_codes(row + h * d, d, (double)b->q_scale[h], 0, -127, 127);
  for (int h = 0; h < kv_heads; h++) fixed_codes(row + (heads + h) * d, d, (double)b->k_scale[h], 0, -127, 127);
  for (int c = 0; c < kv_heads * d; c++)
    fixed_codes(row + (heads + kv_heads) * d + c, 1, (double)b->v_scale * (1 << b->v_exponent[c]), b->v_zero, 0, 255);
}

/* Attention of the last of `count` tokens over all of them: token j stands in row rows[j] of qkv, at place[j] for
 * ALiBi. share[heads] (may be NULL): the probability of the first. */
static inline void ref_attention(const test_model *t, int layer, const double *qkv, const int *rows, const int *place,
                                 int count, double *out, double *share) {
  const int window = t->s.windowed >> layer & 1 ? t->s.window : 0;
  const int d = t->s.head_dim, heads = t->s.heads, kv_heads = t->s.kv_heads;
  const size_t row = (size_t)(heads + 2 * kv_heads) * (size_t)d;
  double *p = doubles((size_t)count);
  for (int h = 0; h < heads; h++) {
    const double *q = qkv + (size_t)rows[count - 1] * row + h * d;
    const int kv = h / (heads / kv_heads);
    double max = -INFINITY, sum = 0;
    for (int j = 0; j < count; j++) {
      const double *k = qkv + (size_t)rows[j] * row + (heads + kv) * d;
      double s = 0;
      for (int i = 0; i < d; i++) s += q[i] * k[i];
      p[j] = ref_cap(s * (double)t->m.attention_scale, (double)t->s.attention_softcap) +
             (t->s.position == AGQ_POSITION_ALIBI ? (double)t->slopes[h] * (place[j] - place[count - 1]) : 0);
      if (window && place[j] <= place[count - 1] - window) p[j] = -INFINITY;
      max = fmax(max, p[j]);
    }
    for (int j = 0; j < count; j++) sum += p[j] = exp(p[j] - max);
    for (int j = 0; j < count; j++) p[j] /= sum;
    if (share) share[h] = p[0];
    for (int j = 0; j < count && t->s.log2; j++) p[j] = rint(-log2(p[j])) < 16 ? exp2(-rint(-log2(p[j]))) : 0;
    for (int i = 0; i < d; i++) {
      double s = 0;
      for (int j = 0; j < count; j++) s += p[j] * qkv[(size_t)rows[j] * row + (heads + kv_heads + kv) * d + i];
      out[h * d + i] = s;
    }
  }
  free(p);
}

/* One layer removes the tokens whose `kept` is 0, after its attention. */
typedef struct {
  int layer, renumber;
  const uint8_t *kept; /* [n] */
  double *shares;      /* [n][heads]: attention to the first token in that layer */
} ref_pruning;

/* logits[n][vocab] of one sequence; keys and values at `kv_bits`; pruning: NULL or what was removed. */
static inline void reference(const test_model *t, const int32_t *tokens, int n, int kv_bits, const ref_pruning *pruning,
                             double *logits) {
  const test_shape *s = &t->s;
  const agq_model *m = &t->m;
  const size_t hidden = (size_t)s->hidden, row = (size_t)(s->heads + 2 * s->kv_heads) * (size_t)s->head_dim;
  double *h = doubles((size_t)n * hidden), *x = doubles(hidden), *y = doubles(hidden), *qkv = doubles((size_t)n * row);
  double *attended = doubles((size_t)s->heads * (size_t)s->head_dim), *ffn = doubles(2 * (size_t)s->ffn),
         *e = doubles((size_t)s->embed_dim);
  const double residual = ref_factor(s->residual_factor);
  int *rows = calloc((size_t)n, sizeof *rows), *place = calloc((size_t)n, sizeof *place), count = n;
  for (int i = 0; i < n; i++) rows[i] = place[i] = i;
  for (int i = 0; i < n; i++) {
    double *hi = h + (size_t)i * hidden;
    for (int c = 0; c < s->embed_dim; c++)
      e[c] = (double)t->embed[(size_t)tokens[i] * (size_t)s->embed_dim + (size_t)c] * ref_factor(s->embed_factor);
    if (m->project_in.in_features) ref_linear(&m->project_in, &t->project_in, e, hi, 0);
    else memcpy(hi, e, hidden * sizeof *hi);
    for (size_t c = 0; t->position && c < hidden; c++)
      hi[c] += (double)t->position[(size_t)(i + POSITION_OFFSET) * hidden + c];
    if (s->embed_norm) ref_norm(t, &m->embed_norm, hi, hi);
  }
  for (int l = 0; l < s->layers; l++) {
    const agq_block *b = &t->blocks[l];
    const int prunes = pruning && pruning->layer == l;
    for (int j = 0; j < count; j++) {
      const int i = rows[j];
      double *r = qkv + (size_t)i * row;
      memcpy(x, h + (size_t)i * hidden, hidden * sizeof *x);
      if (!s->norm_after && !s->no_pre_norms) ref_norm(t, &b->attn_norm, x, x);
      ref_linear(&b->qkv, &t->qkv[l], x, r, i < s->sinks);
      ref_qk_norm(t, b, r);
      for (int k = 0; t->inv_freq && k < s->heads + s->kv_heads; k++) ref_rope(t, l, r + k * s->head_dim, place[j]);
      if (s->log2) {
        ref_log2_row(t, b, r);
        continue;
      }
      const int group = kv_bits == 4 && s->head_dim % 128 == 0 ? 128 : s->head_dim;
      if (kv_bits == 4) ref_hadamard(r, (s->heads + s->kv_heads) * s->head_dim, s->head_dim & -s->head_dim);
      for (int k = s->heads * s->head_dim; k < (s->heads + 2 * s->kv_heads) * s->head_dim; k += group)
        fake_quantize(r + k, group, kv_bits, 1);
    }
    for (int j = 0; j < count; j++) {
      const int i = rows[j];
      double *hi = h + (size_t)i * hidden;
      ref_attention(t, l, qkv, rows, place, j + 1, attended,
                    prunes ? pruning->shares + (size_t)i * (size_t)s->heads : NULL);
      ref_linear(&b->out, &t->out[l], attended, y, i < s->sinks);
      if (s->residual_from_norm) ref_norm(t, &b->attn_norm, hi, hi);
      if (s->post_norms) ref_norm(t, &b->attn_post_norm, y, y);
      memcpy(x, hi, hidden * sizeof *x); /* parallel: what the feed-forward part reads */
      for (size_t c = 0; c < hidden; c++) hi[c] += y[c] * residual;
      if (s->norm_after) ref_norm(t, &b->attn_norm, hi, hi);
      if (prunes && !pruning->kept[i]) continue; /* its state ends here */
      if (!s->parallel) memcpy(x, hi, hidden * sizeof *x);
      if (!s->norm_after && !s->no_pre_norms) ref_norm(t, &b->mlp_norm, x, x);
      ref_linear(&b->up, &t->up[l], x, ffn, i < s->sinks);
      for (int c = 0; c < s->ffn; c++)
        ffn[c] = ref_activation(s->activation, ffn[c]) * (agq_gated(s->activation) ? ffn[c + s->ffn] : 1);
      ref_linear(&b->down, &t->down[l], ffn, y, i < s->sinks);
      if (s->residual_from_norm) memcpy(hi, x, hidden * sizeof *x);
      if (s->post_norms) ref_norm(t, &b->mlp_post_norm, y, y);
      for (size_t c = 0; c < hidden; c++) hi[c] += y[c] * residual;
      if (s->norm_after) ref_norm(t, &b->mlp_norm, hi, hi);
    }
    if (prunes) {
      int left = 0;
      for (int j = 0; j < count; j++)
        if (pruning->kept[rows[j]]) {
          place[left] = pruning->renumber ? left : place[j];
          rows[left++] = rows[j];
        }
      count = left;
    }
  }
  for (int i = 0; i < n; i++) {
    double *hi = h + (size_t)i * hidden;
    if (s->final_norm) ref_norm(t, &m->final_norm, hi, hi);
    if (m->project_out.in_features) ref_linear(&m->project_out, &t->project_out, hi, e, 0);
    else memcpy(e, hi, hidden * sizeof *e);
    double *to = logits + (size_t)i * (size_t)s->vocab;
    ref_linear(&m->head, &t->head, e, to, 0);
    for (int c = 0; c < s->vocab; c++) to[c] = ref_cap(to[c] * ref_factor(s->logit_factor), (double)s->logit_softcap);
  }
  free(h), free(x), free(y), free(qkv), free(attended), free(ffn), free(e), free(rows), free(place);
}

/* |x - y| / |y| over n values. */
static inline double relative_error(const float *x, const double *y, size_t n) {
  double error = 0, size = 0;
  for (size_t i = 0; i < n; i++) error += ((double)x[i] - y[i]) * ((double)x[i] - y[i]), size += y[i] * y[i];
  return sqrt(error / size);
}

#endif
