/* clip_search.c: which of several grids rounds a group of weights best, by sum(|w - Q(w)|^2.4). The sums are those of
 * vectors in float32: where two grids are nearly as good the choice is left to the caller (`sure`), who has the
 * definition (agq/numerics/quantizers.py).
 *
 * A group has a few dozen grids, the widest range first. A narrower range cuts off more of the largest weights: the
 * largest weight of each vector lane gives a lower bound of a grid's error, and most narrow ranges need no more.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "agq.h"
#include "ops/vec.h"
#include "threads/pool.h"

enum { MOST = AGQ_MAX_CLIP_STEPS, CHUNK = 64 /* groups that a thread takes at a time */ };

/* More than the relative errors of two bounds in float32. */
#define ROUNDING 1e-4f

typedef struct {
  const agq_clip_problem *problem;
  int32_t *best;
  uint8_t *sure;
} search;

/* q^1.2 of q >= 0, that is |e|^2.4 of q = e^2: relative error below 5e-6 for normal numbers, 0 at 0. With r = q^-0.2
 * from the exponent's bits (3 %) and w = q r^5, q^1.2 = q^2 r^4 w^-0.8; the last factor is a minimax polynomial in
 * w - 1 on 0.85 .. 1.17 (3.6e-6). */
VINLINE vf power(vf q) {
  vf bits = __builtin_convertvector((vi)q, vf);
  vf r = (vf) __builtin_convertvector(vmadd(bits, vset(-0.2f), vset(1277937280.0f)), vi);
  vf r2 = r * r, r4 = r2 * r2, e = vmadd(q * r4, r, vset(-1.0f));
  vf p = vmadd(vset(0.6202488541603088f), e, vset(-0.6901149749755859f));
  p = vmadd(p, e, vset(0.7205408811569214f));
  p = vmadd(p, e, vset(-0.7998921275138855f));
  p = vmadd(p, e, vset(0.9999986886978149f));
  return q * q * r4 * p;
}

VINLINE float sum(vf v) {
  float lanes[VW];
  vstore(lanes, v);
  return vsum_lanes(lanes, VW);
}

/* sum over a group of importance * |w/scale - Q(w)/scale|^2.4. low, high: the codes' limits less the zero point. */
static float error(const float *w, const float *importance, int size, float inverse, float low, float high) {
  const vf factor = vset(inverse), least = vset(low), most = vset(high);
  vf total = {0};
  for (int i = 0; i < size; i += VW) {
    vf t = vload(w + i) * factor;
    vf d = t - vrint(vmin(vmax(t, least), most));
    vf p = power(d * d);
    if (importance) p = p * vload(importance + i);
    total += p;
  }
  return sum(total);
}

/* The part of `error` that the weights `top`, one a lane, have by lying outside of the codes. */
VINLINE float cut_off(vf top, vf importance, float inverse, float low, float high) {
  vf t = top * vset(inverse), d = t - vmin(vmax(t, vset(low)), vset(high));
  return sum(power(d * d) * importance);
}

static void search_group(const search *s, int group) {
  const agq_clip_problem *p = s->problem;
  const int size = p->size, steps = p->steps;
  const float *w = p->values + (size_t)group * (size_t)size;
  const float *scale = p->scale + (size_t)group * (size_t)steps;
  const float *zero = p->zero ? p->zero + (size_t)group * (size_t)steps : NULL;
  const float *importance = p->importance ? p->importance + (size_t)(group % p->period) * (size_t)size : NULL;
  float powers[MOST + VW]; /* scale^2.4 */
  for (int i = 0; i < steps; i += VW) {
    vf v = steps - i < VW ? vload_n(scale + i, steps - i) : vload(scale + i);
    vstore(powers + i, power(v * v));
  }
  vf top = vload(w), weight = importance ? vload(importance) : vset(1.0f);
  for (int i = VW; i < size; i += VW) {
    vf v = vload(w + i);
    vi larger = (vi)(vabs(v) > vabs(top));
    top = vselect(larger, v, top);
    if (importance) weight = vselect(larger, vload(importance + i), weight);
  }
  float least = __builtin_inff(), second = least, cut = 0;
  int best = 0;
  for (int i = 0; i < steps; i++) {
    /* What lies outside of a range lies farther outside of a narrower one around the same zero. */
    if (scale[i] <= cut) continue;
    const float inverse = 1.0f / scale[i], z = zero ? zero[i] : 0;
    const float low = p->lowest - z, high = p->highest - z;
    const float bound = cut_off(top, weight, inverse, low, high) * powers[i];
    if (bound > least * (1 + p->margin)) {
      if (!zero && bound > least * (1 + p->margin) * (1 + ROUNDING)) cut = scale[i];
      continue;
    }
    const float e = error(w, importance, size, inverse, low, high) * powers[i];
    if (e < least) {
      second = least;
      least = e;
      best = i;
    } else if (!(e >= second)) {
      second = e;
    }
  }
  s->best[group] = best;
  s->sure[group] = second > least * (1 + p->margin);
}

static void search_task(void *arg, int thread, int begin, int end) {
  (void)thread;
  for (int i = begin; i < end; i++) search_group(arg, i);
}

int agq_clip_search(const agq_clip_problem *p, int32_t *best, uint8_t *sure, int threads) {
  const int bad = p->groups < 0 || p->size < 32 || p->size % 32 || p->steps < 1 || p->steps > MOST || threads < 1;
  if (bad || !(p->margin >= 0) || (p->importance && p->period < 1)) return AGQ_ERR_ARGUMENT;
  search s = {p, best, sure};
  agq_pool *pool = agq_pool_create(threads);
  if (!pool) return AGQ_ERR_MEMORY;
  agq_pool_run(pool, search_task, &s, p->groups, CHUNK);
  agq_pool_destroy(pool);
  return AGQ_OK;
}
