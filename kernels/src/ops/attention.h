/* attention.h: the KV cache's layout, and attention of a tile of queries over it.
 *
 * A (layer, slot, kv head) owns one region: keys, values, key scales, value scales. Keys lie transposed in blocks of 64
 * positions ([position/64][head_dim][64]), values as [position][width] with width = head_dim padded up to 16, so that
 * both products of attention read them in order with one output per vector lane.
 *
 * With 4 bits, keys and queries go through a Walsh-Hadamard transform per head first; two key channels share a byte
 * ([position/64][head_dim/2][64]), values lie as [position][width/32][16 bytes] (channels i and 16 + i of a run of 32
 * share a byte), scales as [group][position] and their zero points, one byte each, likewise. Blocks are turned into
 * bytes (code - zero) when read, and go on as with 8 bits; where a head has several groups, into floats.
 *
 * A window leaves out the keys before a query's first one, and with them the blocks that no query of a tile sees.
 *
 * Softmax is computed online: keys go by in blocks of 64, counted from key 0; every 512 keys a fresh state is started,
 * and the states are merged in ascending order. All that a query does is fixed by its position alone, never by the
 * other queries of a tile or the number of threads: its result has the same bits in a prompt of any cut and in
 * decoding.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_ATTENTION_H
#define AGQ_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

enum { AGQ_KEY_BLOCK = 64, AGQ_KEY_RANGE = 512 };

typedef struct {
  int bits; /* 4, 8 or 32 */
  int head_dim, width;
  int positions;                                             /* capacity, a multiple of 64 */
  size_t value_offset, key_scale_offset, value_scale_offset; /* bytes from the region's start */
  size_t region_bytes;                                       /* a multiple of 64; 0: too large */
  int log2;                                                  /* 1: codes on static scales (attention_log2.h) */
  /* 4 bits only (else 0): */
  int hadamard;                              /* block of the transform of queries and keys */
  int group, groups;                         /* channels that share a scale, groups per head */
  size_t key_pairs, value_stride;            /* bytes of one position's key and value */
  size_t key_zero_offset, value_zero_offset; /* zero points, uint8 */
} agq_kv_layout;

agq_kv_layout agq_kv_layout_make(int bits, int head_dim, int context);
/* Stores one position: key[head_dim] (after RoPE and the Walsh-Hadamard transform, where there is one) and
 * value[head_dim]. */
void agq_kv_store(const agq_kv_layout *kv, char *region, int position, const float *key, const float *value);

/* The 4-bit cache: agq_kv_store; keys of a block, the first `cols` (a multiple of 16), as [head_dim][64] floats; values
 * of `keys` positions as [keys][width]. `key` is a multiple of 64. */
void agq_kv4_store(const agq_kv_layout *kv, char *region, int position, const float *key, const float *value);
void agq_kv4_keys(const agq_kv_layout *kv, const char *region, int key, int cols, float *to);
void agq_kv4_values(const agq_kv_layout *kv, const char *region, int key, int keys, float *to);
/* The same as code - zero (-15..15), for heads of one group: keys as [head_dim][64], all of the block. */
void agq_kv4_key_codes(const agq_kv_layout *kv, const char *region, int key, int8_t *to);
void agq_kv4_value_codes(const agq_kv_layout *kv, const char *region, int key, int keys, int8_t *to);

/* Tokens whose queries are wanted. Token i reads its query from row token_row[i] of q and of the RoPE tables, and
 * writes row i of out. */
typedef struct {
  const agq_kv_layout *kv;
  int group; /* query heads per kv head */
  float scale;
  const float *slopes; /* [heads]: ALiBi; or NULL */
  const float *q;      /* [row][ldq], query heads first */
  size_t ldq;
  const float *cosines, *sines; /* [row][half]; or NULL */
  int half;                     /* turned channels of a head / 2 */
  float softcap;                /* c tanh(s / c) of the scaled scores; 0: none */
  int window;                   /* keys that a query sees, its own included; 0: all */
  const int32_t *token_row, *token_position;
  float *out; /* [token][ldo] */
  size_t ldo;
  /* ALiBi and windows where keys are not at their places: the position of each key of the region (ascending), of each
   * row's query; or NULL. */
  const int32_t *key_position, *query_position;
  float *first_share; /* [token][heads]: takes the probability of key 0; or NULL. agq_attention_tile only */
  int heads;
  const struct agq_log2_scales *log2; /* of the layer, with kv->log2 */
} agq_attention;

/* The first key of the region that a token's query sees. */
int agq_attention_first_key(const agq_attention *a, int token);

/* Query rows of a tile are (token, head of the group) pairs: row r is token first + r / group, head r % group of the kv
 * head. Positions must not descend within a tile, and all tokens must belong to the region's slot. */
int agq_attention_tile_rows(const agq_kv_layout *kv);
/* Floats of scratch per thread for tiles of up to `rows` rows. */
size_t agq_attention_scratch(const agq_kv_layout *kv, int rows);
/* The softmax state of a row: width values, maximum, sum. */
static inline size_t agq_attention_state(const agq_kv_layout *kv) { return (size_t)kv->width + 2; }

/* Rows [begin, end) over all their keys, to out. */
void agq_attention_tile(const agq_attention *a, const char *region, int kv_head, int first, int begin, int end,
                        float *scratch);
/* The same over keys [512 range, 512 (range + 1)) only: row r's state goes to states + (r - begin) *
 * agq_attention_state. */
void agq_attention_range(const agq_attention *a, const char *region, int kv_head, int first, int begin, int end,
                         int range, float *states, float *scratch);
/* Merges the states of one row, `ranges` of them from its first key's on (`stride` floats apart), and writes the row to
 * out. Destroys the states. */
void agq_attention_merge(const agq_attention *a, int kv_head, int first, int row, int ranges, float *states,
                         size_t stride);

/* c[rows][cols] = (carry ? c * carry[row] : 0) + a[rows][depth] b[depth][cols]; each element one chain of multiply-adds
 * in ascending depth. b is float, or int8 with b_i8. cols is a multiple of 16. */
void agq_block_product(const float *a, size_t lda, const void *b, int b_i8, size_t ldb, int rows, int cols, int depth,
                       float *c, size_t ldc, const float *carry);

#endif
