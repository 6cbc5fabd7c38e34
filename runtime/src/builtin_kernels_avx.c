/* Built-in kernels for AVX: compile with -mavx -ffp-contract=off. Called only after cpu_isa(). */
#ifndef __AVX__
#error "compile this file with -mavx"
#endif
#define N730_BUILTIN n730_builtin_avx
#include "builtin_kernels.inc"
