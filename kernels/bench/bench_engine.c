/* bench_engine.c: time of the forward pass by part, on a model of any LLaMA-like shape with random weights.
 *   bench_engine [key=value ...]   keys: hidden ffn heads kv_heads head_dim vocab layers bits (4, 8) act (4, 8) group
 * threads prompt depth decode batch repeat kv hadamard window both. The default is TinyLlama-1.1B's shape with 4 layers.
 * both=1: 8-bit and 4-bit activations on the same weights, measured alternately `repeat` times; medians, and the ratio
 * of the speeds.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../tests/random.h"
#include "agq.h"

static struct {
  const char *name;
  int value;
} settings[] = {{"hidden", 2048},
                {"ffn", 5632},
                {"heads", 32},
                {"kv_heads", 4},
                {"head_dim", 64},
                {"vocab", 32000},
                {"layers", 4},
                {"bits", 4},
                {"act", 8},
                {"group", 128},
                {"threads", 2},
                {"prompt", 512},
                {"depth", 0},
                {"decode", 32},
                {"batch", 256},
                {"repeat", 3},
                {"kv", 8},
                {"hadamard", 0} /* of the input of the last linear */,
                {"window", 0} /* of every layer */,
                {"both", 0}};

static int get(const char *name) {
  for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
    if (!strcmp(settings[i].name, name)) return settings[i].value;
  abort();
}

static void set(const char *argument) {
  const char *equal = strchr(argument, '=');
  for (size_t i = 0; equal && i < sizeof settings / sizeof *settings; i++)
    if (strlen(settings[i].name) == (size_t)(equal - argument) &&
        !strncmp(settings[i].name, argument, (size_t)(equal - argument))) {
      settings[i].value = atoi(equal + 1);
      return;
    }
  fprintf(stderr, "unknown setting: %s\n", argument);
  exit(2);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *allocate(size_t bytes) {
  void *p = NULL;
  if (posix_memalign(&p, 64, bytes ? bytes : 64)) abort();
  return p;
}

static size_t weight_bytes; /* of all linears */

static void set_act(agq_linear *l, int act) {
  l->act_bits = act;
  l->act_group = act == 4 ? 128 : 0;
  l->act_symmetric = act != 4;
}

/* With 8-bit activations, until set_act says otherwise. */
static agq_linear linear(int out, int in, int bits, int group) {
  agq_linear l = {.out_features = out,
                  .in_features = in,
                  .weight_dtype = bits == 4 ? AGQ_U4 : AGQ_I8,
                  .scale_dtype = AGQ_BF16,
                  .group_size = group};
  set_act(&l, 8);
  l.weight_bytes = (size_t)agq_linear_weight_bytes(&l);
  l.scale_bytes = (size_t)agq_linear_scale_bytes(&l);
  uint64_t *w = allocate(l.weight_bytes);
  for (size_t i = 0; i < l.weight_bytes / 8; i++)
    w[i] = bits == 4 ? random_bits64() : random_bits64() & 0x7f7f7f7f7f7f7f7fu;
  uint16_t *scale = allocate(l.scale_bytes);
  const float s = 1.0f / sqrtf((float)in) / (bits == 4 ? 5 : 64);
  uint32_t u;
  memcpy(&u, &s, 4);
  for (size_t i = 0; i < l.scale_bytes / 2; i++) scale[i] = (uint16_t)(u >> 16);
  l.weight = w;
  l.scale = scale;
  weight_bytes += l.weight_bytes + l.scale_bytes;
  return l;
}

static void report(const char *title, agq_engine *e, double total, int tokens) {
  double seconds[AGQ_PROFILE_PARTS], rest = total;
  agq_engine_profile(e, seconds, 1);
  printf("%s: %.2f tokens/s, %.3f ms per token\n", title, tokens / total, 1e3 * total / tokens);
  for (int i = 0; i < AGQ_PROFILE_PARTS; i++) {
    rest -= seconds[i];
    if (seconds[i] > 0)
      printf("    %-32s %6.2f %%  %9.1f us per token\n", agq_profile_name(i), 100 * seconds[i] / total,
             1e6 * seconds[i] / tokens);
  }
  printf("    %-32s %6.2f %%\n", "between the passes", 100 * rest / total);
}

static agq_engine *engine(agq_model m, int act, const agq_options *o, const float *inv_freq) {
  agq_block *blocks = calloc((size_t)m.layers, sizeof *blocks);
  memcpy(blocks, m.blocks, (size_t)m.layers * sizeof *blocks);
  for (int i = 0; i < m.layers; i++) {
    set_act(&blocks[i].qkv, act);
    set_act(&blocks[i].out, act);
    set_act(&blocks[i].up, act);
    set_act(&blocks[i].down, act);
  }
  m.blocks = blocks;
  char error[256];
  agq_engine *e = agq_engine_create(&m, o, error, sizeof error);
  if (!e) {
    fprintf(stderr, "error: %s\n", error);
    exit(1);
  }
  agq_engine_set_rope(e, 0, AGQ_ROPE_GLOBAL, inv_freq, 1);
  return e;
}

/* Seconds of `count` tokens at `depth`: in one pass, or one by one. */
static double run(agq_engine *e, const int32_t *tokens, int depth, int count, int together, float *logits) {
  const double start = now();
  for (int i = 0; i < count; i += together) {
    const agq_batch b = {together, tokens + depth + i, NULL, NULL};
    if (agq_engine_forward(e, &b, logits) != AGQ_OK) abort();
  }
  return now() - start;
}

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static double median(double *x, int n) {
  qsort(x, (size_t)n, sizeof *x, ascending);
  return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

static void compare(const agq_model *m, const agq_options *o, const float *inv_freq, const int32_t *tokens,
                    float *logits) {
  const int prompt = get("prompt"), depth = get("depth"), decode = get("decode"), repeat = get("repeat");
  agq_engine *e[2] = {engine(*m, 8, o, inv_freq), engine(*m, 4, o, inv_freq)};
  double *speed[2][2], *ratio[2]; /* [prefill, decode][A8, A4] */
  for (int k = 0; k < 2; k++) {
    ratio[k] = allocate((size_t)repeat * sizeof(double));
    for (int a = 0; a < 2; a++) speed[k][a] = allocate((size_t)repeat * sizeof(double));
  }
  for (int a = 0; a < 2; a++)
    if (depth) run(e[a], tokens, 0, depth, depth, logits);
  for (int r = -1; r < repeat; r++) { /* the first round is a warm-up */
    for (int i = 0; i < 2; i++) {
      const int a = (i + r) & 1;
      agq_engine_slot_truncate(e[a], 0, depth);
      const double fill = run(e[a], tokens, depth, prompt, prompt, logits),
                   rest = run(e[a], tokens, depth + prompt, decode, 1, logits);
      if (r >= 0) speed[0][a][r] = prompt / fill, speed[1][a][r] = decode / rest;
    }
    for (int k = 0; k < 2 && r >= 0; k++) ratio[k][r] = speed[k][1][r] / speed[k][0][r];
  }
  for (int k = 0; k < 2; k++)
    printf("%s, group %d, %d threads: %s %d, A8 %.1f tokens/s, A4 %.1f, ratio %.3f\n", agq_isa(), get("group"),
           o->threads, k ? "decode" : "prefill", k ? decode : prompt, median(speed[k][0], repeat),
           median(speed[k][1], repeat), median(ratio[k], repeat));
}

int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) set(argv[i]);
  if (agq_cpu_score() <= 0) {
    printf("skipped: this machine cannot run %s\n", agq_isa());
    return 0;
  }
  const int hidden = get("hidden"), ffn = get("ffn"), heads = get("heads"), kv_heads = get("kv_heads"),
            d = get("head_dim");
  const int vocab = get("vocab"), layers = get("layers"), bits = get("bits"), act = get("act"), group = get("group");
  const int prompt = get("prompt"), depth = get("depth"), decode = get("decode"), context = depth + prompt + decode + 1;
  agq_block *blocks = calloc((size_t)layers, sizeof *blocks);
  for (int i = 0; i < layers; i++) {
    blocks[i].qkv = linear((heads + 2 * kv_heads) * d, hidden, bits, group);
    blocks[i].out = linear(hidden, heads * d, bits, group);
    blocks[i].up = linear(2 * ffn, hidden, bits, group);
    blocks[i].down = linear(hidden, ffn, bits, group);
    blocks[i].down.hadamard = get("hadamard");
    blocks[i].window = get("window");
  }
  agq_model m = {.hidden = hidden,
                 .layers = layers,
                 .heads = heads,
                 .kv_heads = kv_heads,
                 .head_dim = d,
                 .ffn = ffn,
                 .vocab = vocab,
                 .norm_kind = AGQ_NORM_RMS,
                 .norm_eps = 1e-5f,
                 .position_kind = AGQ_POSITION_ROPE,
                 .activation_kind = AGQ_ACTIVATION_SILU_GATED,
                 .attention_scale = 1 / sqrtf((float)d),
                 .embed_dim = hidden,
                 .embed_in_head = 1,
                 .has_final_norm = 1,
                 .head = linear(vocab, hidden, 8, 0),
                 .blocks = blocks};
  const agq_options o = {get("threads"), 1, context, get("batch"), get("kv"), 0};
  float *inv_freq = allocate((size_t)d / 2 * sizeof *inv_freq), *logits = allocate((size_t)vocab * sizeof *logits);
  for (int i = 0; i < d / 2; i++) inv_freq[i] = powf(10000.0f, -2.0f * (float)i / (float)d);
  int32_t *tokens = allocate((size_t)context * sizeof *tokens);
  for (int i = 0; i < context; i++) tokens[i] = random_int(0, vocab - 1);
  if (get("both")) {
    if (prompt < 1 || decode < 1 || get("repeat") < 1) {
      fprintf(stderr, "error: both=1 needs prompt, decode and repeat of at least 1\n");
      return 2;
    }
    compare(&m, &o, inv_freq, tokens, logits);
    return 0;
  }
  agq_engine *e = engine(m, act, &o, inv_freq);
  printf("%s, %d threads, W%dA%d group %d, %d layers, weights %.1f MB, KV cache %.1f MB, workspace %.1f MB\n",
         agq_isa(), o.threads, bits, act, group, layers, (double)weight_bytes / 1e6,
         (double)agq_engine_kv_bytes(e) / 1e6, (double)agq_engine_workspace_bytes(e) / 1e6);
  if (depth) run(e, tokens, 0, depth, depth, logits);
  for (int r = 0; r < get("repeat"); r++) {
    char title[64];
    agq_engine_slot_truncate(e, 0, depth);
    agq_engine_profile(e, NULL, 1);
    if (prompt) {
      const double total = run(e, tokens, depth, prompt, prompt, logits);
      snprintf(title, sizeof title, "prefill %d at depth %d", prompt, depth);
      report(title, e, total, prompt);
    }
    const double total = run(e, tokens, depth + prompt, decode, 1, logits);
    snprintf(title, sizeof title, "decode %d at depth %d", decode, depth + prompt);
    if (decode) report(title, e, total, decode);
    if (decode) printf("    weights read at %.1f GB/s\n", (double)weight_bytes * decode / total / 1e9);
  }
  agq_engine_destroy(e);
  return 0;
}
