/* model.h: small random models for the engine's tests: packed as the engine takes them, and dense for the reference.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_TEST_MODEL_H
#define AGQ_TEST_MODEL_H

#include <math.h>

#include "gemm/convert.h"
#include "ops/ops.h"
#include "test.h"

typedef struct {
  const char *name;
  int hidden, layers, heads, kv_heads, head_dim, ffn, vocab, embed_dim;
  int norm, position, activation, norm_after, residual_from_norm, embed_norm, final_norm, tied, bias;
  int weights;  /* AGQ_F32, AGQ_U4, AGQ_I8 */
  int act_bits; /* 32, 8, 4 */
  int head;     /* AGQ_F32, or AGQ_I8 or AGQ_I6 (with 8-bit activations) */
  int group;    /* of weights and 4-bit activations */
  int hadamard; /* 1: every linear but a tied head has the largest Walsh-Hadamard block that its width allows */
  int order;    /* 1: every linear but a tied head has its columns in an order of its own */
  float clip;   /* of the activations' range; 0: none */
  int embed8;   /* 1: an embedding of its own has 8-bit rows */
  int sinks;    /* sink_tokens */
  int zeros;    /* 1: 4-bit weights have zero points */
  int fixed;    /* 1: 4-bit activations are static */
  int log2;     /* 1: integer attention */
  int stored;   /* AGQ_F32, AGQ_F16 or AGQ_BF16: of the embedding and of learned positions */
  int no_pre_norms, post_norms, parallel, qk_norm, rotary_dim;
  int window, windowed; /* of the layers whose bits are set */
  int matrix;           /* 1: what the final norm gives goes through one before the head */
  int local, unrotated; /* layers with local rotary positions, and without any: bits */
  float embed_factor, residual_factor, logit_factor, attention_softcap, logit_softcap;
} test_shape;

enum { MAX_LAYERS = 4, POSITION_OFFSET = 2, MAX_POSITIONS = 2048 };

typedef struct {
  float *w, *bias; /* [out][in], [out] or NULL */
} dense;

typedef struct {
  test_shape s;
  agq_model m;
  agq_block blocks[MAX_LAYERS];
  dense qkv[MAX_LAYERS], out[MAX_LAYERS], up[MAX_LAYERS], down[MAX_LAYERS], head, project_in, project_out;
  float *embed, *position; /* dense [vocab][embed_dim], [MAX_POSITIONS][hidden] */
  float *inv_freq, rope_scaling, *slopes;
  float *local_freq, local_scaling; /* NULL: no layer has local rotary positions */
  void *owned[256];
  int owned_count;
} test_model;

static inline void *own(test_model *t, size_t bytes) {
  void *p = test_alloc(bytes);
  memset(p, 0, bytes);
  if (t->owned_count == 256) abort();
  return t->owned[t->owned_count++] = p;
}

static inline float *random_vector(test_model *t, size_t n, float center, float spread) {
  float *v = own(t, n * sizeof(float));
  for (size_t i = 0; i < n; i++) v[i] = center + spread * random_float();
  return v;
}

static inline float from_bf16(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

/* n random floats as `dtype`; *dense: the same as float32. */
static inline void *stored_vector(test_model *t, size_t n, int dtype, float spread, float **dense) {
  *dense = random_vector(t, n, 0, spread);
  if (dtype == AGQ_F32) return *dense;
  uint16_t *stored = own(t, n * 2);
  for (size_t i = 0; i < n; i++) {
    if (dtype == AGQ_BF16) stored[i] = test_bf16((*dense)[i]), (*dense)[i] = from_bf16(stored[i]);
    else /* exponents down to 2^-14 * spread: any bits below 0.5 */
      stored[i] = (uint16_t)((random_bits() & 0x83ff) | (uint16_t)random_int(6, 13) << 10),
      (*dense)[i] = agq_f16_float(stored[i]);
  }
  return stored;
}

/* A random linear of `dtype` in layout rl16, and the same dequantized. */
static inline void random_linear(test_model *t, agq_linear *l, dense *d, int out, int in, int dtype, int act_bits) {
  const int panels = (out + 15) / 16, padded = (in + 31) / 32 * 32,
            group = dtype == AGQ_U4 && t->s.group ? t->s.group : in, groups = in / group;
  memset(l, 0, sizeof *l);
  l->out_features = out;
  l->in_features = in;
  l->weight_dtype = dtype;
  l->scale_dtype = AGQ_BF16;
  l->act_bits = act_bits;
  l->act_symmetric = act_bits != 4;
  if (act_bits == 4) l->act_group = t->s.group;
  if (dtype == AGQ_U4) l->group_size = t->s.group;
  l->hadamard = t->s.hadamard ? in & -in : 0;
  if (t->s.order) l->input_order = random_order(own(t, (size_t)in * 4), in), l->input_order_bytes = (size_t)in * 4;
  l->act_clip = t->s.clip;
  if (act_bits == 4 && t->s.fixed) {
    uint8_t *exponent = own(t, (size_t)in);
    for (int c = 0; c < in; c++) exponent[c] = (uint8_t)random_int(0, 3);
    l->act_group = 0, l->act_clip = 0;
    l->act_static = 1, l->act_scale = 0.15f, l->act_zero = 7;
    l->act_exponent = exponent, l->act_exponent_bytes = (size_t)in;
  }
  d->w = own(t, (size_t)out * (size_t)in * sizeof(float));
  d->bias = t->s.bias ? random_vector(t, (size_t)out, 0, 0.1f) : NULL;
  l->bias = d->bias;
  l->weight_bytes = dtype == AGQ_F32 ? (size_t)panels * 16 * (size_t)in * 4
                                     : (size_t)panels * 2 * (size_t)padded *
                                           (dtype == AGQ_U4   ? 4
                                            : dtype == AGQ_I6 ? 6
                                                              : 8);
  uint8_t *w = own(t, l->weight_bytes);
  l->weight = w;
  if (dtype != AGQ_F32) {
    l->scale_bytes = (size_t)panels * (size_t)groups * 16 * 2;
    l->scale = own(t, l->scale_bytes);
  }
  int8_t *zero = NULL;
  if (dtype == AGQ_U4 && t->s.zeros) {
    l->zero_bytes = (size_t)panels * (size_t)groups * 16;
    l->zero = zero = own(t, l->zero_bytes);
    for (size_t i = 0; i < l->zero_bytes; i++) zero[i] = (int8_t)random_int(4, 11);
  }
  const float spread = 1.7f / sqrtf((float)in);
  for (int r = 0; r < out; r++)
    for (int c = 0; c < in; c++) {
      const size_t panel = (size_t)r / 16, lane = (size_t)r % 16, k = (size_t)c;
      float *value = &d->w[(size_t)r * (size_t)in + k];
      if (dtype == AGQ_F32) {
        *value = spread * random_float();
        ((float *)w)[(panel * (size_t)in + k) * 16 + lane] = *value;
        continue;
      }
      uint16_t *scale = (uint16_t *)l->scale + (panel * (size_t)groups + k / (size_t)group) * 16 + lane;
      if (c % group == 0)
        *scale = test_bf16(spread * (1.2f + 0.3f * random_float()) /
                           (dtype == AGQ_U4   ? 8
                            : dtype == AGQ_I6 ? 32
                                              : 127));
      if (dtype == AGQ_I8) {
        const int code = random_int(-127, 127);
        ((int8_t *)w)[panel * 16 * (size_t)padded + k / 4 * 64 + lane * 4 + k % 4] = (int8_t)code;
        *value = (float)code * from_bf16(*scale);
      } else if (dtype == AGQ_I6) {
        const int code = random_int(-32, 31), bits = code + 32;
        uint8_t *lines = w + panel * 12 * (size_t)padded + k / 32 * 384 + lane * 4 + k % 4;
        lines[k % 32 / 8 * 64] |= (uint8_t)((bits & 15) << (k & 4));
        lines[256 + k % 32 / 16 * 64] |= (uint8_t)(bits >> 4 << (k % 16 / 4 * 2));
        *value = (float)code * from_bf16(*scale);
      } else {
        const int code = random_int(0, 15);
        uint8_t *byte = w + panel * 8 * (size_t)padded + k / 8 * 64 + lane * 4 + k % 4;
        *byte = (uint8_t)(*byte | code << (k % 8 >= 4 ? 4 : 0));
        *value = (float)(code - (zero ? zero[scale - (const uint16_t *)l->scale] : 8)) * from_bf16(*scale);
      }
    }
}

static inline agq_norm random_gains(test_model *t, int n) {
  return (agq_norm){random_vector(t, (size_t)n, 1, 0.4f), NULL};
}

static inline agq_norm random_norm(test_model *t, int kind) {
  agq_norm n = {random_vector(t, (size_t)t->s.hidden, 1, 0.2f),
                kind == AGQ_NORM_LAYER ? random_vector(t, (size_t)t->s.hidden, 0, 0.1f) : NULL};
  return n;
}

/* Static scales of integer attention: q and k of a size of about 3, v of about 1.5. */
static inline void random_log2(test_model *t, agq_block *b) {
  uint8_t *exponent = own(t, (size_t)t->s.kv_heads * (size_t)t->s.head_dim);
  for (int c = 0; c < t->s.kv_heads * t->s.head_dim; c++) exponent[c] = (uint8_t)random_int(0, 2);
  b->q_scale = random_vector(t, (size_t)t->s.heads, 0.03f, 0.01f);
  b->k_scale = random_vector(t, (size_t)t->s.kv_heads, 0.03f, 0.01f);
  b->v_scale = 0.02f, b->v_zero = 121, b->v_exponent = exponent;
}

static inline test_model *model_create(const test_shape *s) {
  test_model *t = calloc(1, sizeof *t);
  t->s = *s;
  agq_model *m = &t->m;
  m->hidden = s->hidden, m->layers = s->layers, m->heads = s->heads, m->kv_heads = s->kv_heads,
  m->head_dim = s->head_dim;
  m->ffn = s->ffn, m->vocab = s->vocab, m->norm_kind = s->norm, m->norm_eps = 1e-5f, m->position_kind = s->position;
  m->activation_kind = s->activation, m->norm_after = s->norm_after, m->residual_from_norm = s->residual_from_norm;
  m->attention_scale = 1.0f / sqrtf((float)s->head_dim);
  m->embed_dim = s->embed_dim;
  m->has_embed_norm = s->embed_norm, m->has_final_norm = s->final_norm;
  m->blocks = t->blocks;
  m->sink_tokens = s->sinks;
  m->attention_kind = s->log2 ? AGQ_ATTENTION_LOG2 : AGQ_ATTENTION_FLOAT;
  m->no_pre_norms = s->no_pre_norms, m->post_norms = s->post_norms, m->parallel = s->parallel;
  m->qk_norm = s->qk_norm, m->rotary_dim = s->rotary_dim;
  m->embed_factor = s->embed_factor, m->residual_factor = s->residual_factor, m->logit_factor = s->logit_factor;
  m->attention_softcap = s->attention_softcap, m->logit_softcap = s->logit_softcap;
  const int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim, gated = agq_gated(s->activation);
  for (int i = 0; i < s->layers; i++) {
    agq_block *b = &t->blocks[i];
    b->attn_norm = random_norm(t, s->norm);
    if (s->log2) random_log2(t, b);
    b->mlp_norm = random_norm(t, s->norm);
    if (s->post_norms) b->attn_post_norm = random_norm(t, s->norm), b->mlp_post_norm = random_norm(t, s->norm);
    if (s->qk_norm) {
      b->q_norm = random_gains(t, s->qk_norm == AGQ_QK_NORM_HEAD ? s->head_dim : q);
      b->k_norm = random_gains(t, s->qk_norm == AGQ_QK_NORM_HEAD ? s->head_dim : kv);
    }
    b->window = s->windowed >> i & 1 ? s->window : 0;
    b->rope = s->unrotated >> i & 1 ? AGQ_ROPE_NONE : s->local >> i & 1 ? AGQ_ROPE_LOCAL : AGQ_ROPE_GLOBAL;
    random_linear(t, &b->qkv, &t->qkv[i], q + 2 * kv, s->hidden, s->weights, s->act_bits);
    random_linear(t, &b->out, &t->out[i], s->hidden, q, s->weights, s->act_bits);
    random_linear(t, &b->up, &t->up[i], gated ? 2 * s->ffn : s->ffn, s->hidden, s->weights, s->act_bits);
    random_linear(t, &b->down, &t->down[i], s->hidden, s->ffn, s->weights, s->act_bits);
  }
  const int bias = t->s.bias;
  t->s.bias = 0;
  t->s.hadamard = s->hadamard && !s->tied;
  t->s.order = s->order && !s->tied;
  random_linear(t, &m->head, &t->head, s->vocab, s->embed_dim, s->head, s->head == AGQ_F32 ? 32 : 8);
  t->s.hadamard = s->hadamard;
  t->s.order = s->order;
  if (s->embed_dim != s->hidden) {
    random_linear(t, &m->project_in, &t->project_in, s->hidden, s->embed_dim, s->weights, s->act_bits);
    random_linear(t, &m->project_out, &t->project_out, s->embed_dim, s->hidden, s->weights, s->act_bits);
  }
  t->s.hadamard = 0;
  if (s->matrix) random_linear(t, &m->project_out, &t->project_out, s->hidden, s->hidden, AGQ_F32, 32);
  t->s.hadamard = s->hadamard;
  t->s.bias = bias;
  const size_t elements = (size_t)s->vocab * (size_t)s->embed_dim;
  if (s->tied) {
    m->embed_in_head = 1;
    t->embed = t->head.w;
  } else if (s->embed8) {
    int8_t *codes = own(t, elements);
    float *scale = random_vector(t, (size_t)s->vocab, 0.008f, 0.004f);
    scale[1] = 0; /* a row of zeros */
    t->embed = own(t, elements * sizeof(float));
    for (size_t i = 0; i < elements; i++)
      t->embed[i] = (float)(codes[i] = (int8_t)random_int(-127, 127)) * scale[i / (size_t)s->embed_dim];
    m->embed = codes, m->embed_dtype = AGQ_I8, m->embed_bytes = elements;
    m->embed_scale = scale, m->embed_scale_bytes = (size_t)s->vocab * sizeof(float);
  } else {
    m->embed = stored_vector(t, elements, s->stored, 1, &t->embed);
    m->embed_dtype = s->stored, m->embed_bytes = elements * (s->stored == AGQ_F32 ? 4 : 2);
  }
  if (s->position == AGQ_POSITION_LEARNED) {
    const size_t rows = (size_t)MAX_POSITIONS * (size_t)s->hidden;
    m->position = stored_vector(t, rows, s->stored, 0.5f, &t->position);
    m->position_dtype = s->stored, m->position_offset = POSITION_OFFSET, m->position_rows = MAX_POSITIONS;
    m->position_bytes = rows * (s->stored == AGQ_F32 ? 4 : 2);
  }
  if (s->position == AGQ_POSITION_ROPE) {
    t->rope_scaling = 1.1f;
    const int turned = s->rotary_dim ? s->rotary_dim : s->head_dim;
    t->inv_freq = own(t, (size_t)turned / 2 * sizeof(float));
    for (int i = 0; i < turned / 2; i++) t->inv_freq[i] = (float)pow(10000.0, -2.0 * i / turned);
    if (s->local) {
      t->local_scaling = 0.9f;
      t->local_freq = own(t, (size_t)turned / 2 * sizeof(float));
      for (int i = 0; i < turned / 2; i++) t->local_freq[i] = (float)pow(500.0, -2.0 * i / turned);
    }
  }
  t->slopes = random_vector(t, (size_t)s->heads, 0.3f, 0.25f);
  if (s->position == AGQ_POSITION_ALIBI) m->alibi_slopes = t->slopes;
  if (s->embed_norm) m->embed_norm = random_norm(t, s->norm);
  if (s->final_norm) m->final_norm = random_norm(t, s->norm);
  return t;
}

/* The rotary positions of a slot, those that the model has. */
static inline void set_ropes(const test_model *t, agq_engine *e, int slot) {
  if (t->inv_freq)
    test_expect(agq_engine_set_rope(e, slot, AGQ_ROPE_GLOBAL, t->inv_freq, t->rope_scaling) == AGQ_OK, "set_rope");
  if (t->local_freq)
    test_expect(agq_engine_set_rope(e, slot, AGQ_ROPE_LOCAL, t->local_freq, t->local_scaling) == AGQ_OK,
                "set_rope, local");
}

static inline void model_free(test_model *t) {
  for (int i = 0; i < t->owned_count; i++) free(t->owned[i]);
  free(t);
}

#endif
