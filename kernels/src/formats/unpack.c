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

void agq_unpack_i8(const uint8_t *w, int columns, int8_t *codes) { memcpy(codes, w, (size_t)columns * AGQ_PANEL); }
