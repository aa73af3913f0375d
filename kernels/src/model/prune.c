/* prune.c: activation-guided token pruning (arXiv 2312.05693): in some layers the tokens of a prompt that attend least
 * to its first token are removed, after attention and before the feed-forward part. A layer's cache holds what reached
 * the layer, so the layers' caches differ in length; places in them and positions in the sequence are different numbers
 * here.
 *
 * Removed are floor(r * ratio) of a prompt's r tokens, the least important first, of equals the earlier one. Importance
 * is the attention to the first token, summed over heads in double and rounded to float. Sink tokens and what follows
 * the prompt stay.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "prune.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "ops/ops.h"

int agq_uses_distances(const agq_engine *e) { return e->model.position_kind == AGQ_POSITION_ALIBI || e->windows; }

static int safe_distances(const agq_engine *e) { return agq_uses_distances(e) && !e->prune.paper; }
static int renumbers_rope(const agq_engine *e) { return e->model.position_kind == AGQ_POSITION_ROPE && e->prune.paper; }

static int *length_of(const agq_engine *e, int slot, int layer) {
  return &e->prune.layer_length[(size_t)slot * (size_t)e->model.layers + (size_t)layer];
}

void agq_prune_begin(agq_engine *e, const agq_batch *b, int first, int m) {
  agq_prune *p = &e->prune;
  int wanted = 0;
  p->exit_count = 0;
  for (int i = 0; i < m; i++) {
    const int slot = e->token_slot[i], position = e->token_position[i];
    if (i == 0 || slot != e->token_slot[i - 1]) p->starts[slot] = position == 0;
    p->origin[i] = i;
    p->place[i] = p->rope_at[i] = position;
    p->rank[i] = (b->want ? b->want[first + i] : first + i == b->n - 1) ? wanted++ : -1;
    p->kept[(size_t)slot * (size_t)e->options.context + (size_t)position] = 1;
  }
}

static void rope_task(void *arg, int thread, int begin, int end) {
  agq_engine *e = arg;
  (void)thread;
  for (int i = begin; i < end; i++) {
    if (e->prune.rope_at[i] == e->token_position[i]) continue;
    e->prune.rope_at[i] = e->token_position[i];
    agq_rope_tables(e, i, e->token_position[i]);
  }
}

void agq_prune_enter(agq_engine *e, int layer, int m) {
  agq_prune *p = &e->prune;
  int renumbered = 0;
  for (int i = 0; i < m; i++) {
    const int slot = e->token_slot[i], at = (*length_of(e, slot, layer))++;
    e->token_position[i] = at;
    renumbered |= p->rope_at[i] != at;
    if (safe_distances(e)) {
      const size_t region = (size_t)layer * (size_t)e->options.slots + (size_t)slot;
      p->key_position[region * (size_t)e->kv_layout.positions + (size_t)at] = p->place[i];
    }
  }
  if (renumbered && renumbers_rope(e)) agq_pass_run(e, AGQ_PROFILE_EMBED, rope_task, e, m, 8);
}

int agq_prune_acts(const agq_engine *e, int layer) {
  /* In the last layer nothing would be saved but what is not computed anyway: the states of tokens that nobody
   * reads. */
  return e->prune.on && e->prune.layer[layer] && !(e->prune.protect_wanted && layer == e->model.layers - 1);
}

/* The 4-bit log2 quantizer of probabilities. */
static float log2_probability(float p) {
  const float k = rintf(-log2f(p));
  return k < 16 ? ldexpf(1, -(int)k) : 0;
}

static float importance(const agq_engine *e, int row) {
  const float *share = e->prune.shares + (size_t)row * (size_t)e->model.heads;
  double sum = 0;
  for (int h = 0; h < e->model.heads; h++) sum += e->prune.log2 ? log2_probability(share[h]) : share[h];
  return (float)sum;
}

/* Moves the `count` smallest of keys[n], all different, to the front (quickselect). */
static void select_smallest(uint64_t *keys, int n, int count) {
  for (int lo = 0, hi = n - 1; lo < hi;) {
    const uint64_t a = keys[lo], b = keys[lo + (hi - lo) / 2], c = keys[hi];
    const uint64_t pivot = a < b ? (b < c ? b : a < c ? c : a) : (a < c ? a : b < c ? c : b);
    int i = lo, j = hi;
    while (i <= j) {
      while (keys[i] < pivot) i++;
      while (keys[j] > pivot) j--;
      if (i > j) break;
      const uint64_t t = keys[i];
      keys[i++] = keys[j], keys[j--] = t;
    }
    if (count <= j) hi = j;
    else if (count >= i) lo = i;
    else return;
  }
}

/* Marks the victims among rows [begin, end) of one prompt; returns their number. */
static int choose(agq_engine *e, int begin, int end) {
  agq_prune *p = &e->prune;
  const int last = e->length[e->token_slot[begin]] - 1;
  int count = (int)floor((end - begin) * p->ratio), candidates = 0;
  if (count == 0) return 0;
  for (int i = begin; i < end; i++) {
    if (p->place[i] == 0 || p->place[i] < e->model.sink_tokens || p->place[i] == last) continue;
    if (p->protect_wanted && p->rank[p->origin[i]] >= 0) continue;
    const float value = importance(e, i);
    uint32_t bits; /* floats >= 0 are ordered as their bits */
    memcpy(&bits, &value, sizeof bits);
    p->keys[candidates++] = (uint64_t)bits << 32 | (uint32_t)i;
  }
  if (count > candidates) count = candidates;
  select_smallest(p->keys, candidates, count);
  for (int k = 0; k < count; k++) p->victim[(uint32_t)p->keys[k]] = 1;
  return count;
}

static void move_row(float *x, int from, int to, size_t width) {
  memcpy(x + (size_t)to * width, x + (size_t)from * width, width * sizeof(float));
}

/* What the residual stream is made from: h, or the norm's output. */
static float *base(const agq_engine *e) { return e->model.residual_from_norm ? e->normed : e->h; }

/* h of a row after an addition that is still to be done, of attention's output or the feed-forward part's, and after
 * the norm that follows it there. */
static void state_of(const agq_engine *e, int row, const agq_block *b, int feed_forward, float *to) {
  const agq_model *m = &e->model;
  const size_t n = (size_t)m->hidden, at = (size_t)row * n;
  const agq_norm *post = feed_forward ? &b->mlp_post_norm : &b->attn_post_norm;
  agq_add_delta(e, m->post_norms ? post : NULL, base(e) + at, e->delta + at, to);
  if (m->parallel && feed_forward) agq_add_delta(e, NULL, to, e->normed + at, to);
  if (m->norm_after)
    agq_norm_row(m->norm_kind, feed_forward ? &b->mlp_norm : &b->attn_norm, m->norm_eps, to, to, (int)n);
}

int agq_prune_leave(agq_engine *e, int layer, int m) {
  agq_prune *p = &e->prune;
  const size_t hidden = (size_t)e->model.hidden, half = (size_t)e->half;
  if (!agq_prune_acts(e, layer)) return m;
  int victims = 0;
  memset(p->victim, 0, (size_t)m);
  for (int begin = 0, end; begin < m; begin = end) {
    const int slot = e->token_slot[begin];
    for (end = begin + 1; end < m && e->token_slot[end] == slot; end++) {}
    const int count = p->starts[slot] ? choose(e, begin, end) : 0;
    if (count) p->prompt[slot] = e->length[slot];
    victims += count;
  }
  if (!victims) return m;
  int left = 0, gone = 0;
  for (int i = 0; i < m; i++) {
    const int slot = e->token_slot[i];
    if (p->victim[i]) {
      p->kept[(size_t)slot * (size_t)e->options.context + (size_t)p->place[i]] = 0;
      if (p->rank[p->origin[i]] < 0) continue;
      state_of(e, i, &e->model.blocks[layer], 0, p->leaving + (size_t)gone * hidden);
      p->exits[p->exit_count + gone++] = p->rank[p->origin[i]];
      continue;
    }
    if (i != left) {
      move_row(base(e), i, left, hidden);
      move_row(e->delta, i, left, hidden);
      if (e->model.position_kind == AGQ_POSITION_ROPE && !p->paper) {
        for (int r = 0; r < e->rope_tables; r++) {
          const size_t table = (size_t)r * (size_t)e->options.batch * half;
          move_row(e->cosines + table, i, left, half);
          move_row(e->sines + table, i, left, half);
        }
        p->rope_at[left] = p->rope_at[i];
      }
      e->token_slot[left] = slot;
      p->place[left] = p->place[i];
      p->origin[left] = p->origin[i];
    }
    left++;
  }
  for (int k = 0; k < gone; k++) /* rows left + gone .. batch - 1 are free */
    memcpy(e->h + (size_t)(e->options.batch - 1 - p->exit_count++) * hidden, p->leaving + (size_t)k * hidden,
           hidden * sizeof(float));
  return left;
}

int agq_prune_wanted(agq_engine *e, int m) {
  int wanted = 0;
  for (int i = 0; i < m; i++)
    if (e->prune.rank[e->prune.origin[i]] >= 0) {
      e->token_row[wanted] = i;
      e->active_position[wanted++] = e->token_position[i];
    }
  return wanted;
}

void agq_prune_moved(agq_engine *e, int m) {
  for (int i = 0; i < m; i++) {
    e->prune.origin[i] = e->prune.origin[e->token_row[i]];
    e->prune.place[i] = e->prune.place[e->token_row[i]];
  }
}

int agq_prune_finish(agq_engine *e, int m) {
  agq_prune *p = &e->prune;
  const size_t hidden = (size_t)e->model.hidden;
  if (p->exit_count == 0) return 0;
  int wanted = p->exit_count;
  for (int i = 0; i < m; i++) {
    const int rank = p->rank[p->origin[i]];
    if (rank < 0) continue;
    state_of(e, i, &e->model.blocks[e->model.layers - 1], 1, p->leaving + (size_t)rank * hidden);
    wanted++;
  }
  for (int k = 0; k < p->exit_count; k++)
    memcpy(p->leaving + (size_t)p->exits[k] * hidden, e->h + (size_t)(e->options.batch - 1 - k) * hidden,
           hidden * sizeof(float));
  memcpy(e->h, p->leaving, (size_t)wanted * hidden * sizeof(float));
  return wanted;
}

void agq_prune_truncate(agq_engine *e, int slot, int length, int removed) {
  if (!e->prune.on) return;
  for (int l = 0; l < e->model.layers; l++) *length_of(e, slot, l) = length ? *length_of(e, slot, l) - removed : 0;
  if (length == 0) e->prune.prompt[slot] = 0;
}

static int fail(agq_engine *e, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int fail(agq_engine *e, int code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(e->error, sizeof e->error, format, args);
  va_end(args);
  return code;
}

int agq_engine_set_pruning(agq_engine *e, const agq_pruning *pruning) {
  if (!e) return AGQ_ERR_ARGUMENT;
  for (int s = 0; s < e->options.slots; s++)
    if (e->length[s])
      return fail(e, AGQ_ERR_ARGUMENT, "slot %d holds tokens: pruning is set while all slots are empty", s);
  const int count = pruning ? pruning->layer_count : 0;
  if (count < 0 || (count && !pruning->layers)) return fail(e, AGQ_ERR_ARGUMENT, "no layers to prune");
  for (int i = 0; i < count; i++)
    if (pruning->layers[i] < 0 || pruning->layers[i] >= e->model.layers)
      return fail(e, AGQ_ERR_ARGUMENT, "layer %d is not in 0..%d", pruning->layers[i], e->model.layers - 1);
  if (pruning && !(pruning->ratio >= 0 && pruning->ratio < 1))
    return fail(e, AGQ_ERR_ARGUMENT, "a ratio of %g is not at least 0 and below 1", pruning->ratio);
  if (pruning && (pruning->positions < 0 || pruning->positions > AGQ_PRUNE_RENUMBER || pruning->scores < 0 ||
                  pruning->scores > AGQ_PRUNE_LOG2))
    return fail(e, AGQ_ERR_ARGUMENT, "positions %d or scores %d do not exist", pruning->positions, pruning->scores);
  agq_prune *p = &e->prune;
  memset(p->layer, 0, (size_t)e->model.layers);
  p->on = count > 0;
  if (!p->on) return AGQ_OK;
  for (int i = 0; i < count; i++) p->layer[pruning->layers[i]] = 1;
  p->ratio = pruning->ratio;
  p->paper = pruning->positions == AGQ_PRUNE_RENUMBER;
  p->log2 = pruning->scores == AGQ_PRUNE_LOG2;
  p->protect_wanted = pruning->protect_wanted != 0;
  memset(p->layer_length, 0, (size_t)e->options.slots * (size_t)e->model.layers * sizeof(int));
  memset(p->prompt, 0, (size_t)e->options.slots * sizeof(int));
  return AGQ_OK;
}

int agq_engine_survivors(agq_engine *e, int slot, uint8_t *kept) {
  if (!e || !kept) return AGQ_ERR_ARGUMENT;
  if (slot < 0 || slot >= e->options.slots)
    return fail(e, AGQ_ERR_ARGUMENT, "slot %d is not in 0..%d", slot, e->options.slots - 1);
  const size_t n = (size_t)e->length[slot];
  if (e->prune.on) memcpy(kept, e->prune.kept + (size_t)slot * (size_t)e->options.context, n);
  else memset(kept, 1, n);
  return AGQ_OK;
}
