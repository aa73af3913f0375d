/* run_tokens.c: greedy generation from an artifact with no Python on the
 * machine, for emulated Arm processors.
 *
 *   run_tokens LIBRARY_FOLDER MODEL_IMAGE ARTIFACT
 *
 * Takes the library of LIBRARY_FOLDER with the best score on this CPU, as agq's
 * Python loader does, maps ARTIFACT, and continues the prompt. MODEL_IMAGE is
 * written by tests/arm/image.py: the agq_model and agq_block structs as bytes,
 * with a list of the pointers in them. x86-64 and aarch64 lay these structs out
 * alike (LP64, little-endian); their sizes are checked. Prints "isa <name>",
 * then the generated token ids, one a line. Exit code 0, or 1 with a message on
 * stderr.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agq.h"

typedef struct {
  char magic[8]; /* "agqimage" */
  uint64_t model_size, block_size, struct_bytes, pointers;
  int32_t layers, context, kv_bits, threads, prompt, generate, rope;
  float rope_scaling;
} image_header; /* then: structs (model, blocks, further data), pointers, rope
                   floats, prompt tokens */

typedef struct {
  uint64_t where;  /* byte offset of the pointer inside the structs */
  uint64_t target; /* byte offset of what it points to */
  uint64_t inside; /* 1: an offset inside the structs; 0: inside the artifact */
} image_pointer;

static void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  exit(1);
}

static const uint8_t *map_file(const char *path, size_t *size) {
  const int fd = open(path, O_RDONLY);
  struct stat status;
  if (fd < 0 || fstat(fd, &status) != 0)
    fail("cannot open %s", path);
  void *data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED)
    fail("cannot map %s", path);
  close(fd);
  *size = (size_t)status.st_size;
  return data;
}

static void *symbol(void *library, const char *name) {
  void *address = dlsym(library, name);
  if (address == NULL)
    fail("no symbol %s", name);
  return address;
}

/* The library with the highest score on this CPU. */
static void *best_library(const char *folder) {
  DIR *directory = opendir(folder);
  if (directory == NULL)
    fail("cannot open folder %s", folder);
  void *best = NULL;
  int best_score = 0;
  for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
    char path[4096];
    if (strncmp(entry->d_name, "libagq-", 7) != 0 ||
        strstr(entry->d_name, ".so") == NULL)
      continue;
    snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
      fail("%s", dlerror());
    const int score = ((int (*)(void))symbol(library, "agq_cpu_score"))();
    if (score > best_score)
      best = library, best_score = score;
  }
  closedir(directory);
  if (best == NULL)
    fail("no library in %s runs on this CPU", folder);
  return best;
}

int main(int argc, char **argv) {
  if (argc != 4)
    fail("usage: run_tokens LIBRARY_FOLDER MODEL_IMAGE ARTIFACT");
  size_t image_size, artifact_size;
  const uint8_t *image = map_file(argv[2], &image_size);
  const uint8_t *artifact = map_file(argv[3], &artifact_size);

  image_header header;
  if (image_size < sizeof header)
    fail("%s is too short", argv[2]);
  memcpy(&header, image, sizeof header);
  if (memcmp(header.magic, "agqimage", 8) != 0)
    fail("%s is no model image", argv[2]);
  if (header.model_size != sizeof(agq_model) ||
      header.block_size != sizeof(agq_block))
    fail("structs differ: model %zu and %zu bytes, block %zu and %zu",
         (size_t)header.model_size, sizeof(agq_model),
         (size_t)header.block_size, sizeof(agq_block));

  uint8_t *structs = malloc(header.struct_bytes);
  image_pointer *pointers = malloc(header.pointers * sizeof *pointers);
  float *inv_freq = malloc((size_t)header.rope * sizeof *inv_freq + 1);
  int32_t *tokens =
      malloc((size_t)(header.prompt + header.generate) * sizeof *tokens);
  if (structs == NULL || pointers == NULL || inv_freq == NULL || tokens == NULL)
    fail("out of memory");
  const uint8_t *read = image + sizeof header;
  memcpy(structs, read, header.struct_bytes), read += header.struct_bytes;
  memcpy(pointers, read, header.pointers * sizeof *pointers),
      read += header.pointers * sizeof *pointers;
  memcpy(inv_freq, read, (size_t)header.rope * sizeof *inv_freq),
      read += (size_t)header.rope * sizeof *inv_freq;
  memcpy(tokens, read, (size_t)header.prompt * sizeof *tokens),
      read += (size_t)header.prompt * sizeof *tokens;
  if ((size_t)(read - image) != image_size)
    fail("%s has a wrong size", argv[2]);
  for (uint64_t i = 0; i < header.pointers; i++) {
    if (!pointers[i].inside && pointers[i].target >= artifact_size)
      fail("a pointer leaves the artifact");
    const uint8_t *target =
        (pointers[i].inside ? structs : artifact) + pointers[i].target;
    memcpy(structs + pointers[i].where, &target, sizeof target);
  }
  const agq_model *model = (const agq_model *)structs;

  void *library = best_library(argv[1]);
  typedef agq_engine *(*create_function)(const agq_model *, const agq_options *,
                                         char *, size_t);
  typedef int (*forward_function)(agq_engine *, const agq_batch *, float *);
  typedef int (*rope_function)(agq_engine *, int, int, const float *, float);
  typedef const char *(*error_function)(const agq_engine *);
  typedef void (*destroy_function)(agq_engine *);
  const forward_function forward =
      (forward_function)symbol(library, "agq_engine_forward");
  const error_function engine_error =
      (error_function)symbol(library, "agq_engine_error");
  printf("isa %s\n", ((const char *(*)(void))symbol(library, "agq_isa"))());

  const agq_options options = {.threads = header.threads,
                               .slots = 1,
                               .context = header.context,
                               .batch = 64,
                               .kv_bits = header.kv_bits};
  char message[512] = "";
  agq_engine *engine = ((create_function)symbol(library, "agq_engine_create"))(
      model, &options, message, sizeof message);
  if (engine == NULL)
    fail("agq_engine_create: %s", message);
  if (model->position_kind == AGQ_POSITION_ROPE &&
      ((rope_function)symbol(library, "agq_engine_set_rope"))(
          engine, 0, AGQ_ROPE_GLOBAL, inv_freq, header.rope_scaling) != AGQ_OK)
    fail("agq_engine_set_rope: %s", engine_error(engine));

  float *logits = malloc((size_t)model->vocab * sizeof *logits);
  if (logits == NULL)
    fail("out of memory");
  int position = 0, length = header.prompt;
  while (length < header.prompt + header.generate) {
    const agq_batch batch = {.n = length - position,
                             .tokens = tokens + position};
    if (forward(engine, &batch, logits) != AGQ_OK)
      fail("agq_engine_forward: %s", engine_error(engine));
    int best = 0;
    for (int i = 1; i < model->vocab; i++)
      if (logits[i] > logits[best])
        best = i;
    printf("%d\n", best);
    position = length;
    tokens[length++] = best;
  }
  ((destroy_function)symbol(library, "agq_engine_destroy"))(engine);
  return 0;
}
