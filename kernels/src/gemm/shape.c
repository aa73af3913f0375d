/* shape.c: sizes and validation of linears; see shape.h and agq.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "shape.h"

#include <string.h>

#include "formats/formats.h"

static int gcd(int a, int b) {
  while (b) {
    int r = a % b;
    a = b;
    b = r;
  }
  return a;
}

/* Whole rows (0) and multiples of 32 that divide k. */
static int good_group(int group, int k) {
  return group == 0 || group == k || (group > 0 && group % 32 == 0 && k % group == 0);
}

int agq_linear_shape(const agq_linear *l, agq_shape *s) {
  memset(s, 0, sizeof *s);
  const int k = l->in_features, n = l->out_features, limit = 1 << 30;
  if (k < 1 || n < 1 || k > limit || n > limit) return AGQ_ERR_ARGUMENT;
  if (l->hadamard < 0 || (l->hadamard && (l->hadamard & (l->hadamard - 1) || k % l->hadamard))) return AGQ_ERR_ARGUMENT;
  if (!(l->act_clip >= 0 && l->act_clip <= 1)) return AGQ_ERR_ARGUMENT;
  const agq_format *format = agq_format_of(l->weight_dtype);
  if (!format) return AGQ_ERR_ARGUMENT;
  if (l->act_bits != 32 && l->act_bits != 8 && l->act_bits != 4) return AGQ_ERR_UNSUPPORTED;

  if (!format->integer) {
    if (l->act_bits != 32 || l->act_static) return AGQ_ERR_UNSUPPORTED; /* integer activations need integer weights */
    s->panel_bytes = agq_format_bytes(format, (size_t)k);
    return AGQ_OK;
  }
  const agq_format *scale = agq_format_of(l->scale_dtype);
  if (!scale || scale->integer) return AGQ_ERR_ARGUMENT;
  if (l->minimum && l->act_static) return AGQ_ERR_UNSUPPORTED;
  if (!good_group(l->group_size, k)) return AGQ_ERR_ARGUMENT;
  const int k_padded = agq_pad32(k), group = l->group_size ? l->group_size : k;
  s->groups = k / group;
  s->panel_bytes = agq_format_bytes(format, (size_t)k_padded);
  s->scale_panel_bytes = agq_format_bytes(scale, (size_t)s->groups);
  s->zero_panel_bytes = (size_t)s->groups * AGQ_PANEL;
  if (l->multiplier != AGQ_MULTIPLIER_DEFAULT && l->multiplier != AGQ_MULTIPLIER_PACKED) return AGQ_ERR_ARGUMENT;
  if (l->multiplier && (!format->packed || l->act_bits != 4 || l->act_static)) return AGQ_ERR_UNSUPPORTED;
  if (l->act_bits == 32) return l->act_static ? AGQ_ERR_ARGUMENT : AGQ_OK;

  s->integer = 1;
  if (!good_group(l->act_group, k)) return AGQ_ERR_ARGUMENT;
  if (l->act_symmetric != 0 && l->act_symmetric != 1) return AGQ_ERR_ARGUMENT;
  if (l->act_static) {
    if (l->act_static != 1 || l->act_symmetric || !(l->act_scale >= 1e-30f && l->act_scale <= 1e30f))
      return AGQ_ERR_ARGUMENT;
    if (l->act_zero < 0 || l->act_zero >= 1 << l->act_bits) return AGQ_ERR_ARGUMENT;
    if (l->act_group && l->act_group != k) return AGQ_ERR_UNSUPPORTED;
    if (l->act_bits == 8 && (!format->static8 || l->zero)) return AGQ_ERR_UNSUPPORTED;
  } else if (!l->act_symmetric && l->act_bits != 4) {
    return AGQ_ERR_UNSUPPORTED;
  }
  const int act_group = l->act_group ? l->act_group : k;
  s->act_scales = k / act_group;
  s->block = group == k && act_group == k ? k_padded : gcd(group, act_group);
  if (s->block % 32)
    return AGQ_ERR_UNSUPPORTED; /* a group of the whole row, not a multiple of 32, beside a shorter one */
  if (s->block > AGQ_MAX_BLOCK) return AGQ_ERR_UNSUPPORTED;
  s->blocks = k_padded / s->block;
  s->group_blocks = s->blocks / s->groups;
  /* One scale per token is applied once at the end; groups are applied per block. */
  s->act_blocks = s->act_scales == 1 ? 0 : s->blocks / s->act_scales;
  return AGQ_OK;
}

/* Bytes of `panels * per_panel`, or -1 where that does not fit. */
static int64_t tensor_bytes(const agq_linear *l, size_t per_panel) {
  int64_t bytes;
  if (__builtin_mul_overflow((int64_t)per_panel, (int64_t)agq_panels(l->out_features), &bytes)) return -1;
  return bytes;
}

int64_t agq_linear_weight_bytes(const agq_linear *l) {
  agq_shape s;
  return agq_linear_shape(l, &s) == AGQ_OK ? tensor_bytes(l, s.panel_bytes) : -1;
}

int64_t agq_linear_scale_bytes(const agq_linear *l) {
  agq_shape s;
  return agq_linear_shape(l, &s) == AGQ_OK ? tensor_bytes(l, s.scale_panel_bytes) : -1;
}

int64_t agq_linear_zero_bytes(const agq_linear *l) {
  agq_shape s;
  if (agq_linear_shape(l, &s) != AGQ_OK) return -1;
  return l->zero ? tensor_bytes(l, s.zero_panel_bytes) : 0;
}

/* 1: `held` bytes at `p` are not enough for `needed`. */
static int too_small(const void *p, size_t held, int64_t needed) {
  return needed < 0 || (needed > 0 && !p) || held < (uint64_t)needed;
}

int agq_permutation(const uint32_t *order, uint32_t n) {
  enum { RUN = 1 << 16 }; /* numbers whose marks fit the stack */
  uint8_t seen[RUN];
  for (uint32_t first = 0; first < n; first += RUN) {
    uint32_t found = 0;
    memset(seen, 0, sizeof seen);
    for (uint32_t c = 0; c < n; c++) {
      const uint32_t number = order[c] - first; /* those below wrap to large ones */
      if (number >= RUN || order[c] >= n) continue;
      found += !seen[number];
      seen[number] = 1;
    }
    if (found != (n - first < RUN ? n - first : RUN)) return 0;
  }
  return 1;
}

int agq_linear_check(const agq_linear *l) {
  agq_shape s;
  int status = agq_linear_shape(l, &s);
  if (status != AGQ_OK) return status;
  if (too_small(l->weight, l->weight_bytes, tensor_bytes(l, s.panel_bytes))) return AGQ_ERR_ARGUMENT;
  if (too_small(l->scale, l->scale_bytes, tensor_bytes(l, s.scale_panel_bytes))) return AGQ_ERR_ARGUMENT;
  if (l->act_static && s.integer) {
    if (too_small(l->act_exponent, l->act_exponent_bytes, l->in_features)) return AGQ_ERR_ARGUMENT;
    for (int i = 0; i < l->in_features; i++)
      if (l->act_exponent[i] > AGQ_MAX_EXPONENT) return AGQ_ERR_ARGUMENT;
  }
  if ((l->zero || l->minimum) && !s.groups) return AGQ_ERR_ARGUMENT;
  if (l->zero && too_small(l->zero, l->zero_bytes, tensor_bytes(l, s.zero_panel_bytes))) return AGQ_ERR_ARGUMENT;
  if (l->minimum && too_small(l->minimum, l->minimum_bytes, tensor_bytes(l, s.scale_panel_bytes)))
    return AGQ_ERR_ARGUMENT;
  if (l->input_order) {
    if (too_small(l->input_order, l->input_order_bytes, (int64_t)sizeof(uint32_t) * l->in_features))
      return AGQ_ERR_ARGUMENT;
    if (!agq_permutation(l->input_order, (uint32_t)l->in_features)) return AGQ_ERR_ARGUMENT;
  }
  return AGQ_OK;
}
