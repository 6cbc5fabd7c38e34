// The kernels that every n730-exec carries: all ops and weight formats of FORMAT.md, for two instruction sets.
#pragma once
#include "n730_call.h"

#include <cstdint>

namespace n730 {

// The strongest instruction set that this CPU and its operating system run: 0 SSE2, 1 AVX2 with FMA and F16C
// (the numbers of the package's IMAGES). Asks CPUID and XGETBV; costs about a microsecond.
int cpu_isa();

// The kernel of a step. op: FORMAT.md, STEPS; format: that of the weight, looked at for EMBED and LINEAR only;
// isa: at most cpu_isa(). NULL if there is none. In the call, `rows` and `cols` are those of the step's weight where it
// has one (RMS_NORM: cols = width; ROPE_TABLE: cols = number of inverse frequencies), else cols = width of in[0].
n730_kernel builtin_kernel(uint16_t op, uint8_t format, int isa);

}  // namespace n730
