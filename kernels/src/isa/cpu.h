/* cpu.h: the features of a CPU that levels ask for, as bits, with the names that agq_cpu_features shows.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_CPU_H
#define AGQ_CPU_H

/* clang-format off */
#define AGQ_CPU_FEATURES(X)                                                                                            \
  X(SSSE3, "ssse3") X(SSE4_1, "sse4_1") X(AVX, "avx") X(F16C, "f16c") X(FMA, "fma") X(AVX2, "avx2")                    \
  X(AVX512F, "avx512f") X(AVX512DQ, "avx512dq") X(AVX512BW, "avx512bw") X(AVX512VL, "avx512vl")                        \
  X(AVX512_VNNI, "avx512_vnni") X(AVX_VNNI, "avx_vnni")                                                                \
  X(ASIMD, "asimd") X(ATOMICS, "atomics") X(ASIMDHP, "asimdhp") X(ASIMDRDM, "asimdrdm") X(ASIMDDP, "asimddp")          \
  X(SVE, "sve") X(SVE2, "sve2") X(I8MM, "i8mm") X(BF16, "bf16")

enum {
#define NUMBER(name, text) CPU_NUMBER_##name,
  AGQ_CPU_FEATURES(NUMBER)
#undef NUMBER
};
enum {
#define BIT(name, text) CPU_##name = 1 << CPU_NUMBER_##name,
  AGQ_CPU_FEATURES(BIT)
#undef BIT
  CPU_AVX512 = CPU_AVX512F | CPU_AVX512DQ | CPU_AVX512BW | CPU_AVX512VL | CPU_AVX512_VNNI,
  CPU_ARMV82 = CPU_ATOMICS | CPU_ASIMDRDM, /* -march=armv8.2-a lets the compiler use those of 8.1 too */
};
/* clang-format on */

/* What this machine has. x86.c, arm.c; 0 on other architectures. */
unsigned agq_cpu_found(void);
/* agq_cpu_score of agq.h on a CPU that has `found`. */
int agq_cpu_score_of(unsigned found);

#endif
