/* agq.h: the whole C boundary of agq.
 *
 * Plain C11. Every pointer that goes in stays the caller's and must outlive the object made from it; weights are used
 * where they lie (an mmap of the artifact), never copied. The library allocates only in *_create, prints nothing,
 * starts no thread outside an engine's own pool, and reports errors by a code and a message. An engine may be used by
 * one thread at a time; several engines may run at once.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_H
#define AGQ_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define AGQ_ABI_VERSION 7
/* Most `sink_tokens` of a model. */
#define AGQ_MAX_SINK_TOKENS 64
/* Most `steps` of an agq_clip_problem. */
#define AGQ_MAX_CLIP_STEPS 256
/* The largest numbers of agq_model and agq_options that agq_engine_create takes. */
enum {
  AGQ_MAX_FEATURES = 1 << 24, /* hidden, ffn, embed_dim */
  AGQ_MAX_LAYERS = 1 << 16,
  AGQ_MAX_HEADS = 1 << 16, /* heads, kv_heads */
  AGQ_MAX_HEAD_DIM = 1 << 14,
  AGQ_MAX_VOCAB = 1 << 28,
  AGQ_MAX_CONTEXT = 1 << 28,
  AGQ_MAX_THREADS = 1 << 10,
  AGQ_MAX_SLOTS = 1 << 20,
  AGQ_MAX_BATCH = 1 << 20
};

#pragma GCC visibility push(default)

/* Status codes. */
enum {
  AGQ_OK = 0,
  AGQ_ERR_ARGUMENT = -1,   /* a value out of range, a size that does not fit its shape */
  AGQ_ERR_MEMORY = -2,     /* an allocation failed */
  AGQ_ERR_CONTEXT = -3,    /* more tokens than a slot has positions for */
  AGQ_ERR_UNSUPPORTED = -4 /* a combination that no kernel computes */
};

/* Element types of stored tensors. */
enum { AGQ_F32 = 0, AGQ_F16 = 1, AGQ_BF16 = 2, AGQ_I8 = 3, AGQ_U4 = 4, AGQ_I6 = 5 };

enum { AGQ_NORM_NONE = 0, AGQ_NORM_RMS = 1, AGQ_NORM_LAYER = 2 };
enum { AGQ_POSITION_ROPE = 0, AGQ_POSITION_LEARNED = 1, AGQ_POSITION_ALIBI = 2 };
enum {
  AGQ_ACTIVATION_SILU_GATED = 0,
  AGQ_ACTIVATION_RELU = 1,
  AGQ_ACTIVATION_GELU_TANH = 2,
  AGQ_ACTIVATION_GELU_ERF = 3,
  AGQ_ACTIVATION_GELU_TANH_GATED = 4,
  AGQ_ACTIVATION_GELU_ERF_GATED = 5
};
/* An RMSNorm of q and k before RoPE: of each head over head_dim, or over the whole of q and of k. */
enum { AGQ_QK_NORM_NONE = 0, AGQ_QK_NORM_HEAD = 1, AGQ_QK_NORM_WHOLE = 2 };
/* Which rotary positions a block has: the model's, those of its local layers, or none. */
enum { AGQ_ROPE_GLOBAL = 0, AGQ_ROPE_LOCAL = 1, AGQ_ROPES = 2, AGQ_ROPE_NONE = 2 };

/* How 4-bit weights and 4-bit activations are multiplied: as bytes (the fastest instructions of the level), or two
 * weights in one 16-bit operand (Agile-Quant's packed multiplier). Both are exact. */
enum { AGQ_MULTIPLIER_DEFAULT = 0, AGQ_MULTIPLIER_PACKED = 1 };

/* FLOAT: softmax in float32 over the KV cache of agq_options.kv_bits. LOG2: int8 q, k, v on static scales,
 * probabilities rounded to powers of two; kv_bits must be 8. */
enum { AGQ_ATTENTION_FLOAT = 0, AGQ_ATTENTION_LOG2 = 1 };

/* y[out] = W x + bias. Weights lie in layout "rl16" (docs/artifact.md): panels of 16 output rows, rows padded up to a
 * multiple of 16, columns padded up to a multiple of 32.
 *   AGQ_U4   a unit of 64 bytes = 16 rows x 8 columns: byte 4*r+j holds column 8u+j in its low, column 8u+4+j in its
 *            high nibble; codes 0..15. Columns of padding hold any code.
 *   AGQ_I8   a unit of 64 bytes = 16 rows x 4 columns: byte 4*r+j holds column 4u+j; codes -127..127 (-128 allowed
 *            with a zero point only).
 *   AGQ_I6   384 bytes = 16 rows x 32 columns, six lines of 64 bytes. Code + 32 is in 0..63. Line i < 4: byte 4*r+j
 *            holds the low four bits of columns 8i+j (its low nibble) and 8i+4+j; line 4+h, bits 2b and 2b+1 of byte
 *            4*r+j the high two bits of column 16h+4b+j.
 *   AGQ_F32, AGQ_F16, AGQ_BF16   [panel][column][16 rows]; columns are not padded.
 * scale: [panel][group][16 rows], F32, F16 or BF16 (U4, I6 and I8 only). zero: [panel][group][16 rows] int8, or NULL
 * for symmetric, which means 8 for U4 and 0 for I8 and I6; an U4 zero point is in 0..15, one of I6 in -32..31.
 * minimum: like scale, or NULL; beside it zero NULL means 0 for U4, too. Dequantized weight = (code - zero) * scale +
 * minimum. */
typedef struct {
  int32_t out_features, in_features; /* logical shape; 0 x 0: this linear does not exist */
  int32_t weight_dtype;              /* AGQ_F32 .. AGQ_I6 */
  int32_t scale_dtype;               /* AGQ_F32, AGQ_F16 or AGQ_BF16, also of `minimum` */
  int32_t group_size;                /* columns that share a scale: a multiple of 32 that divides in_features; 0: the
                                      * whole row */
  int32_t act_bits;                  /* 32: float activations; 8: int8; 4: 4-bit codes */
  int32_t act_group;                 /* columns that share an activation scale: multiple of 32 dividing in_features;
                                      * 0: the token */
  int32_t act_symmetric;             /* 1: code = rint(x/s) in -127..127 or -7..7; 0: asymmetric, operand code-zero
                                      * in -15..15 (4 bit only) */
  int32_t hadamard;                  /* block of the Walsh-Hadamard transform that the input goes through first, in
                                      * the columns' order: a power of 2 that divides in_features; 0: none */
  float act_clip;                    /* share of the input's range that the codes cover, above 0 and at most 1; 0
                                      * counts as 1 */
  /* Static activations: one scale and zero point for all tokens, and per column c a power of two e = act_exponent[c] in
   * 0..3 by which its step is coarser: code = clamp(rint(x * (2^-e / act_scale)) + act_zero, 0, 2^act_bits - 1). The
   * operand of the kernels is (code - act_zero) << e with 4 bits. With 8 bits it is code - 128: weights are AGQ_I8
   * without zero points, hold the factor 2^e in their codes, and the bias holds what the constant 128 - act_zero
   * contributes. Needs act_group 0, act_symmetric 0. */
  int32_t act_static;
  float act_scale;             /* > 0; between 1e-30 and 1e30 */
  int32_t act_zero;            /* 0..2^act_bits - 1 */
  const uint8_t *act_exponent; /* [in_features] */
  size_t act_exponent_bytes;
  int32_t multiplier; /* AGQ_MULTIPLIER_*; PACKED: U4 weights with dynamic 4-bit activations only */
  const void *weight;
  const void *scale;
  const int8_t *zero;
  const float *bias;                            /* [out_features] or NULL */
  size_t weight_bytes, scale_bytes, zero_bytes; /* what the caller holds; create refuses less than the shape needs */
  const void *minimum;                          /* not with static activations */
  size_t minimum_bytes;                         /* as many as the scales need */
  /* Column c of the weights multiplies x[input_order[c]]: a permutation of 0..in_features-1, or NULL: x[c]. All else
   * that is said of the input's columns (hadamard, act_group, act_exponent) counts them in this order. */
  const uint32_t *input_order;
  size_t input_order_bytes;
} agq_linear;

typedef struct {
  const float *weight; /* [features]; NULL: 1 */
  const float *bias;   /* [features] or NULL */
} agq_norm;

/* One decoder block. With norms before: h += O(attn(QKV(norm h))); h += Down(act(Up(norm h))). Norms that the model does
 * not have are not looked at; of those that it has, either all of a block have weights or none. */
typedef struct {
  agq_norm attn_norm, mlp_norm;           /* without no_pre_norms */
  agq_norm attn_post_norm, mlp_post_norm; /* with post_norms */
  agq_norm q_norm, k_norm; /* with qk_norm: RMSNorms of [head_dim], or of [heads * head_dim], [kv_heads * head_dim] */
  int32_t window;          /* a query sees that many tokens, itself included; 0: all before it */
  int32_t rope;            /* AGQ_ROPE_*, where position_kind is AGQ_POSITION_ROPE */
  agq_linear qkv;          /* rows: all query heads, then key heads, then value heads */
  agq_linear out;          /* attention output */
  agq_linear up;           /* gated: gate rows then up rows (2 x ffn); else ffn rows */
  agq_linear down;
  /* AGQ_ATTENTION_LOG2 only: steps of q per head and k per kv head (after RoPE), and of v: scale * 2^exponent, zero
   * point. */
  const float *q_scale, *k_scale; /* [heads], [kv_heads] */
  float v_scale;
  int32_t v_zero;            /* 0..255 */
  const uint8_t *v_exponent; /* [kv_heads * head_dim], each at most 15 */
} agq_block;

typedef struct {
  int32_t hidden, layers, heads, kv_heads, head_dim, ffn, vocab;
  int32_t norm_kind; /* AGQ_NORM_* of all norms */
  float norm_eps;
  int32_t position_kind;      /* AGQ_POSITION_* */
  int32_t activation_kind;    /* AGQ_ACTIVATION_* */
  int32_t norm_after;         /* 1: the norm follows the residual addition (OPT-350m) */
  int32_t residual_from_norm; /* 1: the residual branch starts at the norm's output (BLOOM option) */
  int32_t no_pre_norms;       /* 1: attention and feed-forward part read the hidden states themselves (OLMo 2) */
  int32_t post_norms;         /* 1: what they give goes through a norm before it is added (Gemma 2, OLMo 2) */
  int32_t parallel;           /* 1: both read the same states: h += attn(norm h) + mlp(other norm h) (GPT-NeoX) */
  int32_t qk_norm;            /* AGQ_QK_NORM_* */
  int32_t rotary_dim;         /* channels of a head, its first ones, that RoPE turns, an even number; 0: all */
  float attention_scale;      /* usually 1/sqrt(head_dim) */
  /* Factors on embedding rows, on what attention and feed-forward part add (after post_norms), on logits; 0 counts as
   * 1. */
  float embed_factor, residual_factor, logit_factor;
  /* c tanh(x / c) of the scaled scores before masks and ALiBi, and of the logits after their factor; 0: none, else
   * 1e-6..1e6. */
  float attention_softcap, logit_softcap;
  /* Token embedding, row-major [vocab][embed_dim], AGQ_F32/F16/BF16, or AGQ_I8: codes times embed_scale[row][group]; or
   * embed_in_head = 1: rows are dequantized from `head`, in layout rl16, without `hadamard` and `input_order`.
   * embed_dim differs from hidden only with project_in. project_out may stand alone: a matrix between final norm and head. */
  int32_t embed_dim, embed_dtype, embed_in_head;
  const void *embed;
  size_t embed_bytes;
  const float *embed_scale; /* [vocab][groups], finite and >= 0 (a row of zeros has 0); AGQ_I8 only */
  size_t embed_scale_bytes;
  /* Learned positions, row-major [position_rows][hidden], row = position + position_offset. */
  int32_t position_dtype, position_offset, position_rows;
  const void *position;
  size_t position_bytes;
  const float *alibi_slopes; /* [heads], ALiBi only */
  int32_t has_embed_norm, has_final_norm;
  agq_norm embed_norm, final_norm;
  agq_linear project_in, project_out; /* in_features 0: none */
  agq_linear head;                    /* vocab x embed_dim */
  const agq_block *blocks;            /* [layers] */
  int32_t attention_kind;             /* AGQ_ATTENTION_* */
  /* Tokens at positions below it (0..AGQ_MAX_SINK_TOKENS) have 8-bit symmetric activations, one scale per token,
   * without clip, in the blocks' linears whose activations are dynamic 4-bit ones. */
  int32_t sink_tokens;
  int32_t embed_group; /* columns that share a scale of `embed`: a number that divides embed_dim; 0: the row */
} agq_model;

typedef struct {
  int32_t threads; /* >= 1 */
  int32_t slots;   /* sequences held at once, >= 1 */
  int32_t context; /* positions per slot */
  int32_t batch;   /* most tokens computed at once (workspace size); longer inputs are cut into pieces inside */
  int32_t kv_bits; /* 4: 4 bits per head, token and group of channels; 8: int8 per head and token; 32: float */
  int32_t scalar;  /* 1: use the portable twins of the kernels */
} agq_options;

/* n tokens to append. Tokens of one slot are contiguous and in order. want[i] != 0: logits of token i are asked for. */
typedef struct {
  int32_t n;
  const int32_t *tokens; /* [n], each in 0..vocab-1 */
  const int32_t *slots;  /* [n], or NULL: all slot 0 */
  const uint8_t *want;   /* [n], or NULL: only the last */
} agq_batch;

/* Token pruning of prompts: in each listed layer floor(r * ratio) of the prompt's r tokens are removed after attention,
 * those that attend least to the first token (docs/arithmetic.md). First and last token and sink tokens
 * (agq_model.sink_tokens) stay. */
enum { AGQ_PRUNE_KEEP_POSITIONS = 0, AGQ_PRUNE_RENUMBER = 1 }; /* survivors' positions in the layers that follow */
/* Probabilities as computed, or after the 4-bit log2 quantizer. */
enum { AGQ_PRUNE_FLOAT = 0, AGQ_PRUNE_LOG2 = 1 };
typedef struct {
  int32_t layer_count;    /* 0: no pruning */
  const int32_t *layers;  /* counted from 0 */
  double ratio;           /* 0 <= ratio < 1 */
  int32_t positions;      /* AGQ_PRUNE_KEEP_POSITIONS, AGQ_PRUNE_RENUMBER */
  int32_t scores;         /* AGQ_PRUNE_FLOAT, AGQ_PRUNE_LOG2 */
  int32_t protect_wanted; /* 1: tokens whose logits are wanted stay, and the last layer removes none. 0: logits of a
                           * removed token are those of its state at the layer that removed it */
} agq_pruning;

typedef struct agq_engine agq_engine;

/* The library. */
int agq_abi_version(void);
const char *agq_isa(void); /* a level by its name: "scalar", "avx2", "neon" ... (src/isa/levels.def) */
/* 0: this CPU cannot run this library; else the higher the better. Safe on any CPU of the architecture. */
int agq_cpu_score(void);
const char *agq_cpu_features(void); /* space-separated features found on this CPU */

/* Bytes that a tensor of this linear needs; -1 for a bad descriptor. */
int64_t agq_linear_weight_bytes(const agq_linear *l);
int64_t agq_linear_scale_bytes(const agq_linear *l);
int64_t agq_linear_zero_bytes(const agq_linear *l);
/* AGQ_OK if some kernel computes it, else an error code. */
int agq_linear_check(const agq_linear *l);
/* Name of the micro-kernel that computes `l` for m tokens (m = 1: decode), and of its accumulator. Static strings. */
const char *agq_linear_kernel(const agq_linear *l, int m);
const char *agq_linear_accumulator(const agq_linear *l);

/* y[m][out_features] = l(x[m][in_features]) as the engine computes it, activations quantized as `l` says. For tests and
 * benchmarks. */
int agq_linear_forward(const agq_linear *l, const float *x, int m, float *y, int threads, int scalar);
/* Activation codes as the engine makes them: codes[m][in_features] (code - zero point), scales[m][groups]. */
int agq_quantize_activations(const agq_linear *l, const float *x, int m, int8_t *codes, float *scales, int scalar);

/* An engine: model + options + KV cache + workspace + threads. `error` (may be NULL) receives a message. */
agq_engine *agq_engine_create(const agq_model *model, const agq_options *options, char *error, size_t error_size);
void agq_engine_destroy(agq_engine *e);
/* Appends a batch to its slots and writes logits[count(want)][vocab], in the order of the batch. On an error nothing is
 * appended. */
int agq_engine_forward(agq_engine *e, const agq_batch *batch, float *logits);
/* The same, but writes hidden states in place of logits: what `head` reads, after final norm and project_out, before it
 * is transformed or quantized: states[count(want)][embed_dim]. */
int agq_engine_states(agq_engine *e, const agq_batch *batch, float *states);
int agq_engine_slot_length(const agq_engine *e, int slot);
/* Forgets all positions >= length (0: empties the slot). */
int agq_engine_slot_truncate(agq_engine *e, int slot, int length);
/* RoPE: inverse frequencies [rotary_dim/2] and the factor on cos and sin, for tokens appended from now on; rope:
 * AGQ_ROPE_GLOBAL or AGQ_ROPE_LOCAL. Must be called for each slot before its first forward, for each of the two that a
 * block has, when position_kind is AGQ_POSITION_ROPE. */
int agq_engine_set_rope(agq_engine *e, int slot, int rope, const float *inv_freq, float attention_scaling);
/* Pruning of all prompts from now on; NULL: none. Only while all slots are empty. What is appended to an empty slot is
 * its prompt then, which must fit one batch (agq_options.batch); a pruned slot can be truncated to 0 or to no less than
 * its prompt. */
int agq_engine_set_pruning(agq_engine *e, const agq_pruning *pruning);
/* kept[slot length]: 1 for tokens that no layer has removed. */
int agq_engine_survivors(agq_engine *e, int slot, uint8_t *kept);
const char *agq_engine_error(const agq_engine *e); /* message of the last failed call */
size_t agq_engine_kv_bytes(const agq_engine *e);
size_t agq_engine_workspace_bytes(const agq_engine *e);

/* Where the time of the forward passes went: wall seconds per part since creation or the last reset. `seconds` (may be
 * NULL) has AGQ_PROFILE_PARTS elements. A part's name is a static string; NULL past the last. */
enum {
  AGQ_PROFILE_EMBED,
  AGQ_PROFILE_PREPARE,
  AGQ_PROFILE_QKV,
  AGQ_PROFILE_KV_STORE,
  AGQ_PROFILE_ATTENTION,
  AGQ_PROFILE_OUT,
  AGQ_PROFILE_UP,
  AGQ_PROFILE_DOWN,
  AGQ_PROFILE_HEAD,
  AGQ_PROFILE_PROJECT,
  AGQ_PROFILE_PARTS
};
const char *agq_profile_name(int part);
void agq_engine_profile(agq_engine *e, double *seconds, int reset);

/* The clip search of rounding to nearest: which of a group's grids has the least sum of importance * |w - Q(w)|^2.4,
 * Q(w) = (clamp(rint(w / scale) + zero, lowest, highest) - zero) * scale. */
typedef struct {
  const float *values;     /* [groups][size], finite */
  const float *scale;      /* [groups][steps], > 0, the widest range first */
  const float *zero;       /* [groups][steps], whole numbers; NULL: 0 */
  const float *importance; /* [period][size], >= 0: of group g row g % period; NULL: 1 */
  int32_t groups, size;    /* size: a multiple of 32 */
  int32_t steps, period;   /* steps: 1..AGQ_MAX_CLIP_STEPS */
  float lowest, highest;   /* codes */
  float margin;            /* relative; see `sure` */
} agq_clip_problem;
/* best[groups]: the step with the least error. sure[groups]: 1 where every other step's is larger by more than `margin`:
 * 2e-5 is above the errors of the sums. AGQ_OK, AGQ_ERR_ARGUMENT or AGQ_ERR_MEMORY. */
int agq_clip_search(const agq_clip_problem *problem, int32_t *best, uint8_t *sure, int threads);
/* errors[groups][steps], as PyTorch computes them in float32 on a processor whose vectors have `lanes` floats (4, 8 or 16):
 * what decides where agq_clip_search is not sure; `margin` is not read. NaN and infinite where they overflow. AGQ_OK or
 * AGQ_ERR_ARGUMENT. */
int agq_clip_errors(const agq_clip_problem *problem, int lanes, float *errors);

/* Limits of this machine, for figures beside those of an engine; the best of what `seconds` allow, 0 on a bad argument
 * or for want of memory. Bandwidth: bytes per second that `threads` threads read from a buffer of `bytes`, again and
 * again. Peak: 8-bit multiply-accumulates per second of this level's instructions (agq_peak_name) with operands in
 * registers. */
double agq_measure_bandwidth(int threads, size_t bytes, double seconds);
double agq_measure_peak(int threads, double seconds);
const char *agq_peak_name(void);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif
