/* What the families beyond LLaMA, OPT and BLOOM need, against the same reference and with the same promises: norms of q
 * and k, norms after, parallel blocks, factors, soft caps, windows, partial, local and absent rotary positions, gates.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "engine_checks.h"

#define RMS(gate_) .norm = AGQ_NORM_RMS, .position = AGQ_POSITION_ROPE, .activation = gate_, .final_norm = 1
#define SILU AGQ_ACTIVATION_SILU_GATED
#define GELU AGQ_ACTIVATION_GELU_TANH_GATED
#define NEOX                                                                                                     \
  .norm = AGQ_NORM_LAYER, .position = AGQ_POSITION_ROPE, .activation = AGQ_ACTIVATION_GELU_ERF, .final_norm = 1, \
  .parallel = 1, .bias = 1

static const test_shape shapes[] = {
    {"caps, windows, norms before and after", RMS(GELU), SIZES(64, 3, 6, 2, 32, 96, 51, 64), .post_norms = 1,
     .embed_factor = 8, .attention_softcap = 1.5f, .logit_softcap = 2, .window = 9, .windowed = 5, .tied = 1, FLOAT},
    {"two RoPEs, windows, head norms, odd ffn", RMS(GELU), SIZES(48, 4, 3, 1, 20, 70, 33, 48), .post_norms = 1,
     .qk_norm = AGQ_QK_NORM_HEAD, .embed_factor = 7, .window = 5, .windowed = 11, .local = 11, FLOAT},
    {"head norms, W4A8", RMS(SILU), SIZES(128, 2, 8, 2, 16, 192, 50, 128), .qk_norm = AGQ_QK_NORM_HEAD, .tied = 1,
     W4(8)},
    {"norms after only, whole norms", RMS(SILU), SIZES(64, 2, 6, 2, 32, 96, 51, 64), .no_pre_norms = 1, .post_norms = 1,
     .qk_norm = AGQ_QK_NORM_WHOLE, FLOAT},
    {"parallel, partial RoPE", NEOX, SIZES(60, 3, 3, 3, 20, 90, 40, 60), .rotary_dim = 6, FLOAT},
    {"factors", RMS(SILU), SIZES(64, 2, 4, 2, 16, 96, 45, 64), .embed_factor = 12, .residual_factor = 0.22f,
     .logit_factor = 0.125f, .tied = 1, .bias = 1, FLOAT},
    {"layers without RoPE, windows of one", RMS(SILU), SIZES(64, 4, 4, 2, 16, 96, 45, 64), .unrotated = 10, .window = 1,
     .windowed = 4, FLOAT},
    {"partial RoPE, windows of 3, W8A8", RMS(SILU), SIZES(96, 2, 4, 2, 24, 96, 45, 96), .rotary_dim = 18, .window = 3,
     .windowed = 2, W8A8},
    {"parallel, factors, windows, W4A4, hadamard, sinks", NEOX, SIZES(64, 2, 4, 4, 16, 96, 40, 64), .hadamard = 1,
     .sinks = 3, .residual_factor = 0.5f, .window = 20, .windowed = 3, W4(4)},
    {"norms after, caps, W4A4, sinks", RMS(GELU), SIZES(128, 2, 4, 2, 32, 192, 50, 128), .post_norms = 1, .sinks = 2,
     .attention_softcap = 1, .logit_softcap = 3, .residual_factor = 2, .qk_norm = AGQ_QK_NORM_WHOLE, W4(4)},
    {"integer attention, caps, windows, head norms", RMS(SILU), SIZES(64, 2, 6, 2, 32, 96, 51, 64), .log2 = 1,
     .attention_softcap = 1.5f, .window = 21, .windowed = 1, .qk_norm = AGQ_QK_NORM_HEAD, .rotary_dim = 20, FLOAT},
    {"ALiBi, windows, caps", .norm = AGQ_NORM_LAYER, .position = AGQ_POSITION_ALIBI,
     .activation = AGQ_ACTIVATION_GELU_ERF_GATED, .final_norm = 1, SIZES(80, 2, 5, 5, 16, 160, 37, 80), .window = 17,
     .windowed = 2, .attention_softcap = 2, FLOAT},
    {"residual from norm, norms after, odd gate", RMS(AGQ_ACTIVATION_GELU_ERF_GATED),
     SIZES(48, 2, 3, 1, 20, 70, 33, 48), .residual_from_norm = 1, .post_norms = 1, .residual_factor = 3, FLOAT},
    {"projections, factors, learned positions", .norm = AGQ_NORM_LAYER, .position = AGQ_POSITION_LEARNED, .bias = 1,
     .activation = AGQ_ACTIVATION_RELU, SIZES(48, 2, 4, 4, 12, 80, 40, 32), .embed_factor = 3, .logit_factor = 0.5f,
     .logit_softcap = 1, .parallel = 1, FLOAT},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Over several key ranges (512 keys each): windows that begin in an earlier range, within one, and in one block. */
static const test_shape ranges[] = {
    {"long, windows of 500", RMS(SILU), SIZES(32, 2, 2, 1, 16, 32, 19, 32), .tied = 1, .window = 500, .windowed = 3,
     FLOAT},
    {"long, windows of 40, two RoPEs", RMS(GELU), SIZES(32, 2, 4, 2, 16, 32, 19, 32), .window = 40, .windowed = 1,
     .local = 1, .attention_softcap = 3, FLOAT},
};

/* A value that no model can have is refused by its name. */
static void refusals(void) {
  const test_shape shape = {
      "refusals", RMS(SILU), SIZES(64, 2, 2, 1, 32, 64, 21, 64), .post_norms = 1, .qk_norm = AGQ_QK_NORM_HEAD, FLOAT};
  test_model *t = model_create(&shape);
  const agq_options o = {1, 1, 32, 8, 8, 0};
  agq_model m = t->m;
#define REFUSED(name_, change_) m = t->m, change_, expect_refused(&m, &o, name_)
  REFUSED("rotary_dim is -2, not in 0..32", m.rotary_dim = -2);
  REFUSED("rotary_dim is 34, not in 0..32", m.rotary_dim = 34);
  REFUSED("even rotary_dim, not 7", m.rotary_dim = 7);
  REFUSED("qk_norm is 3", m.qk_norm = 3);
  REFUSED("parallel is 2", m.parallel = 2);
  REFUSED("post_norms is -1", m.post_norms = -1);
  REFUSED("no_pre_norms is 2", m.no_pre_norms = 2);
  REFUSED("activation_kind is 6", m.activation_kind = 6);
  REFUSED("parallel excludes", m.parallel = 1);
  REFUSED("norm_after excludes", m.norm_after = 1);
  REFUSED("residual_from_norm excludes", (m.residual_from_norm = 1, m.no_pre_norms = 1));
  const float bad[] = {NAN, INFINITY, -1};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    REFUSED("embed_factor is not", m.embed_factor = bad[i]);
    REFUSED("residual_factor is not", m.residual_factor = bad[i]);
    REFUSED("logit_factor is not", m.logit_factor = bad[i]);
    REFUSED("attention_softcap is neither", m.attention_softcap = bad[i]);
    REFUSED("logit_softcap is neither", m.logit_softcap = bad[i]);
  }
  REFUSED("attention_softcap is neither", m.attention_softcap = 1e-9f);
  agq_block blocks[MAX_LAYERS];
#define REFUSED_BLOCK(name_, change_) \
  memcpy(blocks, t->blocks, sizeof blocks), REFUSED(name_, (m.blocks = blocks, change_))
  REFUSED_BLOCK("block 1: window is -1", blocks[1].window = -1);
  REFUSED_BLOCK("block 0: rope is 3", blocks[0].rope = 3);
  REFUSED_BLOCK("block 0: rope is -1", blocks[0].rope = -1);
  REFUSED_BLOCK("block 1: rope is 1 in a model without RoPE",
                (m.position_kind = AGQ_POSITION_ALIBI, m.alibi_slopes = t->slopes, blocks[1].rope = AGQ_ROPE_LOCAL));
  REFUSED_BLOCK("block 1 attn_norm: weights missing", blocks[1].attn_norm.weight = NULL);
  REFUSED_BLOCK("block 0 mlp_post_norm: weights missing", blocks[0].mlp_post_norm.weight = NULL);
  REFUSED_BLOCK("block 0 q_norm: weights missing", blocks[0].q_norm.weight = NULL);
  REFUSED_BLOCK("block 1 k_norm: weights missing", blocks[1].k_norm.weight = NULL);
  REFUSED("rotary_dim is 8 in a model without RoPE",
          (m.position_kind = AGQ_POSITION_ALIBI, m.alibi_slopes = t->slopes, m.rotary_dim = 8));
  model_free(t);
}

/* Frequencies must be set for each RoPE that a layer has, and for none else. */
static void ropes(void) {
  const test_shape shape = {"ropes", RMS(SILU), SIZES(64, 2, 2, 1, 32, 64, 21, 64), .local = 2, FLOAT};
  test_model *t = model_create(&shape);
  const agq_options o = {1, 1, 32, 8, 8, 0};
  agq_engine *e = agq_engine_create(&t->m, &o, NULL, 0);
  const int32_t token = 3;
  const agq_batch b = {1, &token, NULL, NULL};
  float logits[21];
  test_expect(agq_engine_set_rope(e, 0, 2, t->inv_freq, 1) == AGQ_ERR_ARGUMENT &&
                  agq_engine_set_rope(e, 0, -1, t->inv_freq, 1) == AGQ_ERR_ARGUMENT,
              "there are two RoPEs");
  test_expect(agq_engine_forward(e, &b, logits) == AGQ_ERR_ARGUMENT && strstr(agq_engine_error(e), "(global)"),
              "the global RoPE must be set");
  agq_engine_set_rope(e, 0, AGQ_ROPE_GLOBAL, t->inv_freq, 1);
  test_expect(agq_engine_forward(e, &b, logits) == AGQ_ERR_ARGUMENT && strstr(agq_engine_error(e), "(local)"),
              "the local RoPE must be set");
  agq_engine_set_rope(e, 0, AGQ_ROPE_LOCAL, t->local_freq, 1);
  test_expect(agq_engine_forward(e, &b, logits) == AGQ_OK, "both are set");
  agq_engine_destroy(e);
  t->blocks[0].rope = t->blocks[1].rope = AGQ_ROPE_NONE;
  e = agq_engine_create(&t->m, &o, NULL, 0);
  test_expect(agq_engine_forward(e, &b, logits) == AGQ_OK, "no layer has one");
  agq_engine_destroy(e);
  model_free(t);
}

int main(void) {
  if (!test_begin()) return 0;
  for (int i = 0; i < SHAPES; i++) {
    if (!test_takes((unsigned)i)) continue;
    test_model *t = model_create(&shapes[i]);
    against_reference(t, 67);
    invariance(t, 67, i % 2 || t->s.log2 ? 8 : 32);
    if (!t->s.log2) invariance(t, 67, 4);
    slots(t, 8);
    model_free(t);
  }
  for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
    if (!test_takes((unsigned)i)) continue;
    test_model *t = model_create(&ranges[i]);
    against_reference(t, i ? 150 : 530);
    invariance(t, 1100, i ? 32 : 8);
    long_slots(t);
    invariance(t, 700, 4);
    model_free(t);
  }
  refusals();
  ropes();
  printf("checksum of all logits: %016llx\n", (unsigned long long)checksum);
  return test_end("families");
}
