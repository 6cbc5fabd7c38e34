/* Built-in kernels for every x86-64: compile with -ffp-contract=off and no -m flags. */
#define N730_BUILTIN n730_builtin_sse2
#include "builtin_kernels.inc"
