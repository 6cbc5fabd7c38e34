// Small texts: sizes and numbers as people and JSON want them.
#pragma once
#include <cstdint>
#include <string>

namespace n730 {

// `512M`, `1.5G`, `4096`: bytes, in binary units (K, M, G, T; `MB` and `MiB` mean the same). False if malformed.
bool parse_size(const std::string &text, uint64_t &bytes);
std::string format_size(uint64_t bytes); // "1.5 GiB"
std::string format_number(double value); // three significant digits, never an exponent for usual values

} // namespace n730
