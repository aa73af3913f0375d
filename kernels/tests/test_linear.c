/* test_linear.c: what stands between a descriptor and the kernels: quantizing, sums of codes, sizes and checks,
 * threads, sink tokens.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "gemm/quantize.h"
#include "problem.h"

static void test_quantize(void) {
  static const int ks[] = {1, 7, 32, 33, 64, 100, 128, 256, 384, 1000};
  for (unsigned i = 0; i < sizeof ks / sizeof ks[0]; i++)
    for (int mode = 0; mode < 3; mode++) /* 8 bits, 4 bits symmetric, 4 bits asymmetric */
      for (int content = 0; content < 10; content++)
        for (int grouped = 0; grouped < 2; grouped++) {
          const int k = ks[i], padded = agq_pad32(k), group = grouped ? (k % 128 == 0 ? 128 : k % 32 == 0 ? 32 : 0) : 0;
          float *x = test_alloc((size_t)k * 4), s[2][64] = {{0}};
          int8_t *c[2] = {test_alloc((size_t)padded), test_alloc((size_t)padded)};
          memset(c[0], 99, (size_t)padded);
          memset(c[1], 98, (size_t)padded);
          for (int j = 0; j < k; j++) {
            const float r = random_float();
            switch (content) {
              case 0: x[j] = r; break;
              case 1: x[j] = 0; break;
              case 2: x[j] = j == k / 2 ? 1e30f : r; break;
              case 3: x[j] = fabsf(r) + 5; break;
              case 4: x[j] = -fabsf(r) - 5; break;
              case 5: x[j] = (float)random_int(-254, 254) * 0.5f; break; /* ties */
              case 6: x[j] = r * 1e-42f; break;                          /* subnormal */
              case 7: x[j] = random_int(0, 9) ? r : NAN; break;
              case 8: x[j] = random_int(0, 9) ? r : -INFINITY; break;
              default: x[j] = -0.0f; break;
            }
          }
          const int bits = mode ? 4 : 8, symmetric = mode < 2, bound = mode == 0 ? 127 : mode == 1 ? 7 : 15;
          const float clip = (i + (unsigned)content) % 3 ? 1.0f : 0.7f;
          agq_kernels_native.quantize_row(x, k, padded, bits, group, symmetric, clip, c[0], s[0]);
          agq_kernels_scalar.quantize_row(x, k, padded, bits, group, symmetric, clip, c[1], s[1]);
          int ok = !memcmp(c[0], c[1], (size_t)padded), bounded = 1;
          const int scales = group ? k / group : 1;
          for (int g = 0; g < scales; g++) ok &= s[0][g] == s[1][g] || (isnan(s[0][g]) && isnan(s[1][g]));
          for (int j = 0; j < padded; j++) bounded &= c[0][j] >= -bound && c[0][j] <= bound;
          snprintf(what, sizeof what, "quantize_row: k %d, mode %d, content %d, group %d", k, mode, content, group);
          test_expect(ok, what);
          test_expect(bounded, what);
          if (clip == 1 && content < 6 &&
              content !=
                  2) { /* half a step of error; the clamp of an asymmetric range may add the zero point's rounding */
            int near = 1;
            for (int j = 0; j < k; j++) {
              const float step = s[0][group ? j / group : 0];
              near &= fabsf(c[0][j] * step - x[j]) <= step * (symmetric ? 0.5001f : 1.0001f);
            }
            test_expect(near, what);
          }
          free(x);
          free(c[0]);
          free(c[1]);
        }
}

/* Random codes, and the lowest and the highest ones, whose pairs and fours are the largest sums. */
static void test_sum_blocks(void) {
  static const int sizes[] = {32, 64, 96, 128, 288, 1024, 2048};
  for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
    for (int fill = 0; fill < 3; fill++)
      for (int stride = 1; stride <= 5; stride += 4) {
        const int block = sizes[i], blocks = 3;
        int8_t *codes = test_alloc((size_t)block * blocks);
        int32_t sums[2][15];
        memset(sums, 0, sizeof sums);
        for (int j = 0; j < block * blocks; j++)
          codes[j] = (int8_t)(fill == 0 ? random_int(-128, 127) : fill == 1 ? -128 : 127);
        agq_kernels_native.sum_blocks(codes, block, blocks, sums[0], stride);
        agq_kernels_scalar.sum_blocks(codes, block, blocks, sums[1], stride);
        snprintf(what, sizeof what, "sum_blocks: block %d, fill %d, stride %d", block, fill, stride);
        test_expect(!memcmp(sums[0], sums[1], sizeof sums[0]), what);
        free(codes);
      }
}

/* Across the runs in which numbers are looked for: whole ones, one number more, a last one that is not whole. */
static void test_permutations(void) {
  static const int sizes[] = {1, 2, 1000, 65535, 65536, 65537, 131072, 150000};
  for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    const int n = sizes[i];
    uint32_t *order = random_order(test_alloc((size_t)n * sizeof *order), n);
    snprintf(what, sizeof what, "permutations of %d", n);
    int right = agq_permutation(order, (uint32_t)n);
    for (int t = 0; t < 20 && n > 1; t++) {
      const int at = random_int(0, n - 1), other = (at + random_int(1, n - 1)) % n;
      const uint32_t kept = order[at], wrong[] = {order[other], (uint32_t)n, (uint32_t)n + 65536, UINT32_MAX, kept};
      for (int w = 0; w < 5; w++) {
        order[at] = wrong[w];
        right &= agq_permutation(order, (uint32_t)n) == (w == 4);
      }
    }
    test_expect(right, what);
    free(order);
  }
}

static void test_validation(void) {
  problem p;
  make(&p, 40, 256, AGQ_U4, 128, 8, 0, 1, 1, AGQ_BF16, FILL_RANDOM);
#define REJECT(code, ...)                                      \
  do {                                                         \
    agq_linear l = p.l;                                        \
    __VA_ARGS__;                                               \
    test_expect(agq_linear_check(&l) == (code), #__VA_ARGS__); \
  } while (0)
  REJECT(AGQ_OK, (void)0);
  REJECT(AGQ_ERR_ARGUMENT, l.out_features = 0);
  REJECT(AGQ_ERR_ARGUMENT, l.in_features = -256);
  REJECT(AGQ_ERR_ARGUMENT, l.group_size = 100);
  REJECT(AGQ_ERR_ARGUMENT, l.group_size = 96);
  REJECT(AGQ_ERR_ARGUMENT, l.group_size = 16);
  REJECT(AGQ_ERR_ARGUMENT, l.act_group = -32);
  REJECT(AGQ_ERR_ARGUMENT, l.act_group = 16);
  REJECT(AGQ_ERR_ARGUMENT, l.weight_dtype = 9);
  REJECT(AGQ_ERR_ARGUMENT, l.scale_dtype = AGQ_I8);
  REJECT(AGQ_OK, l.scale_dtype = AGQ_F16);
  REJECT(AGQ_OK, l.minimum = l.scale; l.minimum_bytes = l.scale_bytes);
  REJECT(AGQ_ERR_ARGUMENT, l.minimum = l.scale; l.minimum_bytes = l.scale_bytes - 1);
  REJECT(AGQ_ERR_UNSUPPORTED, l.minimum = l.scale; l.minimum_bytes = l.scale_bytes; l.act_static = 1;
         l.act_symmetric = 0; l.act_group = 0; l.act_scale = 1; l.act_bits = 4; l.act_exponent = l.weight;
         l.act_exponent_bytes = 0);
  REJECT(AGQ_ERR_ARGUMENT, l.weight_dtype = AGQ_F16; l.in_features = 32; l.act_bits = 32; l.minimum = l.scale);
  REJECT(AGQ_ERR_ARGUMENT, l.weight = 0);
  REJECT(AGQ_ERR_ARGUMENT, l.weight_bytes--);
  REJECT(AGQ_ERR_ARGUMENT, l.scale_bytes = 0);
  REJECT(AGQ_ERR_ARGUMENT, l.zero_bytes = 1);
  REJECT(AGQ_ERR_ARGUMENT, l.out_features = 2000000000);
  REJECT(AGQ_ERR_UNSUPPORTED, l.out_features = 1 << 30; l.in_features = 1 << 30; l.group_size = 0); /* accumulator */
  uint32_t order[256];
  random_order(order, 256);
  REJECT(AGQ_OK, l.input_order = order; l.input_order_bytes = sizeof order);
  REJECT(AGQ_ERR_ARGUMENT, l.input_order = order; l.input_order_bytes = sizeof order - 1);
  order[3] = order[255];
  REJECT(AGQ_ERR_ARGUMENT, l.input_order = order; l.input_order_bytes = sizeof order);
  order[3] = 256;
  REJECT(AGQ_ERR_ARGUMENT, l.input_order = order; l.input_order_bytes = sizeof order);
  order[3] = UINT32_MAX;
  REJECT(AGQ_ERR_ARGUMENT, l.input_order = order; l.input_order_bytes = sizeof order);
  REJECT(AGQ_OK, l.hadamard = 256; l.act_clip = 0.5f);
  REJECT(AGQ_ERR_ARGUMENT, l.hadamard = 512);
  REJECT(AGQ_ERR_ARGUMENT, l.hadamard = 96);
  REJECT(AGQ_ERR_ARGUMENT, l.hadamard = -2);
  REJECT(AGQ_ERR_ARGUMENT, l.act_clip = 1.5f);
  REJECT(AGQ_ERR_ARGUMENT, l.act_clip = -0.5f);
  REJECT(AGQ_ERR_ARGUMENT, l.act_clip = NAN);
  REJECT(AGQ_ERR_UNSUPPORTED, l.act_bits = 5);
  REJECT(AGQ_ERR_UNSUPPORTED, l.act_symmetric = 0);
  REJECT(AGQ_ERR_UNSUPPORTED, l.weight_dtype = AGQ_F32);
  REJECT(AGQ_ERR_UNSUPPORTED, l.in_features = 1 << 20; l.group_size = 0);
  /* One column in a million: no overflow in the sizes of the largest shape. */
  agq_linear l = p.l;
  l.out_features = 1 << 30;
  l.in_features = 1 << 16;
  l.group_size = 0;
  test_expect(agq_linear_weight_bytes(&l) == (int64_t)1 << 45, "weight bytes of a large linear");
  destroy(&p);
}

/* The public functions: threads and levels agree with the pieces. */
static void test_forward(void) {
  static const int bits[] = {8, 4, 32};
  enum { M = 30, N = 200, K = 256 };
  static float x[M * (K + X_GAP)], plain[M * K], y[M * (N + Y_GAP)], z[M * N];
  for (int i = 0; i < 3; i++) {
    problem p;
    make(&p, N, K, AGQ_U4, 128, bits[i], bits[i] == 4 ? 32 : 0, bits[i] == 8, i == 2, AGQ_BF16, FILL_RANDOM);
    if (i != 1) make_minima(&p);
    fill_tokens(x, M, K, 0);
    for (int t = 0; t < M; t++) memcpy(plain + t * K, x + t * (K + X_GAP), K * sizeof *x);
    for (int m = 1; m <= M; m += 29) {
      compute(&agq_kernels_native, &p.l, x, m, y, 0, 0);
      for (int threads = 1; threads <= 3; threads++) {
        memset(z, 0, sizeof z);
        test_expect(agq_linear_forward(&p.l, plain, m, z, threads, 0) == AGQ_OK, "agq_linear_forward");
        int equal = 1;
        for (int t = 0; t < m; t++) equal &= !memcmp(y + t * (N + Y_GAP), z + t * N, N * sizeof *z);
        test_expect(equal, "agq_linear_forward: result depends on the threads");
      }
    }
    test_expect(agq_linear_forward(&p.l, plain, 0, z, 1, 0) == AGQ_ERR_ARGUMENT, "agq_linear_forward: m = 0");
    test_expect(agq_linear_forward(&p.l, plain, 1, z, 0, 0) == AGQ_ERR_ARGUMENT, "agq_linear_forward: no threads");
    if (i == 0) test_expect(agq_linear_kernel(&p.l, 1) == agq_kernels_native.u4a8_m1.name, "agq_linear_kernel");
    destroy(&p);
  }
}

/* What is prepared once: the kernels of the linear and of its 8-bit form, and what 0 means. */
static void test_prepare(void) {
  const agq_kernel_table *kt = &agq_kernels_native;
  static const struct {
    int dtype, bits;
    size_t one, many, eight_one, eight_many; /* slots */
  } rows[] = {
#define SLOT(name) offsetof(agq_kernel_table, name)
      {AGQ_U4, 8, SLOT(u4a8_m1), SLOT(u4a8), 0, 0}, {AGQ_U4, 4, SLOT(u4a4_m1), SLOT(u4a4), SLOT(u4a8_m1), SLOT(u4a8)},
      {AGQ_I8, 8, SLOT(i8a8_m1), SLOT(i8a8), 0, 0}, {AGQ_I8, 4, SLOT(i8a4_m1), SLOT(i8a4), SLOT(i8a8_m1), SLOT(i8a8)},
      {AGQ_I6, 8, SLOT(bytes), SLOT(bytes), 0, 0},
#undef SLOT
  };
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++)
    for (int sinks = 0; sinks < 2; sinks++) {
      problem p;
      agq_prepared q;
      make(&p, 40, 256, rows[i].dtype, 128, rows[i].bits, 64, rows[i].bits == 8, 0, AGQ_BF16, FILL_RANDOM);
      snprintf(what, sizeof what, "agq_linear_prepare: format %d, %d-bit activations, sinks %d", rows[i].dtype,
               rows[i].bits, sinks);
      test_expect(agq_linear_prepare(&q, kt, &p.l, sinks) == AGQ_OK, what);
      const int eight = sinks && rows[i].bits == 4;
      test_expect(q.own.one == agq_format_kernel(kt, rows[i].one) && q.own.many == agq_format_kernel(kt, rows[i].many),
                  what);
      test_expect(q.eight.one == (eight ? agq_format_kernel(kt, rows[i].eight_one) : NULL), what);
      test_expect(q.eight.many == (eight ? agq_format_kernel(kt, rows[i].eight_many) : NULL), what);
      test_expect(q.own.bits == rows[i].bits && q.own.group == 64 && q.own.clip == 1, what); /* act_clip 0 */
      test_expect(!eight || (q.eight.bits == 8 && q.eight.group == 0 && q.eight.symmetric && q.eight.clip == 1), what);
      destroy(&p);
    }
}

/* Sink tokens among others: each token's rows are those that it gets alone, from the linear or from its 8-bit form. */
static void test_sinks(void) {
  static const int problems[][5] = {{40, 64, AGQ_U4, 32, 32},   {33, 128, AGQ_U4, 64, 32},  {17, 96, AGQ_I8, 0, 96},
                                    {48, 512, AGQ_U4, 32, 128}, {20, 256, AGQ_I8, 128, 64}, {31, 72, AGQ_U4, 0, 0}};
  enum { M = 90 };
  for (unsigned i = 0; i < sizeof problems / sizeof *problems; i++)
    for (int m = 1; m <= M; m += m < 4 ? 1 : 43)
      for (int pattern = 0; pattern < 4; pattern++) {
        const int n = problems[i][0], k = problems[i][1], sinks = 5, ldy = n + Y_GAP;
        problem p;
        make(&p, n, k, problems[i][2], problems[i][3], 4, problems[i][4], pattern & 1, i & 1, AGQ_BF16, FILL_RANDOM);
        p.l.act_clip = 0.9f;
        if (pattern > 1) make_minima(&p);
        const agq_linear eight = agq_eight_bits(&p.l);
        test_expect(eight.act_bits == 8 && eight.act_symmetric && !eight.act_group && eight.act_clip == 1,
                    "the 8-bit form");
        float *x = test_alloc((size_t)m * (k + X_GAP) * 4), *y = test_alloc((size_t)m * ldy * 4),
              *alone = test_alloc((size_t)ldy * 4);
        fill_tokens(x, m, k, 32);
        int32_t position[M];
        agq_token_panel panels[M];
        for (int t = 0; t < m; t++) /* a prompt; several prompts in one pass; any; none below */
          position[t] = pattern == 0 ? t : pattern == 1 ? t % 9 : pattern == 2 ? random_int(3, 6) : sinks + t;
        agq_act a;
        agq_prepared prepared;
        test_expect(agq_linear_prepare(&prepared, &agq_kernels_native, &p.l, 1) == AGQ_OK, "agq_linear_prepare");
        void *workspace = test_alloc(agq_act_workspace(&prepared, m)),
             *scratch = test_alloc(agq_act_scratch(&prepared));
        agq_act_init(&a, &prepared, m, workspace);
        agq_act_sinks(&a, &prepared, position, sinks, panels);
        const int count = agq_act_token_panels(&a);
        int covered = 0;
        for (int q = 0; q < count; q++) {
          const agq_token_panel panel = agq_act_panel(&a, q);
          test_expect(panel.first == covered && panel.width >= 1 && panel.width <= agq_kernels_native.mr,
                      "panels cover all tokens");
          for (int t = covered; t < covered + panel.width && t < m; t++)
            test_expect(panel.eight == (position[t] < sinks), "the format of a panel");
          covered += panel.width;
        }
        test_expect(covered == m, "panels cover all tokens");
        agq_act_quantize(&a, &prepared, x, (size_t)k + X_GAP, 0, count / 2, scratch);
        agq_act_quantize(&a, &prepared, x, (size_t)k + X_GAP, count / 2, count, scratch);
        agq_linear_run(&prepared, &a, NULL, 0, m, y, (size_t)ldy, 0, agq_panels(n));
        int right = 1;
        for (int t = 0; t < m; t++) {
          compute(&agq_kernels_native, position[t] < sinks ? &eight : &p.l, x + (size_t)t * (k + X_GAP), 1, alone, 0,
                  0);
          right &= !memcmp(alone, y + (size_t)t * ldy, (size_t)n * 4);
        }
        describe("sinks", &p.l, m, pattern, "a token is not computed in its format");
        test_expect(right, what);
        free(x), free(y), free(alone), free(workspace), free(scratch);
        destroy(&p);
      }
}

/* Panels of a linear as a linear of their own: the same rows. */
static void test_slice(void) {
  enum { N = 70, K = 128, M = 3 };
  float x[M * (K + X_GAP)], y[M * (N + Y_GAP)], z[M * 32];
  for (int bits = 4; bits <= 32; bits *= bits == 8 ? 4 : 2) {
    problem p;
    make(&p, N, K, AGQ_U4, 64, bits, 0, bits != 4, bits == 8, AGQ_F16, FILL_RANDOM);
    make_minima(&p);
    fill_tokens(x, M, K, 0);
    compute(&agq_kernels_native, &p.l, x, M, y, 0, 0);
    agq_prepared whole;
    test_expect(agq_linear_prepare(&whole, &agq_kernels_native, &p.l, 0) == AGQ_OK, "agq_linear_prepare");
    const agq_prepared part = agq_linear_slice(&whole, 2, 4);
    void *workspace = test_alloc(agq_act_workspace(&whole, M)), *scratch = test_alloc(agq_act_scratch(&whole));
    agq_act a;
    agq_act_init(&a, &whole, M, workspace);
    if (bits == 32) agq_act_floats(&a, &whole, x, K + X_GAP, 0, M);
    else agq_act_quantize(&a, &whole, x, K + X_GAP, 0, agq_act_token_panels(&a), scratch);
    agq_linear_run(&part, &a, x, K + X_GAP, M, z, 32, 0, 2);
    int same = 1;
    for (int t = 0; t < M; t++) same &= !memcmp(z + 32 * t, y + (size_t)t * (N + Y_GAP) + 32, 32 * sizeof *z);
    test_expect(same, "agq_linear_slice: rows differ");
    free(workspace), free(scratch);
    destroy(&p);
  }
}

int main(void) {
  if (!test_begin()) return 0;
  test_quantize();
  test_sum_blocks();
  test_permutations();
  test_validation();
  test_forward();
  test_prepare();
  test_slice();
  test_sinks();
  return test_end("linear");
}
