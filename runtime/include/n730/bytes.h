// Big-endian fields, rounding and ranges: the arithmetic that reading a package needs.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace n730 {

inline uint16_t be16(const uint8_t *p) { return static_cast<uint16_t>(p[0] << 8 | p[1]); }
inline uint32_t be32(const uint8_t *p) { return uint32_t(be16(p)) << 16 | be16(p + 2); }
inline uint64_t be64(const uint8_t *p) { return uint64_t(be32(p)) << 32 | be32(p + 4); }

inline float be_f32(const uint8_t *p) {
    const uint32_t bits = be32(p);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline double be_f64(const uint8_t *p) {
    const uint64_t bits = be64(p);
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

constexpr uint64_t ceil_div(uint64_t n, uint64_t step) { return n / step + (n % step != 0); }
constexpr uint64_t round_up(uint64_t n, uint64_t step) { return ceil_div(n, step) * step; }

// True if [offset, offset + size) lies within [0, limit); never overflows.
constexpr bool inside(uint64_t offset, uint64_t size, uint64_t limit) {
    return size <= limit && offset <= limit - size;
}

inline bool all_zero(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; ++i)
        if (p[i] != 0) return false;
    return true;
}

} // namespace n730
