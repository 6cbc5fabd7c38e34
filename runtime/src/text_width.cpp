#include "text_width.h"
#include "utf8.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace n730 {

namespace {

struct Range {
    uint32_t first, last;
};

// Unicode's East Asian Width (W and F) and its combining marks, by blocks: near enough for the place of a cursor.
constexpr Range WIDE[] = {{0x1100, 0x115F}, {0x231A, 0x231B}, {0x23E9, 0x23F3}, {0x2614, 0x2615}, {0x26A1, 0x26A1},
                          {0x2705, 0x2705}, {0x274C, 0x274C}, {0x2753, 0x2757}, {0x2795, 0x2797}, {0x2B50, 0x2B50},
                          {0x2E80, 0x303E}, {0x3041, 0x4DBF}, {0x4E00, 0xA4CF}, {0xA960, 0xA97F}, {0xAC00, 0xD7A3},
                          {0xF900, 0xFAFF}, {0xFE30, 0xFE6F}, {0xFF00, 0xFF60}, {0xFFE0, 0xFFE6}, {0x1F300, 0x1F64F},
                          {0x1F680, 0x1F6FF}, {0x1F900, 0x1F9FF}, {0x1FA70, 0x1FAFF}, {0x20000, 0x3FFFD}};
constexpr Range MARKS[] = {{0x0300, 0x036F}, {0x0483, 0x0489}, {0x0591, 0x05BD}, {0x0610, 0x061A}, {0x064B, 0x065F},
                           {0x0900, 0x0902}, {0x093C, 0x093C}, {0x0941, 0x0948}, {0x094D, 0x094D}, {0x0E31, 0x0E31},
                           {0x0E34, 0x0E3A}, {0x0E47, 0x0E4E}, {0x1AB0, 0x1AFF}, {0x1DC0, 0x1DFF}, {0x200B, 0x200F},
                           {0x20D0, 0x20FF}, {0x3099, 0x309A}, {0xFE00, 0xFE0F}, {0xFE20, 0xFE2F}, {0x1F3FB, 0x1F3FF},
                           {0xE0020, 0xE01EF}};

bool in(const Range *begin, const Range *end, uint32_t code) {
    const Range *after = std::upper_bound(begin, end, code, [](uint32_t c, const Range &r) { return c < r.first; });
    return after != begin && code <= (after - 1)->last;
}

uint32_t decode(std::string_view c) {
    if (c.size() == 1) return static_cast<unsigned char>(c[0]);
    uint32_t code = static_cast<unsigned char>(c[0]) & (0x7Fu >> c.size());
    for (size_t i = 1; i < c.size(); ++i) code = code << 6 | (static_cast<unsigned char>(c[i]) & 0x3F);
    return code;
}

} // namespace

Glyph next_glyph(std::string_view text) {
    size_t bytes = utf8_next(text).length;
    const uint32_t code = decode(text.substr(0, bytes));
    int columns = in(std::begin(WIDE), std::end(WIDE), code) ? 2 : in(std::begin(MARKS), std::end(MARKS), code) ? 0 : 1;
    while (bytes < text.size()) {
        const size_t n = utf8_next(text.substr(bytes)).length;
        if (!in(std::begin(MARKS), std::end(MARKS), decode(text.substr(bytes, n)))) break;
        bytes += n;
    }
    return {bytes, columns};
}

int text_columns(std::string_view text) {
    int columns = 0;
    while (!text.empty()) {
        const Glyph glyph = next_glyph(text);
        columns += glyph.columns;
        text.remove_prefix(glyph.bytes);
    }
    return columns;
}

} // namespace n730
