/* Built-in kernels for SSSE3: compile with -mssse3 -ffp-contract=off. Called only after cpu_isa(). */
#ifndef __SSSE3__
#error "compile this file with -mssse3"
#endif
#define N730_BUILTIN n730_builtin_ssse3
#include "builtin_kernels.inc"
