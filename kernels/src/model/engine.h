/* engine.h: what an engine holds. See forward.c for the order of its passes.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_ENGINE_H
#define AGQ_ENGINE_H

#include "agq.h"
#include "gemm/linear.h"
#include "model/prune.h"
#include "ops/attention.h"
#include "threads/pool.h"

#define AGQ_ERROR_SIZE 256

typedef struct {
  int first, begin, end, slot; /* rows [begin, end) of attention, counted from token `first` */
} agq_row_tile;

/* The linears of a block, prepared. */
typedef struct {
  agq_prepared qkv, out, up, down;
} agq_block_linears;

struct agq_engine {
  agq_model model; /* blocks: the engine's own copy of the descriptors */
  agq_options options;
  agq_block_linears *linears; /* [layers] */
  agq_pool *pool;
  void *memory, *kv_memory; /* the two large allocations; everything below points into them */
  size_t memory_bytes, kv_bytes;

  agq_kv_layout kv_layout;
  char *kv;
  int *length;              /* [slots] */
  uint8_t *slot_seen;       /* [slots] */
  int half;                 /* channels of a head that RoPE turns / 2; 0: no RoPE */
  int rope_used[AGQ_ROPES]; /* 1: a block has it */
  int rope_tables;          /* those that have cosines and sines: up to the last one that a block has */
  int windows;              /* 1: a block has a window */
  uint8_t *rope_set;        /* [AGQ_ROPES][slots] */
  float *inv_freq;          /* [AGQ_ROPES][slots][half] */
  float *rope_scaling;      /* [AGQ_ROPES][slots] */

  /* Of the piece of a batch that is being computed, at most options.batch tokens. */
  int32_t *token_slot, *token_position; /* [batch] */
  int32_t *token_row;                   /* [batch] row of the piece of each token still worked on */
  int32_t *active_position;             /* [batch] its position */
  agq_row_tile *tiles;                  /* [most_tiles] */
  int most_tiles;
  float *cosines, *sines; /* [rope_tables][batch][half] */
  float *embedded;        /* [batch][embed_dim], with project_in or project_out */
  float *h;               /* [batch][hidden] residual stream */
  float *normed;          /* [batch][hidden] */
  float *delta;           /* [batch][hidden] what is to be added to the residual stream; may be `normed`. With parallel
                           * blocks that of attention; the feed-forward part's is in `normed` */
  float *qkv, *attended;  /* [batch][(heads + 2 kv_heads) head_dim], [batch][heads head_dim] */
  float *ffn;             /* [batch][ffn or 2 ffn]; shares memory with qkv and attended */
  int ffn_width, gate_fused;
  void *act_memory;              /* quantized (or transformed float) activations of one linear */
  agq_token_panel *token_panels; /* [batch] of them, with sink tokens; else NULL */
  float *states;                 /* softmax states of attention cut into key ranges */
  int most_split_units;          /* (tile, kv head) pairs up to which attention is cut into ranges; 0: never */
  float *scratch;                /* [threads][scratch_floats] */
  size_t scratch_floats;
  agq_prune prune;
  double seconds[AGQ_PROFILE_PARTS]; /* time of the passes, by part */
  char error[AGQ_ERROR_SIZE];
  agq_prepared project_in, project_out, head; /* the first two: in_features 0 where the model has none */
};

/* Checks every size of a model. AGQ_OK or an error code with a message that names the part. */
int agq_check_model(const agq_model *m, const agq_options *o, char *error, size_t error_size);

/* profile.c: runs a pass on the pool and adds its time to a part of the profile. */
void agq_pass_run(agq_engine *e, int part, agq_task_fn fn, void *arg, int items, int chunk);

/* passes.c: the parallel passes over the tokens of a piece. */

/* Before a linear: h += delta, norms, quantization of its input. */
typedef struct {
  const agq_prepared *next; /* transform and quantize for it */
  const float *x;           /* its input [m][ldx]; where there is a norm before it: normed. After the pass: what the
                             * product reads */
  size_t ldx;
  int residual;      /* 1: rows of h are updated by `delta` and norms first */
  const float *base; /* h = base + delta + second_delta, either NULL: not added */
  float *delta, *second_delta;
  const agq_norm *post_norm; /* of delta before it is added, or NULL */
  const agq_norm *norm, *second_norm;
  const int32_t *position; /* of each row in its sequence, where sink tokens have a format of their own; NULL: they
                            * do not */
} agq_prepare;
void agq_pass_prepare(agq_engine *e, agq_prepare *p, int m, agq_act *act);

/* to = base + delta, a row of hidden features, as the model adds: after post_norm (or NULL; destroys delta), with its
 * factor. */
void agq_add_delta(const agq_engine *e, const agq_norm *post_norm, const float *base, float *delta, float *to);

enum { AGQ_EPILOGUE_NONE, AGQ_EPILOGUE_ACTIVATE, AGQ_EPILOGUE_GATE, AGQ_EPILOGUE_LOGITS };
void agq_pass_linear(agq_engine *e, int part, const agq_prepared *p, const agq_act *act, const float *x, size_t ldx,
                     int m, float *y, size_t ldy, int epilogue);
/* f(gate) * up over rows of ffn, where it could not be done inside the product. */
void agq_pass_gate(agq_engine *e, int m);
/* Token embedding (to `to`), and what follows it in h: learned positions and the norm after the embedding. */
void agq_pass_embed(agq_engine *e, const int32_t *tokens, int m, float *to, size_t ldto);
void agq_pass_positions(agq_engine *e, int m);
/* The cosines and sines of row `row` for a position of its slot. */
void agq_rope_tables(agq_engine *e, int row, int position);
/* The norms of q and k of m rows of e->qkv. */
void agq_pass_qk_norm(agq_engine *e, int layer, int m);

/* pass_attention.c: stores keys and values of all m tokens of the piece, then attention for the `active` ones. */
void agq_pass_attention(agq_engine *e, int layer, int m, int active);

/* Channels of a head that RoPE turns. */
static inline int agq_rotary_dim(const agq_model *m) { return m->rotary_dim ? m->rotary_dim : m->head_dim; }

static inline char *agq_kv_region(const agq_engine *e, int layer, int slot, int kv_head) {
  const size_t index =
      ((size_t)layer * (size_t)e->options.slots + (size_t)slot) * (size_t)e->model.kv_heads + (size_t)kv_head;
  return e->kv + index * e->kv_layout.region_bytes;
}
static inline float *agq_scratch(const agq_engine *e, int thread) {
  return e->scratch + (size_t)thread * e->scratch_floats;
}

#endif
