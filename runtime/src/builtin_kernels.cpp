#include "builtin_kernels.h"

#include <cpuid.h>

extern "C" {
n730_kernel n730_builtin_sse2(uint16_t op, uint8_t format);
n730_kernel n730_builtin_avx2(uint16_t op, uint8_t format);
}

namespace n730 {

int cpu_isa() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const unsigned needed = bit_FMA | bit_F16C | bit_AVX | bit_OSXSAVE;
    if ((c & needed) != needed) return 0;
    // XCR0 tells whether the operating system saves the upper halves of the registers.
    unsigned xcr0_low = 0, xcr0_high = 0;
    __asm__ volatile("xgetbv" : "=a"(xcr0_low), "=d"(xcr0_high) : "c"(0));
    if ((xcr0_low & 6) != 6) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    return (b & bit_AVX2) ? 1 : 0;
}

n730_kernel builtin_kernel(uint16_t op, uint8_t format, int isa) {
    return isa >= 1 ? n730_builtin_avx2(op, format) : n730_builtin_sse2(op, format);
}

}  // namespace n730
