/* features.h: what the level that is being compiled has. The only file that knows levels by name: all others ask for a
 * feature, which a level has from its own row or from an ancestor's.
 *
 * The Makefile defines AGQ_ISA as the level's name, and AGQ_WITH_<name> for it and all its ancestors (levels.def).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef AGQ_FEATURES_H
#define AGQ_FEATURES_H

#define AGQ_TEXT_(x) #x
#define AGQ_TEXT(x) AGQ_TEXT_(x)
#define AGQ_JOIN_(a, b) a##b
#define AGQ_JOIN(a, b) AGQ_JOIN_(a, b)
#define AGQ_ISA_NAME AGQ_TEXT(AGQ_ISA)
#define AGQ_ISA_LEVEL AGQ_JOIN(AGQ_LEVEL_, AGQ_ISA) /* of levels.h */

/* AGQ_HAS_X86, AGQ_HAS_NEON: the kernels of gemm/x86, gemm/arm. AGQ_VECTOR_BYTES: length of a vector register.
 * AGQ_VECTOR_LEVEL: the level in the name of a kernel that is compiled for vectors of any length. */
#if defined(AGQ_WITH_avx512vnni)
#define AGQ_HAS_X86 1
#define AGQ_HAS_DPBUSD 1 /* vpdpbusd: four products of bytes straight to 32 bits */
#define AGQ_VECTOR_BYTES 64
#define AGQ_VECTOR_LEVEL "avx512vnni"
#elif defined(AGQ_WITH_avxvnni)
#define AGQ_HAS_X86 1
#define AGQ_HAS_DPBUSD 1
#define AGQ_VECTOR_BYTES 32
#define AGQ_VECTOR_LEVEL "avxvnni"
#elif defined(AGQ_WITH_avx2)
#define AGQ_HAS_X86 1
#define AGQ_VECTOR_BYTES 32
#define AGQ_VECTOR_LEVEL "avx2"
#elif defined(AGQ_WITH_sse41)
#define AGQ_HAS_X86 1
#define AGQ_VECTOR_BYTES 16
#define AGQ_VECTOR_LEVEL "sse41"
#elif defined(AGQ_WITH_neon)
#define AGQ_HAS_NEON 1
#define AGQ_VECTOR_BYTES 16
#else
#define AGQ_VECTOR_BYTES 16 /* of the compiler's portable vectors */
#endif
#if defined(AGQ_WITH_dotprod)
#define AGQ_HAS_SDOT 1
#endif
#if defined(AGQ_WITH_i8mm)
#define AGQ_HAS_SMMLA 1
#endif

#endif
