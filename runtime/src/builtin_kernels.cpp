#include "builtin_kernels.h"

#include <cpuid.h>

extern "C" {
n730_kernel n730_builtin_sse2(uint16_t op, uint8_t format);
n730_kernel n730_builtin_ssse3(uint16_t op, uint8_t format);
n730_kernel n730_builtin_avx(uint16_t op, uint8_t format);
n730_kernel n730_builtin_avx2(uint16_t op, uint8_t format);
}

namespace n730 {

namespace {

bool all_of(unsigned bits, unsigned wanted) { return (bits & wanted) == wanted; }

// XCR0 tells which registers the operating system saves. To be asked only where CPUID says OSXSAVE.
bool saved_by_system(unsigned wanted) {
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return all_of(low, wanted);
}

constexpr unsigned YMM = 0x06, ZMM = 0xe6; // XCR0: XMM and YMM; with mask registers and both halves of ZMM

} // namespace

Isa cpu_isa() {
    unsigned a = 0, b = 0, c1 = 0, d = 0, b7 = 0, c7 = 0;
    if (!__get_cpuid(1, &a, &b, &c1, &d) || !all_of(c1, bit_SSE3 | bit_SSSE3)) return Isa::SSE2;
    if (!all_of(c1, bit_AVX | bit_OSXSAVE) || !saved_by_system(YMM)) return Isa::SSSE3;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d)) return Isa::AVX;
    if (!all_of(c1, bit_FMA | bit_F16C) || !all_of(b7, bit_AVX2)) return Isa::AVX;
    const unsigned avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if (!all_of(b7, avx512) || !all_of(c7, bit_AVX512VNNI) || !saved_by_system(ZMM)) return Isa::AVX2;
    return Isa::AVX512;
}

Isa builtin_isa(Isa isa) { return isa > Isa::AVX2 ? Isa::AVX2 : isa; }

n730_kernel builtin_kernel(uint16_t op, uint8_t format, Isa isa) {
    switch (builtin_isa(isa)) {
    case Isa::SSE2: return n730_builtin_sse2(op, format);
    case Isa::SSSE3: return n730_builtin_ssse3(op, format);
    case Isa::AVX: return n730_builtin_avx(op, format);
    default: return n730_builtin_avx2(op, format);
    }
}

const char *isa_name(Isa isa) {
    static const char *const names[] = {"sse2", "ssse3", "avx", "avx2", "avx512"};
    switch (isa) {
    case Isa::PTX: return "ptx";
    case Isa::SM_35: return "sm_35";
    case Isa::SM_50: return "sm_50";
    case Isa::SM_52: return "sm_52";
    case Isa::SM_61: return "sm_61";
    default: return names[uint32_t(isa)];
    }
}

}  // namespace n730
