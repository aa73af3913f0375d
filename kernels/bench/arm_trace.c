/* arm_trace.c: runs one matrix product, so that mca.py can follow its kernel under an emulator.
 *   arm_trace u4|i8 act_bits group act_group columns rows tokens [asym|packed]
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agq.h"

int main(int argc, char **argv) {
  if (argc < 8) return 2;
  agq_linear l = {.weight_dtype = strcmp(argv[1], "u4") ? AGQ_I8 : AGQ_U4, .scale_dtype = AGQ_BF16};
  const int tokens = atoi(argv[7]);
  l.act_bits = atoi(argv[2]);
  l.group_size = atoi(argv[3]);
  l.act_group = atoi(argv[4]);
  l.in_features = atoi(argv[5]);
  l.out_features = atoi(argv[6]);
  l.act_symmetric = l.act_bits == 8;
  static const int8_t none;
  const int packed = argc > 8 && !strcmp(argv[8], "packed"), asymmetric = argc > 8 && !packed;
  if (packed) l.multiplier = AGQ_MULTIPLIER_PACKED;
  if (asymmetric) l.zero = &none; /* only the sizes are asked for */
  const int64_t weight = agq_linear_weight_bytes(&l), scale = agq_linear_scale_bytes(&l),
                zero = agq_linear_zero_bytes(&l);
  if (weight < 0 || scale < 0 || zero < 0 || tokens < 1) return 2;
  l.weight_bytes = (size_t)weight;
  l.scale_bytes = (size_t)scale;
  l.zero_bytes = (size_t)zero;
  l.weight = calloc(1, l.weight_bytes);
  l.scale = calloc(1, l.scale_bytes);
  if (asymmetric) l.zero = calloc(1, l.zero_bytes);
  float *x = calloc((size_t)tokens * l.in_features, sizeof *x), *y = calloc((size_t)tokens * l.out_features, sizeof *y);
  if (!l.weight || !l.scale || !x || !y) return 1;
  for (int i = 0; i < tokens * l.in_features; i++) x[i] = (float)(i % 17 - 8);
  const int code = agq_linear_forward(&l, x, tokens, y, 1, 0);
  if (code != AGQ_OK) return 1;
  puts(agq_linear_kernel(&l, tokens));
  return 0;
}
