// The kernels that every n730-exec carries: all ops and weight formats of FORMAT.md, for four instruction sets.
#pragma once
#include "n730/format.h"
#include "n730_call.h"

#include <cstdint>

namespace n730 {

// The highest level that this CPU and its operating system run (FORMAT.md, IMAGES). Asks CPUID and XGETBV; costs about
// a microsecond.
Isa cpu_isa();

// The level of the built-in kernels that serve a CPU of level `isa`: there are none above AVX2, because what AVX-512
// gains over it does not reach past the memory.
Isa builtin_isa(Isa isa);

const char *isa_name(Isa isa); // "sse2", "ssse3", "avx", "avx2", "avx512"; "sm_35" and so on

// The kernel of a step. op: FORMAT.md, STEPS; format: that of the weight for EMBED and LINEAR, of the cache for KV_STORE
// and ATTENTION, for ROPE p3 and for UNARY p0, and not looked at for others;
// isa: at most cpu_isa(). NULL if there is none. In the call, `rows` and `cols` are those of the step's weight where it
// has one (norms: cols = elements normed together; ROPE_TABLE: cols = number of inverse frequencies), else cols = width of in[0].
n730_kernel builtin_kernel(uint16_t op, uint8_t format, Isa isa);

}  // namespace n730
