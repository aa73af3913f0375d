/* bench_gemm.c: multiply-accumulates per clock cycle of every kernel, beside the most that this level's instructions
 * can do.
 *
 * One thread, best of many repetitions. The small matrices of m = 1 stay in a core's cache; 32768 x 4096 comes from
 * memory, whose read bandwidth is measured beside it.   usage: bench_gemm [word that a line must contain]
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../tests/random.h"
#include "gemm/linear.h"

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Clock: a chain of dependent multiplications of known latency (3 cycles on the x86 cores of the last ten years, 3 on
 * Cortex-A72/A76). */
static double measure_clock(void) {
  double best = 0;
  for (int r = 0; r < 1000; r++) {
    const int n = 2000;
    uint64_t x = 3;
    const double begin = now();
    for (int i = 0; i < n; i++) {
#if defined(__x86_64__)
      __asm__ volatile(
          "imul %0,%0\nimul %0,%0\nimul %0,%0\nimul %0,%0\nimul %0,%0\nimul %0,%0\nimul %0,%0\nimul %0,%0\n"
          : "+r"(x));
#elif defined(__aarch64__)
      __asm__ volatile("mul %w0,%w0,%w0\nmul %w0,%w0,%w0\nmul %w0,%w0,%w0\nmul %w0,%w0,%w0\n"
                       "mul %w0,%w0,%w0\nmul %w0,%w0,%w0\nmul %w0,%w0,%w0\nmul %w0,%w0,%w0\n"
                       : "+r"(x));
#else
      for (int j = 0; j < 8; j++) x = x * x;
#endif
    }
    const double hz = 24.0 * n / (now() - begin);
    if (hz > best) best = hz;
  }
  return best;
}

static double measure_bandwidth(void) {
  const size_t n = (size_t)96 << 20;
  uint64_t *p = malloc(n);
  if (!p) return 0;
  memset(p, 1, n);
  double best = 0;
  for (int r = 0; r < 5; r++) {
    uint64_t s[8] = {0};
    const double begin = now();
    for (size_t i = 0; i < n / 8; i += 8)
      for (int j = 0; j < 8; j++) s[j] += p[i + (size_t)j];
    const double rate = (double)n / (now() - begin);
    volatile uint64_t sink = s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
    (void)sink;
    if (rate > best) best = rate;
  }
  free(p);
  return best;
}

static double clock_hz, peak;
static const char *filter;

/* Seconds of one product; 0 where the filter leaves it out. minimum: with minima, which lie where the scales do. */
static double bench(const char *label, int n, int k, int dtype, int group, int act_bits, int act_group, int m,
                    int multiplier, int minimum) {
  agq_linear l = {.out_features = n,
                  .in_features = k,
                  .weight_dtype = dtype,
                  .scale_dtype = AGQ_BF16,
                  .group_size = group,
                  .act_bits = act_bits,
                  .act_group = act_group,
                  .act_symmetric = act_bits == 8,
                  .multiplier = multiplier};
  char line[160];
  snprintf(line, sizeof line, "%-10s m=%-4d %5dx%-5d g%-4d %-22s", label, m, n, k, group, agq_linear_kernel(&l, m));
  if (filter && !strstr(line, filter)) return 0;
  l.weight_bytes = (size_t)agq_linear_weight_bytes(&l);
  l.scale_bytes = (size_t)agq_linear_scale_bytes(&l);
  uint8_t *w = aligned_alloc(64, l.weight_bytes + 64), *scale = aligned_alloc(64, l.scale_bytes / 64 * 64 + 64);
  float *x = malloc((size_t)m * k * 4), *y = malloc((size_t)m * n * 4);
  /* Float weights: small normal numbers in every format. */
  for (size_t i = 0; i < l.weight_bytes; i++) w[i] = dtype == AGQ_U4 || dtype == AGQ_I8 ? (uint8_t)random_bits() : 0x3c;
  for (size_t i = 0; i < l.scale_bytes / 2; i++) ((uint16_t *)scale)[i] = 0x3c00;
  for (int i = 0; i < m * k; i++) x[i] = random_float();
  l.weight = w;
  l.scale = scale;
  uint8_t *minima = minimum ? aligned_alloc(64, l.scale_bytes / 64 * 64 + 64) : NULL;
  if (minimum) l.minimum = memcpy(minima, scale, l.minimum_bytes = l.scale_bytes);
  agq_act a = {0};
  agq_prepared p;
  if (agq_linear_prepare(&p, &agq_kernels_native, &l, 0) != AGQ_OK) abort();
  void *workspace = aligned_alloc(64, agq_act_workspace(&p, m) + 64);
  void *row = aligned_alloc(64, agq_act_scratch(&p));
  double quantize = 1e9, product = 0, spent = 0;
  const double macs = (double)n * k * m;
  /* Short pieces of work, the best time of each kind: what disturbs the machine for longer than a piece is left out.
   * From memory a piece is the whole matrix, so that no part of it is met again in a cache. */
  const int panels = agq_panels(n), from_memory = l.weight_bytes > (32u << 20);
  int piece = from_memory || m == 1 ? panels : m > 64 ? 4 : 8;
  if (piece > panels) piece = panels;
  double best[4096];
  for (int i = 0; i < panels / piece; i++) best[i] = 1e9;
  for (int r = 0; r < 3000 && (r < 5 || spent < 0.3); r++) {
    double t0 = now();
    agq_act_init(&a, &p, m, workspace);
    if (act_bits != 32) agq_act_quantize(&a, &p, x, (size_t)k, 0, agq_act_token_panels(&a), row);
    else agq_act_floats(&a, &p, x, (size_t)k, 0, m);
    double t1 = now();
    if (t1 - t0 < quantize) quantize = t1 - t0;
    for (int i = 0; i < panels / piece; i++) {
      t0 = now();
      agq_linear_run(&p, &a, x, (size_t)k, m, y, (size_t)n, i * piece, (i + 1) * piece);
      t1 = now();
      if (t1 - t0 < best[i]) best[i] = t1 - t0;
      spent += t1 - t0;
    }
  }
  double fastest = 1e9;
  for (int i = 0; i < panels / piece; i++) fastest = best[i] < fastest ? best[i] : fastest;
  product = fastest * panels / piece;
  printf("%s %7.1f MAC/cycle", line, macs / product / clock_hz);
  if (peak > 0 && act_bits != 32) printf(" %5.1f %% of peak", 100 * macs / product / peak);
  if (m == 1) printf(" %6.1f GB/s", (double)(l.weight_bytes + l.scale_bytes + l.minimum_bytes) / product * 1e-9);
  if (act_bits != 32) printf("   quantizing: %4.1f %% more", 100 * quantize / product);
  printf("\n");
  fflush(stdout);
  free(w);
  free(scale);
  free(minima);
  free(x);
  free(y);
  free(workspace);
  free(row);
  return product + (act_bits == 32 ? 0 : quantize);
}

/* What minima cost: the same linears without and with them, quantizing included. */
static void minima(void) {
  static const struct {
    const char *name, *with;
    int dtype, act_bits, act_group;
  } kinds[] = {{"W4A8 g32", "W4A8 min", AGQ_U4, 8, 32},
               {"W4A16 g32", "W4A16 min", AGQ_U4, 32, 0},
               {"W8A8 g32", "W8A8 min", AGQ_I8, 8, 32}};
  static const int shapes[][2] = {{576, 1536}, {1536, 576}, {4096, 4096}};
  for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++)
    for (unsigned s = 0; s < sizeof shapes / sizeof *shapes; s++)
      for (int m = 1; m <= 256; m += 255) {
        const int n = shapes[s][0], k = shapes[s][1], dtype = kinds[i].dtype, bits = kinds[i].act_bits;
        const double without = bench(kinds[i].name, n, k, dtype, 32, bits, kinds[i].act_group, m, 0, 0),
                     with = bench(kinds[i].with, n, k, dtype, 32, bits, kinds[i].act_group, m, 0, 1);
        if (without > 0 && with > 0) printf("  with minima %.3f times as long\n", with / without);
      }
}

int main(int argc, char **argv) {
  filter = argc > 1 ? argv[1] : 0;
  if (!agq_cpu_score()) {
    printf("skipped: this machine cannot run %s\n", agq_isa());
    return 0;
  }
  clock_hz = measure_clock();
  peak = agq_measure_peak(1, 0.1);
  printf("%s: clock %.2f GHz, integer peak (%s) %.1f MAC/cycle, memory read %.1f GB/s\n", agq_isa(), clock_hz * 1e-9,
         agq_peak_name(), peak / clock_hz, measure_bandwidth() * 1e-9);
  static const struct {
    const char *name;
    int dtype, group, act_bits, act_group, multiplier;
  } kinds[] = {{"W4A8", AGQ_U4, 128, 8, 0, 0},
               {"W4A8 g32", AGQ_U4, 32, 8, 0, 0},
               {"W4A4", AGQ_U4, 128, 4, 128, 0},
               {"W4A4 g32", AGQ_U4, 32, 4, 128, 0},
               {"W4A8 row", AGQ_U4, 0, 8, 0, 0},
               {"W4A4 row", AGQ_U4, 0, 4, 128, 0},
               {"W4A4 pack", AGQ_U4, 128, 4, 128, AGQ_MULTIPLIER_PACKED},
               {"W8A8", AGQ_I8, 0, 8, 0, 0},
               {"W8A4", AGQ_I8, 0, 4, 128, 0},
               {"W4A16", AGQ_U4, 128, 32, 0, 0},
               {"f32", AGQ_F32, 0, 32, 0, 0},
               {"f16", AGQ_F16, 0, 32, 0, 0},
               {"bf16", AGQ_BF16, 0, 32, 0, 0}};
  static const int widths[] = {512, 48, 16, 8, 4, 2};
  for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
    const int wide = kinds[i].act_bits == 32 ? 4 : 1;
    for (unsigned j = 0; j < sizeof widths / sizeof widths[0]; j++)
      bench(kinds[i].name, (widths[j] == 512 ? 512 : 2048) / wide, 2048, kinds[i].dtype, kinds[i].group,
            kinds[i].act_bits, kinds[i].act_group, widths[j], kinds[i].multiplier, 0);
    bench(kinds[i].name, 1024 / wide, 1024, kinds[i].dtype, kinds[i].group, kinds[i].act_bits, kinds[i].act_group, 1,
          kinds[i].multiplier, 0);
    bench(kinds[i].name, 32768 / wide, 4096, kinds[i].dtype, kinds[i].group, kinds[i].act_bits, kinds[i].act_group, 1,
          kinds[i].multiplier, 0);
  }
  minima();
  return 0;
}
