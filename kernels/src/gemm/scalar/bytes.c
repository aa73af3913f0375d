/* bytes.c: integer formats that a level has no kernels for, unpacked to bytes and given to its kernels of AGQ_I8. The
 * results are those of any.c, bit for bit.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "formats/formats.h"
#include "kernels.h"

/* Bytes that are unpacked at once: a panel of 16384 columns. Longer rows are left to any.c. */
#define MOST (AGQ_PANEL << 14)

static void unpacked(const agq_tile *t, const agq_kernel *bytes) {
  _Alignas(64) int8_t codes[MOST];
  const size_t columns = (size_t)t->block * (size_t)t->blocks, size = columns * AGQ_PANEL;
  if (size > MOST) {
    agq_any_tile(t);
    return;
  }
  const size_t fit = MOST / size;
  const int step = fit < (size_t)bytes->step ? (int)fit : bytes->step;
  agq_tile part = *t;
  part.w = (const uint8_t *)codes;
  part.w_stride = size;
  for (int p = 0; p < t->panels; p += step) {
    const size_t row = (size_t)p * AGQ_PANEL;
    const int rows = t->rows - (int)row;
    part.panels = t->panels - p < step ? t->panels - p : step;
    part.rows = rows < part.panels * AGQ_PANEL ? rows : part.panels * AGQ_PANEL;
    part.scale = (const char *)t->scale + (size_t)p * t->scale_stride;
    part.zero = t->zero ? t->zero + (size_t)p * t->zero_stride : NULL;
    part.bias = t->bias ? t->bias + row : NULL;
    part.y = t->y + row;
    for (int i = 0; i < part.panels; i++)
      t->format->unpack(t->w + (size_t)(p + i) * t->w_stride, (int)columns, codes + (size_t)i * size);
    bytes->run(&part);
  }
}

static void with(const agq_tile *t, const agq_kernel_table *kt) {
  unpacked(t, t->width == 1 ? &kt->i8a8_m1 : &kt->i8a8);
}

void agq_bytes_scalar(const agq_tile *t) { with(t, &agq_kernels_scalar); }
void agq_bytes_native(const agq_tile *t) { with(t, &agq_kernels_native); }
