/* pool.h: a small pool of threads that run one parallel loop at a time.
 *
 * A loop of `items` is cut into chunks that threads claim one after the other, so a thread that the system has put
 * aside delays nothing but the chunk it holds. The calling thread takes part. Workers spin for a short while after a
 * loop (the next one usually follows within microseconds) and then sleep: an idle pool uses no CPU.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_POOL_H
#define AGQ_POOL_H

typedef struct agq_pool agq_pool;

/* Handles items [begin, end); end - begin <= chunk. `thread` in 0..threads-1 is unique among the calls that run at
 * once. */
typedef void (*agq_task_fn)(void *arg, int thread, int begin, int end);

/* threads >= 1 counts the caller: 1 starts none. NULL if memory or threads cannot be had. */
agq_pool *agq_pool_create(int threads);
void agq_pool_destroy(agq_pool *pool);
int agq_pool_threads(const agq_pool *pool);

/* Runs fn over [0, items) in chunks of `chunk` >= 1 and returns when all are done. One caller at a time. Everything
 * written by the caller before is seen by the chunks, everything written by the chunks is seen by the caller after. */
void agq_pool_run(agq_pool *pool, agq_task_fn fn, void *arg, int items, int chunk);

#endif
