/* check.c: every size of a model descriptor, before anything is computed from it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "engine.h"
#include "formats/formats.h"
#include "ops/attention_log2.h"
#include "ops/ops.h"

typedef struct {
  char *text;
  size_t size;
} message;

static int fail(message e, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int fail(message e, int code, const char *format, ...) {
  if (e.text && e.size) {
    va_list args;
    va_start(args, format);
    vsnprintf(e.text, e.size, format, args);
    va_end(args);
  }
  return code;
}

static int check_linear(const agq_linear *l, const char *name, int64_t out, int64_t in, message e) {
  if (l->out_features != out || l->in_features != in)
    return fail(e, AGQ_ERR_ARGUMENT, "%s: shape is %d x %d, the model needs %lld x %lld", name, l->out_features,
                l->in_features, (long long)out, (long long)in);
  const agq_format *format = agq_format_of(l->weight_dtype);
  const int quantized = format && format->integer;
  const int64_t weight = agq_linear_weight_bytes(l), scale = agq_linear_scale_bytes(l), zero = agq_linear_zero_bytes(l);
  const struct {
    const char *what;
    const void *data;
    size_t held;
    int64_t needed; /* negative: no such shape, which agq_linear_check reports below */
  } tensors[] = {{"weights", l->weight, l->weight_bytes, weight},
                 {"scales", l->scale, l->scale_bytes, quantized ? scale : 0},
                 {"zero points", l->zero, l->zero_bytes, l->zero ? zero : 0},
                 {"minima", l->minimum, l->minimum_bytes, quantized && l->minimum ? scale : 0},
                 {"input columns", l->input_order, l->input_order_bytes,
                  l->input_order ? (int64_t)sizeof(uint32_t) * l->in_features : 0}};
  for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
    if (tensors[i].needed > 0 && !tensors[i].data)
      return fail(e, AGQ_ERR_ARGUMENT, "%s: %s missing", name, tensors[i].what);
    if (tensors[i].needed > 0 && tensors[i].held < (uint64_t)tensors[i].needed)
      return fail(e, AGQ_ERR_ARGUMENT, "%s: %s have %zu bytes, the shape needs %lld", name, tensors[i].what,
                  tensors[i].held, (long long)tensors[i].needed);
  }
  const int status = agq_linear_check(l);
  if (status == AGQ_OK) return AGQ_OK;
  if (l->input_order && l->in_features > 0 && !agq_permutation(l->input_order, (uint32_t)l->in_features))
    return fail(e, status, "%s: input columns are no permutation of %d", name, l->in_features);
  return fail(
      e, status,
      "%s: no kernel computes %d x %d %s weights, group size %d, %s%s, with %d-bit %s activations, group size %d", name,
      l->out_features, l->in_features, format ? format->name : "?", l->group_size, l->zero ? "asymmetric" : "symmetric",
      l->minimum ? " with minima" : "", l->act_bits,
      l->act_bits == 32  ? "float"
      : l->act_symmetric ? "symmetric"
                         : "asymmetric",
      l->act_group);
}

static int good_scale(float x) { return isfinite(x) && x > 0; }
static int good_factor(float x) { return isfinite(x) && x >= 0; }
/* 0: none; else neither it nor its inverse leaves what floats hold. */
static int good_cap(float x) { return x == 0 || (x >= 1e-6f && x <= 1e6f); }

/* The static scales of integer attention. */
static int check_log2(const agq_model *m, int i, message e) {
  const agq_block *b = &m->blocks[i];
  if (m->attention_kind != AGQ_ATTENTION_LOG2) return AGQ_OK;
  if (!b->q_scale || !b->k_scale || !b->v_exponent)
    return fail(e, AGQ_ERR_ARGUMENT, "block %d: scales of integer attention missing", i);
  int good = good_scale(b->v_scale) && b->v_zero >= 0 && b->v_zero <= 255;
  for (int h = 0; h < m->heads; h++) good &= good_scale(b->q_scale[h]);
  for (int h = 0; h < m->kv_heads; h++) good &= good_scale(b->k_scale[h]);
  for (int c = 0; c < m->kv_heads * m->head_dim; c++) good &= b->v_exponent[c] <= 15;
  return good ? AGQ_OK : fail(e, AGQ_ERR_ARGUMENT, "block %d: a scale of integer attention is out of range", i);
}

/* Norms that the model has: all of the block's with weights, or none. */
static int check_block_norms(const agq_model *m, int i, message e) {
  const agq_block *b = &m->blocks[i];
  const struct {
    const char *name;
    const agq_norm *norm;
    int there;
  } norms[] = {{"attn_norm", &b->attn_norm, !m->no_pre_norms},
               {"mlp_norm", &b->mlp_norm, !m->no_pre_norms},
               {"attn_post_norm", &b->attn_post_norm, m->post_norms},
               {"mlp_post_norm", &b->mlp_post_norm, m->post_norms},
               {"q_norm", &b->q_norm, m->qk_norm},
               {"k_norm", &b->k_norm, m->qk_norm}};
  int weights = 0;
  for (size_t n = 0; n < sizeof norms / sizeof *norms; n++) weights |= norms[n].there && norms[n].norm->weight;
  for (size_t n = 0; n < sizeof norms / sizeof *norms; n++)
    if (norms[n].there && weights && !norms[n].norm->weight)
      return fail(e, AGQ_ERR_ARGUMENT, "block %d %s: weights missing", i, norms[n].name);
  return AGQ_OK;
}

/* Who sees whom, and by which positions. */
static int check_block_places(const agq_model *m, int i, message e) {
  const agq_block *b = &m->blocks[i];
  if (b->window < 0 || b->window > AGQ_MAX_CONTEXT)
    return fail(e, AGQ_ERR_ARGUMENT, "block %d: window is %d, not in 0..%d", i, b->window, AGQ_MAX_CONTEXT);
  if (b->rope < 0 || b->rope > AGQ_ROPE_NONE)
    return fail(e, AGQ_ERR_ARGUMENT, "block %d: rope is %d, not in 0..%d", i, b->rope, AGQ_ROPE_NONE);
  if (b->rope && m->position_kind != AGQ_POSITION_ROPE)
    return fail(e, AGQ_ERR_ARGUMENT, "block %d: rope is %d in a model without RoPE", i, b->rope);
  return AGQ_OK;
}

static int check_block(const agq_model *m, int i, message e) {
  const agq_block *b = &m->blocks[i];
  const int64_t q = (int64_t)m->heads * m->head_dim, kv = (int64_t)m->kv_heads * m->head_dim;
  const int64_t up = agq_gated(m->activation_kind) ? 2 * (int64_t)m->ffn : m->ffn;
  const struct {
    const char *role;
    const agq_linear *l;
    int64_t out, in;
  } parts[] = {{"qkv", &b->qkv, q + 2 * kv, m->hidden},
               {"out", &b->out, m->hidden, q},
               {"up", &b->up, up, m->hidden},
               {"down", &b->down, m->hidden, m->ffn}};
  for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
    char name[48];
    snprintf(name, sizeof name, "block %d %s", i, parts[p].role);
    int status = check_linear(parts[p].l, name, parts[p].out, parts[p].in, e);
    if (status == AGQ_OK && m->sink_tokens && agq_dynamic_four_bits(parts[p].l)) {
      const agq_linear eight = agq_eight_bits(parts[p].l);
      status = check_linear(&eight, name, parts[p].out, parts[p].in, e);
    }
    if (status != AGQ_OK) return status;
  }
  int status = check_block_norms(m, i, e);
  if (status == AGQ_OK) status = check_block_places(m, i, e);
  return status == AGQ_OK ? check_log2(m, i, e) : status;
}

/* rows x columns elements of `element` bytes in `bytes`; element 0: a type that no table has. */
static int check_matrix(const char *name, const void *data, int element, int64_t rows, int64_t columns, size_t bytes,
                        message e) {
  if (!element) return fail(e, AGQ_ERR_UNSUPPORTED, "%s: elements of a type that it cannot have", name);
  if (!data) return fail(e, AGQ_ERR_ARGUMENT, "%s: missing", name);
  const uint64_t need = (uint64_t)rows * (uint64_t)columns * (uint64_t)element; /* < 2^31 * 2^31 * 4 */
  if (need > bytes)
    return fail(e, AGQ_ERR_ARGUMENT, "%s: has %zu bytes, the shape needs %llu", name, bytes, (unsigned long long)need);
  return AGQ_OK;
}

static int check_embed(const agq_model *m, message e) {
  const int quantized = m->embed_dtype == AGQ_I8, element = quantized ? 1 : agq_float_bytes(m->embed_dtype);
  int status = check_matrix("embed", m->embed, element, m->vocab, m->embed_dim, m->embed_bytes, e);
  if (!quantized || status != AGQ_OK) return status;
  const int group = m->embed_group ? m->embed_group : m->embed_dim;
  if (group < 1 || m->embed_dim % group)
    return fail(e, AGQ_ERR_ARGUMENT, "embed: groups of %d do not divide %d columns", group, m->embed_dim);
  const int groups = m->embed_dim / group;
  status = check_matrix("embed scales", m->embed_scale, sizeof(float), m->vocab, groups, m->embed_scale_bytes, e);
  for (int64_t i = 0; status == AGQ_OK && i < (int64_t)m->vocab * groups; i++)
    if (!isfinite(m->embed_scale[i]) || m->embed_scale[i] < 0)
      status = fail(e, AGQ_ERR_ARGUMENT, "embed scales: that of row %d is not a finite number >= 0", (int)(i / groups));
  return status;
}

static int check_numbers(const agq_model *m, const agq_options *o, message e) {
  const struct {
    const char *name;
    int32_t value, least, most;
  } numbers[] = {
      {"hidden", m->hidden, 1, AGQ_MAX_FEATURES},
      {"layers", m->layers, 1, AGQ_MAX_LAYERS},
      {"heads", m->heads, 1, AGQ_MAX_HEADS},
      {"kv_heads", m->kv_heads, 1, AGQ_MAX_HEADS},
      {"head_dim", m->head_dim, 1, AGQ_MAX_HEAD_DIM},
      {"ffn", m->ffn, 1, AGQ_MAX_FEATURES},
      {"vocab", m->vocab, 1, AGQ_MAX_VOCAB},
      {"embed_dim", m->embed_dim, 1, AGQ_MAX_FEATURES},
      {"norm_kind", m->norm_kind, 0, AGQ_NORM_LAYER},
      {"position_kind", m->position_kind, 0, AGQ_POSITION_ALIBI},
      {"activation_kind", m->activation_kind, 0, AGQ_ACTIVATION_GELU_ERF_GATED},
      {"norm_after", m->norm_after, 0, 1},
      {"residual_from_norm", m->residual_from_norm, 0, 1},
      {"no_pre_norms", m->no_pre_norms, 0, 1},
      {"post_norms", m->post_norms, 0, 1},
      {"parallel", m->parallel, 0, 1},
      {"qk_norm", m->qk_norm, 0, AGQ_QK_NORM_WHOLE},
      {"rotary_dim", m->rotary_dim, 0, m->head_dim},
      {"attention_kind", m->attention_kind, 0, AGQ_ATTENTION_LOG2},
      {"sink_tokens", m->sink_tokens, 0, AGQ_MAX_SINK_TOKENS},
      {"threads", o->threads, 1, AGQ_MAX_THREADS},
      {"slots", o->slots, 1, AGQ_MAX_SLOTS},
      {"context", o->context, 1, AGQ_MAX_CONTEXT},
      {"batch", o->batch, 1, AGQ_MAX_BATCH},
  };
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
    if (numbers[i].value < numbers[i].least || numbers[i].value > numbers[i].most)
      return fail(e, AGQ_ERR_ARGUMENT, "%s is %d, not in %d..%d", numbers[i].name, numbers[i].value, numbers[i].least,
                  numbers[i].most);
  if (o->kv_bits != 4 && o->kv_bits != 8 && o->kv_bits != 32)
    return fail(e, AGQ_ERR_UNSUPPORTED, "kv_bits is %d, not 4, 8 or 32", o->kv_bits);
  if (m->attention_kind == AGQ_ATTENTION_LOG2 && (o->kv_bits != 8 || m->head_dim > AGQ_LOG2_HEAD_DIM))
    return fail(e, AGQ_ERR_UNSUPPORTED, "integer attention needs kv_bits 8 and heads of at most %d, not %d and %d",
                AGQ_LOG2_HEAD_DIM, o->kv_bits, m->head_dim);
  if (m->heads % m->kv_heads)
    return fail(e, AGQ_ERR_ARGUMENT, "kv_heads %d does not divide heads %d", m->kv_heads, m->heads);
  if (((int64_t)m->heads + 2 * (int64_t)m->kv_heads) * m->head_dim > 1 << 28)
    return fail(e, AGQ_ERR_ARGUMENT, "heads %d x head_dim %d is too large", m->heads, m->head_dim);
  if (m->norm_after && m->residual_from_norm)
    return fail(e, AGQ_ERR_UNSUPPORTED, "norm_after and residual_from_norm exclude each other");
  if (m->norm_after && (m->no_pre_norms || m->post_norms || m->parallel))
    return fail(e, AGQ_ERR_UNSUPPORTED, "norm_after excludes no_pre_norms, post_norms and parallel");
  if (m->residual_from_norm && (m->no_pre_norms || m->parallel))
    return fail(e, AGQ_ERR_UNSUPPORTED, "residual_from_norm excludes no_pre_norms and parallel");
  if (m->parallel && (m->no_pre_norms || m->post_norms))
    return fail(e, AGQ_ERR_UNSUPPORTED, "parallel excludes no_pre_norms and post_norms");
  if (!(m->norm_eps >= 0) || !isfinite(m->norm_eps))
    return fail(e, AGQ_ERR_ARGUMENT, "norm_eps is not a finite number >= 0");
  if (!isfinite(m->attention_scale)) return fail(e, AGQ_ERR_ARGUMENT, "attention_scale is not finite");
  const struct {
    const char *name;
    float value;
    int cap;
  } factors[] = {{"embed_factor", m->embed_factor, 0},
                 {"residual_factor", m->residual_factor, 0},
                 {"logit_factor", m->logit_factor, 0},
                 {"attention_softcap", m->attention_softcap, 1},
                 {"logit_softcap", m->logit_softcap, 1}};
  for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
    if (factors[i].cap && !good_cap(factors[i].value))
      return fail(e, AGQ_ERR_ARGUMENT, "%s is neither 0 nor in 1e-6..1e6", factors[i].name);
    if (!good_factor(factors[i].value))
      return fail(e, AGQ_ERR_ARGUMENT, "%s is not a finite number >= 0", factors[i].name);
  }
  return AGQ_OK;
}

static int check_positions(const agq_model *m, const agq_options *o, message e) {
  if (m->position_kind == AGQ_POSITION_ROPE && agq_rotary_dim(m) % 2)
    return fail(e, AGQ_ERR_UNSUPPORTED, "RoPE needs an even %s, not %d", m->rotary_dim ? "rotary_dim" : "head_dim",
                agq_rotary_dim(m));
  if (m->position_kind != AGQ_POSITION_ROPE && m->rotary_dim)
    return fail(e, AGQ_ERR_ARGUMENT, "rotary_dim is %d in a model without RoPE", m->rotary_dim);
  if (m->position_kind == AGQ_POSITION_ALIBI && !m->alibi_slopes)
    return fail(e, AGQ_ERR_ARGUMENT, "alibi_slopes: missing");
  if (m->position_kind != AGQ_POSITION_LEARNED) return AGQ_OK;
  if (m->position_offset < 0 || (int64_t)m->position_offset + o->context > m->position_rows)
    return fail(e, AGQ_ERR_ARGUMENT, "position: a context of %d needs %lld rows, the model has %d", o->context,
                (long long)m->position_offset + o->context, m->position_rows);
  return check_matrix("position", m->position, agq_float_bytes(m->position_dtype), m->position_rows, m->hidden,
                      m->position_bytes, e);
}

static int check_ends(const agq_model *m, message e) {
  const int in = m->project_in.in_features != 0, out = m->project_out.in_features != 0;
  int status = AGQ_OK;
  if (in) status = check_linear(&m->project_in, "project_in", m->hidden, m->embed_dim, e);
  else if (m->embed_dim != m->hidden)
    return fail(e, AGQ_ERR_ARGUMENT, "embed_dim %d differs from hidden %d without project_in", m->embed_dim, m->hidden);
  if (status == AGQ_OK && out) status = check_linear(&m->project_out, "project_out", m->embed_dim, m->hidden, e);
  if (status == AGQ_OK) status = check_linear(&m->head, "head", m->vocab, out ? m->embed_dim : m->hidden, e);
  if (status != AGQ_OK) return status;
  if (!m->embed_in_head) return check_embed(m, e);
  if (m->head.hadamard)
    return fail(e, AGQ_ERR_UNSUPPORTED, "head: embedding rows cannot be read from weights behind a Hadamard transform");
  if (m->head.input_order)
    return fail(e, AGQ_ERR_UNSUPPORTED, "head: embedding rows cannot be read from columns in another order");
  if (m->head.in_features != m->embed_dim)
    return fail(e, AGQ_ERR_ARGUMENT, "head: %d columns cannot serve as an embedding of %d", m->head.in_features,
                m->embed_dim);
  return AGQ_OK;
}

int agq_check_model(const agq_model *m, const agq_options *o, char *error, size_t error_size) {
  const message e = {error, error_size};
  int status = check_numbers(m, o, e);
  if (status == AGQ_OK) status = check_positions(m, o, e);
  if (status == AGQ_OK) status = check_ends(m, e);
  if (status == AGQ_OK && !m->blocks) status = fail(e, AGQ_ERR_ARGUMENT, "blocks: missing");
  for (int i = 0; status == AGQ_OK && i < m->layers; i++) status = check_block(m, i, e);
  return status;
}
