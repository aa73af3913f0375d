/* clip_search.c: which of several grids rounds a group of weights best, by sum(|w - Q(w)|^2.4). The sums are those of
 * vectors in float32: where two grids are nearly as good the choice is left to the caller (`sure`), who has the
 * definition (agq/numerics/quantizers.py).
 *
 * A group has a few dozen grids, the widest range first. Two lower bounds of a grid's error spare most of the sums. The
 * largest weight of each vector lane lies outside of a narrow range, and by how much. And the logarithms of the sums
 * M(p) of |e|^p are convex in p (Lyapunov), so that M(2.4) >= M(2) (M(2) / M(1))^0.4, which takes a third of the steps.
 * Bounds are computed for VW grids at a time.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "agq.h"
#include "ops/vec.h"
#include "threads/pool.h"

enum { MOST = AGQ_MAX_CLIP_STEPS, CHUNK = 64 /* groups that a thread takes at a time */ };

/* More than the relative errors of a sum of `size` weights and of its bounds, in float32. */
#define ROUNDING(size) (1e-4f + 2e-7f * (float)(size))
/* Smaller sums of squares might have no normal bound. */
#define LEAST 1e-30f

typedef struct {
  const agq_clip_problem *problem;
  int32_t *best;
  uint8_t *sure;
} search;

/* A group of weights, its grids and what was found so far. */
typedef struct {
  const agq_clip_problem *p;
  const float *w, *importance, *scale, *zero; /* of this group; importance, zero: NULL as in the problem */
  float bound[MOST + VW];                     /* of each grid: its error is no less */
  float least, second;                        /* errors */
  int best;
} group;

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

/* VW grids: scale, 1 / scale, the codes' limits less the zero point. */
typedef struct {
  vf scale, inverse, low, high;
} grids;

static grids grids_of(const group *g, vf scale, vf zero) {
  return (grids){scale, vset(1.0f) / scale, vset(g->p->lowest) - zero, vset(g->p->highest) - zero};
}

/* Grids i, i + step, ...; behind the last one, the last one again. */
static grids grids_from(const group *g, int i, int step) {
  float scale[VW], zero[VW];
  const int last = g->p->steps - 1;
  for (int lane = 0; lane < VW; lane++) {
    const int at = i + lane * step < last ? i + lane * step : last;
    scale[lane] = g->scale[at];
    zero[lane] = g->zero ? g->zero[at] : 0;
  }
  return grids_of(g, vload(scale), vload(zero));
}

/* By how much the grids miss a weight, in steps. */
VINLINE vf missed(const grids *some, float w) {
  vf t = vset(w) * some->inverse;
  return t - vrint(vmin(vmax(t, some->low), some->high));
}

/* A lower bound of the grids' errors. */
static vf lower_bound(const group *g, const grids *some) {
  const float *w = g->w, *importance = g->importance;
  vf first = {0}, second = {0}, others[2] = {{0}, {0}}; /* M(1), M(2); two sums each: additions wait for each other */
  for (int i = 0; i < g->p->size; i += 2) {
    const vf d = vabs(missed(some, w[i])), e = vabs(missed(some, w[i + 1]));
    vf a = d, b = e;
    if (importance) a *= vset(importance[i]), b *= vset(importance[i + 1]);
    first += a;
    others[0] += b;
    second = vmadd(d, a, second);
    others[1] = vmadd(e, b, others[1]);
  }
  first += others[0], second += others[1];
  vf ratio = second / first, root = power(ratio) / ratio; /* ratio^0.2 */
  vf bound = second * root * root * power(some->scale * some->scale) * vset(1 - ROUNDING(g->p->size));
  return vselect((vi)(second > vset(LEAST)), bound, vset(0.0f));
}

/* A scale for which too much of the group lies outside of the codes, given the `limit` of an error. Without zero points
 * what lies outside of a range lies farther outside of a narrower one. 0: none was found. */
static float too_narrow(const group *g, float limit) {
  const int size = g->p->size, steps = g->p->steps;
  if (g->zero) return 0;
  vf top = vload(g->w), its = g->importance ? vload(g->importance) : vset(1.0f);
  for (int i = VW; i < size; i += VW) {
    vf v = vload(g->w + i);
    vi larger = (vi)(vabs(v) > vabs(top));
    top = vselect(larger, v, top);
    if (g->importance) its = vselect(larger, vload(g->importance + i), its);
  }
  float tops[VW], weight[VW], bound[VW], found = 0;
  vstore(tops, top), vstore(weight, its);
  for (int i = VW - 1; i < steps; i += VW * VW) {
    const grids ends = grids_from(g, i, VW);
    vf total = {0};
    for (int lane = 0; lane < VW; lane++) {
      vf t = vset(tops[lane]) * ends.inverse, d = t - vmin(vmax(t, ends.low), ends.high);
      total = vmadd(power(d * d), vset(weight[lane]), total);
    }
    vstore(bound, total * power(ends.scale * ends.scale));
    for (int lane = 0; lane < VW; lane++)
      if (bound[lane] > limit && ends.scale[lane] > found) found = ends.scale[lane];
  }
  return found;
}

/* The error of grid i. */
static void look(group *g, int i) {
  const float z = g->zero ? g->zero[i] : 0, scale = g->scale[i];
  const float e = error(g->w, g->importance, g->p->size, 1.0f / scale, g->p->lowest - z, g->p->highest - z) *
                  power(vset(scale * scale))[0];
  if (e < g->least || (e == g->least && i < g->best)) {
    g->second = g->least;
    g->least = e;
    g->best = i;
  } else if (!(e >= g->second)) {
    g->second = e;
  }
}

static void search_group(const search *s, int index) {
  const agq_clip_problem *p = s->problem;
  const size_t grids_at = (size_t)index * (size_t)p->steps;
  group g;
  g.p = p;
  g.w = p->values + (size_t)index * (size_t)p->size;
  g.importance = p->importance ? p->importance + (size_t)(index % p->period) * (size_t)p->size : NULL;
  g.scale = p->scale + grids_at;
  g.zero = p->zero ? p->zero + grids_at : NULL;
  g.least = g.second = __builtin_inff();
  g.best = 0;
  look(&g, 0);
  const float narrow = too_narrow(&g, g.least * (1 + p->margin) * (1 + ROUNDING(VW)));
  int open = 0, promising = 0; /* grids behind the last one that may be the best; the one with the least bound */
  for (int i = 0; i < p->steps; i += VW) {
    const int whole = i + VW <= p->steps;
    const grids some =
        whole ? grids_of(&g, vload(g.scale + i), g.zero ? vload(g.zero + i) : (vf){0}) : grids_from(&g, i, 1);
    const vi closed = (vi)(some.scale <= vset(narrow));
    vf bound = vset(__builtin_inff());
    if (vmax_lane(some.scale) > narrow) {
      bound = vselect(closed, bound, lower_bound(&g, &some));
      open = i + VW < p->steps ? i + VW : p->steps;
    }
    vstore(g.bound + i, bound);
  }
  for (int i = 1; i < open; i++) promising = g.bound[i] < g.bound[promising] ? i : promising;
  if (promising) look(&g, promising);
  for (int i = 1; i < open; i++)
    if (i != promising && !(g.bound[i] > g.least * (1 + p->margin))) look(&g, i);
  s->best[index] = g.best;
  s->sure[index] = g.second > g.least * (1 + p->margin);
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
