/* block_product.c: the small float matrix product of attention, register-blocked: ROWS x COLS vectors of accumulators.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "attention.h"
#include "vec.h"

typedef void (*product_fn)(const float *a, size_t lda, const void *b, size_t ldb, int depth, float *c, size_t ldc,
                           const float *carry);

/* Accumulators are single variables, not an array, so that they stay in registers with every compiler; the conditions
 * are constants in each instance. */
#define EACH_ROW(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
#define DECLARE(r) vf c##r##0 = vset(0), c##r##1 = c##r##0, c##r##2 = c##r##0, c##r##3 = c##r##0;
#define CARRY(r)                                   \
  if (rows > r) {                                  \
    const vf f = vset(carry[r]);                   \
    const float *p = c + r * ldc;                  \
    c##r##0 = vload(p) * f;                        \
    if (cols > 1) c##r##1 = vload(p + VW) * f;     \
    if (cols > 2) c##r##2 = vload(p + 2 * VW) * f; \
    if (cols > 3) c##r##3 = vload(p + 3 * VW) * f; \
  }
#define STEP(r)                                    \
  if (rows > r) {                                  \
    const vf f = vset(a[r * lda]);                 \
    c##r##0 = vmadd(f, b0, c##r##0);               \
    if (cols > 1) c##r##1 = vmadd(f, b1, c##r##1); \
    if (cols > 2) c##r##2 = vmadd(f, b2, c##r##2); \
    if (cols > 3) c##r##3 = vmadd(f, b3, c##r##3); \
  }
#define STORE(r)                               \
  if (rows > r) {                              \
    float *p = c + r * ldc;                    \
    vstore(p, c##r##0);                        \
    if (cols > 1) vstore(p + VW, c##r##1);     \
    if (cols > 2) vstore(p + 2 * VW, c##r##2); \
    if (cols > 3) vstore(p + 3 * VW, c##r##3); \
  }

VINLINE vf load_b(const void *b, int i8, size_t i) {
  return i8 ? vload_i8((const int8_t *)b + i) : vload((const float *)b + i);
}

VINLINE void product(int rows, int cols, int i8, const float *a, size_t lda, const void *b, size_t ldb, int depth,
                     float *c, size_t ldc, const float *carry) {
  EACH_ROW(DECLARE)
  if (carry) {
    EACH_ROW(CARRY)
  }
  size_t at = 0;
  for (int k = 0; k < depth; k++, a++, at += ldb) {
    const vf b0 = load_b(b, i8, at);
    const vf b1 = cols > 1 ? load_b(b, i8, at + VW) : b0;
    const vf b2 = cols > 2 ? load_b(b, i8, at + 2 * VW) : b0;
    const vf b3 = cols > 3 ? load_b(b, i8, at + 3 * VW) : b0;
    EACH_ROW(STEP)
  }
  EACH_ROW(STORE)
}

#define INSTANCE(rows, cols, i8)                                                                               \
  static void product_##rows##_##cols##_##i8(const float *a, size_t lda, const void *b, size_t ldb, int depth, \
                                             float *c, size_t ldc, const float *carry) {                       \
    product(rows, cols, i8, a, lda, b, ldb, depth, c, ldc, carry);                                             \
  }
#define SIX_ROWS(cols, i8) \
  INSTANCE(1, cols, i8)    \
  INSTANCE(2, cols, i8)    \
  INSTANCE(3, cols, i8)    \
  INSTANCE(4, cols, i8)    \
  INSTANCE(5, cols, i8)    \
  INSTANCE(6, cols, i8)
#define NAME(rows, cols, i8) product_##rows##_##cols##_##i8
#define SIX_NAMES(cols, i8) \
  NAME(1, cols, i8), NAME(2, cols, i8), NAME(3, cols, i8), NAME(4, cols, i8), NAME(5, cols, i8), NAME(6, cols, i8)

#if VW == 16
/* 32 registers: 6 rows of 64 columns; 8 rows of 32 for groups of 8 heads; 16 columns for the rest of an odd width. */
SIX_ROWS(4, 0)
SIX_ROWS(4, 1)
SIX_ROWS(2, 0)
SIX_ROWS(2, 1)
INSTANCE(7, 2, 0)
INSTANCE(7, 2, 1)
INSTANCE(8, 2, 0)
INSTANCE(8, 2, 1)
SIX_ROWS(1, 0)
SIX_ROWS(1, 1)
INSTANCE(7, 1, 0)
INSTANCE(7, 1, 1)
INSTANCE(8, 1, 0)
INSTANCE(8, 1, 1)
static const product_fn wide[2][6] = {{SIX_NAMES(4, 0)}, {SIX_NAMES(4, 1)}};
static const product_fn middle[2][8] = {{SIX_NAMES(2, 0), NAME(7, 2, 0), NAME(8, 2, 0)},
                                        {SIX_NAMES(2, 1), NAME(7, 2, 1), NAME(8, 2, 1)}};
static const product_fn narrow[2][8] = {{SIX_NAMES(1, 0), NAME(7, 1, 0), NAME(8, 1, 0)},
                                        {SIX_NAMES(1, 1), NAME(7, 1, 1), NAME(8, 1, 1)}};
static const product_fn *choose(int rows, int left, int i8, int *most, int *cols) {
  const int eight = i8 && (rows == 7 || rows == 8);
  *cols = left >= 64 && !eight ? 64 : left >= 32 ? 32 : 16;
  *most = *cols == 64 ? 6 : 8;
  return *cols == 64 ? wide[i8] : *cols == 32 ? middle[i8] : narrow[i8];
}
#elif defined(AGQ_VEC_NEON)
/* 32 registers of 4 lanes. */
SIX_ROWS(4, 0)
SIX_ROWS(4, 1)
static const product_fn wide[2][6] = {{SIX_NAMES(4, 0)}, {SIX_NAMES(4, 1)}};
static const product_fn *choose(int rows, int left, int i8, int *most, int *cols) {
  (void)rows, (void)left;
  *cols = 16;
  *most = 6;
  return wide[i8];
}
#else
/* 16 registers: 6 rows of 2 vectors; 2 rows of 4 where there are no more. */
SIX_ROWS(2, 0)
SIX_ROWS(2, 1)
INSTANCE(1, 4, 0)
INSTANCE(1, 4, 1)
INSTANCE(2, 4, 0)
INSTANCE(2, 4, 1)
static const product_fn wide[2][2] = {{NAME(1, 4, 0), NAME(2, 4, 0)}, {NAME(1, 4, 1), NAME(2, 4, 1)}};
static const product_fn middle[2][6] = {{SIX_NAMES(2, 0)}, {SIX_NAMES(2, 1)}};
static const product_fn *choose(int rows, int left, int i8, int *most, int *cols) {
  const int few = rows <= 2 && left >= 4 * VW;
  *cols = few ? 4 * VW : 2 * VW;
  *most = few ? 2 : 6;
  return few ? wide[i8] : middle[i8];
}
#endif

void agq_block_product(const float *a, size_t lda, const void *b, int b_i8, size_t ldb, int rows, int cols, int depth,
                       float *c, size_t ldc, const float *carry) {
  for (int j = 0, step; j < cols; j += step) {
    int most;
    const product_fn *fns = choose(rows, cols - j, b_i8, &most, &step);
    const int tiles = (rows + most - 1) / most, each = (rows + tiles - 1) / tiles;
    const void *bj = b_i8 ? (const void *)((const int8_t *)b + j) : (const void *)((const float *)b + j);
    for (int i = 0; i < rows; i += each) {
      const int n = rows - i < each ? rows - i : each;
      fns[n - 1](a + (size_t)i * lda, lda, bj, ldb, depth, c + (size_t)i * ldc + j, ldc, carry ? carry + i : NULL);
    }
  }
}
