/* layout.h: the numbers of layout rl16 (agq.h) that everything else counts in.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_LAYOUT_H
#define AGQ_LAYOUT_H

#define AGQ_PANEL 16 /* rows of a panel */

static inline int agq_panels(int rows) { return (rows + AGQ_PANEL - 1) / AGQ_PANEL; }
/* Columns of integer weights with their padding. */
static inline int agq_pad32(int k) { return (k + 31) & ~31; }

#endif
