/* prune.h: token pruning of prompts. Which tokens a layer keeps is decided after its attention; see prune.c.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_PRUNE_H
#define AGQ_PRUNE_H

#include "agq.h"

/* What an engine with pruning knows beyond one without. A row is what a pass computes for one token that is still
 * there. */
typedef struct {
  int on;
  int paper, log2, protect_wanted;
  double ratio;
  uint8_t *layer;        /* [layers] 1: prunes */
  int *layer_length;     /* [slots][layers] keys in each layer's cache */
  int *prompt;           /* [slots] length of the prompt that was pruned; 0: nothing was removed */
  uint8_t *kept;         /* [slots][context] 0: removed */
  int32_t *key_position; /* [layers][slots][positions of a region] where each key's token stands; with distances */
  /* Of the piece that is being computed. */
  uint8_t *starts;  /* [slots] 1: the piece holds the slot's prompt */
  int32_t *origin;  /* [batch] of each row: its token's number in the piece */
  int32_t *place;   /* [batch] of each row: its token's position in the sequence */
  int32_t *rope_at; /* [batch] the position that the row's cosines and sines belong to */
  int32_t *rank;    /* [batch] of each token of the piece: its row of logits, or -1 */
  uint8_t *victim;  /* [batch] */
  uint64_t *keys;   /* [batch] importance and row, for the selection */
  float *shares;    /* [batch][heads] attention to the first token */
  float *leaving;   /* [batch][hidden]; shares memory with what attention and the feed-forward part write */
  int32_t *exits;   /* [batch] rows of logits of removed tokens; their states stand at the end of h, the first last */
  int exit_count;
} agq_prune;

struct agq_engine;
/* 1: attention depends on how far tokens are apart beyond what their keys hold: ALiBi, windows. */
int agq_uses_distances(const struct agq_engine *e);
/* Before the embedding of the m tokens of a batch from `first` on; e->token_position holds their positions. */
void agq_prune_begin(struct agq_engine *e, const agq_batch *b, int first, int m);
/* Before a layer: sets e->token_position of m rows to their places in the layer's cache. */
void agq_prune_enter(struct agq_engine *e, int layer, int m);
/* 1: the layer decides on all rows that reach it. */
int agq_prune_acts(const struct agq_engine *e, int layer);
/* After attention and the product that follows it (e->delta): removes tokens. Returns the rows that are left, from 0
 * on. In parallel blocks a removed token's state lacks the feed-forward part of that layer. */
int agq_prune_leave(struct agq_engine *e, int layer, int m);
/* Lists the rows whose logits are wanted in e->token_row; returns their number. */
int agq_prune_wanted(struct agq_engine *e, int m);
/* The rows listed in e->token_row have been moved to the front. */
void agq_prune_moved(struct agq_engine *e, int m);
/* After the last layer, where removed tokens' logits are wanted: puts all wanted states, residual added, in order into
 * the first rows of h. Returns their number; 0: there are none of removed tokens, and nothing was done. */
int agq_prune_finish(struct agq_engine *e, int m);
/* The slot holds `length` tokens now, `removed` fewer than before. */
void agq_prune_truncate(struct agq_engine *e, int slot, int length, int removed);

#endif
