/* unpack.c: weights of each integer format as bytes; see formats.h and the layouts in agq.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "formats.h"

void agq_unpack_u4(const uint8_t *w, int columns, int8_t *codes) {
  for (int c = 0; c < columns; c += 8, w += 64, codes += 128)
    for (int i = 0; i < 64; i++) {
      codes[i] = w[i] & 15;
      codes[64 + i] = (int8_t)(w[i] >> 4);
    }
}

void agq_unpack_i6(const uint8_t *restrict w, int columns, int8_t *restrict codes) {
  for (int c = 0; c < columns; c += 32, w += 384, codes += 512)
    for (int h = 0; h < 2; h++) {
      const uint8_t *low = w + 128 * h, *high = w + 256 + 64 * h;
      int8_t *line = codes + 256 * h;
      for (int i = 0; i < 64; i++) {
        const uint8_t a = low[i], b = low[64 + i], top = high[i];
        line[i] = (int8_t)(((a & 15) | (top & 3) << 4) - 32);
        line[64 + i] = (int8_t)(((a >> 4) | (top & 12) << 2) - 32);
        line[128 + i] = (int8_t)(((b & 15) | (top & 48)) - 32);
        line[192 + i] = (int8_t)(((b >> 4) | (top >> 2 & 48)) - 32);
      }
    }
}

void agq_unpack_i8(const uint8_t *w, int columns, int8_t *codes) { memcpy(codes, w, (size_t)columns * AGQ_PANEL); }
