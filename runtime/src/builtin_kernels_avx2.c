/* Built-in kernels for AVX2 + FMA + F16C: compile with -mavx2 -mfma -mf16c -ffp-contract=off. Called only after cpu_isa(). */
#if !defined(__AVX2__) || !defined(__F16C__)
#error "compile this file with -mavx2 -mfma -mf16c"
#endif
#define N730_BUILTIN n730_builtin_avx2
#include "builtin_kernels.inc"
