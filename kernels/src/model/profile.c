/* profile.c: where the time of the forward pass goes. Two readings of the clock per pass, some 300 passes per token of
 * a large model: some microseconds of tens of milliseconds.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <string.h>
#include <time.h>

#include "engine.h"

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void agq_pass_run(agq_engine *e, int part, agq_task_fn fn, void *arg, int items, int chunk) {
  const double start = now();
  agq_pool_run(e->pool, fn, arg, items, chunk);
  e->seconds[part] += now() - start;
}

const char *agq_profile_name(int part) {
  static const char *const names[AGQ_PROFILE_PARTS] = {
      [AGQ_PROFILE_EMBED] = "embedding and positions",
      [AGQ_PROFILE_PREPARE] = "residual, norm, quantization",
      [AGQ_PROFILE_QKV] = "qkv",
      [AGQ_PROFILE_KV_STORE] = "kv store",
      [AGQ_PROFILE_ATTENTION] = "attention",
      [AGQ_PROFILE_OUT] = "attention output",
      [AGQ_PROFILE_UP] = "up and activation",
      [AGQ_PROFILE_DOWN] = "down",
      [AGQ_PROFILE_HEAD] = "head",
      [AGQ_PROFILE_PROJECT] = "projections of the embedding",
  };
  return part >= 0 && part < AGQ_PROFILE_PARTS ? names[part] : NULL;
}

void agq_engine_profile(agq_engine *e, double *seconds, int reset) {
  if (seconds) memcpy(seconds, e->seconds, sizeof e->seconds);
  if (reset) memset(e->seconds, 0, sizeof e->seconds);
}
