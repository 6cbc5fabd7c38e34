// Compiled for AVX2 (see CMakeLists.txt): called only where cpu_isa() says that the CPU has it.
#include "hash.h"

namespace n730 {

uint64_t xxh3_avx2(const void *data, size_t n) { return xxh3(data, n); }

} // namespace n730
