/* levels.h: the rows of levels.def as numbers, and a check that a kernel table follows its row.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_LEVELS_H
#define AGQ_LEVELS_H

enum {
  AGQ_LEVEL_none,
#define LEVEL(name, architecture, parent, score, features, flags) AGQ_LEVEL_##name,
#include "levels.def"
#undef LEVEL
};
enum {
#define LEVEL(name, architecture, parent, score, features, flags) AGQ_PARENT_##name = AGQ_LEVEL_##parent,
#include "levels.def"
#undef LEVEL
};

/* In gemm/levels/<name>.h, which begins with the kernels of `parent`. */
#define AGQ_INHERITS(name, parent) \
  _Static_assert((int)AGQ_PARENT_##name == (int)AGQ_LEVEL_##parent, "levels.def names another parent");

#endif
