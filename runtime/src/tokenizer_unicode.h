// Characters: UTF-8, their classes, and the Unicode normal forms.
#pragma once
#include <string>
#include <vector>

#include "tokenizer_tables.h"

namespace n730 {

// Bits of a class's flags (table CLASS_FLAGS). The two kinds of space are those of the engine that strips spaces
// around added tokens, and of the normalizer that strips texts.
enum ClassFlag : uint8_t {
    CLASS_STRIP_SPACE = 1, // \s around added tokens
    CLASS_WORD = 2,        // \w beside added tokens
    CLASS_FORM = 4,        // may change under the normal form, or change what stands before it
    CLASS_WHITE = 8,       // taken away by the step STRIP
};

constexpr uint32_t kInvalid = 0x80000000; // kInvalid | byte: a byte that is no UTF-8

struct Char {
    uint32_t code;   // code point, or kInvalid | byte
    uint32_t length; // bytes, at least 1
};

// The character at `p`, which is before `end`.
inline Char decode_char(const uint8_t *p, const uint8_t *end) {
    const uint8_t b = *p;
    if (b < 0x80) return {b, 1};
    const auto tail = [&](int i) { return p + i < end && (p[i] & 0xC0) == 0x80; };
    const auto bits = [&](int i) { return uint32_t(p[i] & 0x3F); };
    if (b >= 0xC2 && b < 0xE0 && tail(1)) return {uint32_t(b & 0x1F) << 6 | bits(1), 2};
    if (b >= 0xE0 && b < 0xF0 && tail(1) && tail(2)) {
        const uint32_t c = uint32_t(b & 0x0F) << 12 | bits(1) << 6 | bits(2);
        if (c >= 0x800 && (c < 0xD800 || c > 0xDFFF)) return {c, 3};
    }
    if (b >= 0xF0 && b < 0xF5 && tail(1) && tail(2) && tail(3)) {
        const uint32_t c = uint32_t(b & 0x07) << 18 | bits(1) << 12 | bits(2) << 6 | bits(3);
        if (c >= 0x10000 && c <= 0x10FFFF) return {c, 4};
    }
    return {kInvalid | b, 1};
}

// The character that ends at `p`, which is after `begin`.
inline Char decode_char_before(const uint8_t *begin, const uint8_t *p) {
    for (uint32_t n = 1; n <= 4 && p - n >= begin; n++) {
        const Char c = decode_char(p - n, p);
        if (c.length == n && (n > 1 || c.code < 0x80)) return c;
    }
    return {kInvalid | p[-1], 1};
}

// Appends the character as UTF-8, or the byte that was none.
void append_char(std::string &out, uint32_t code);

// A byte that is no UTF-8 has the class of U+10FFFF, which is never assigned.
inline uint8_t class_of(const TokenizerTables &t, uint32_t code) {
    if (code > 0x10FFFF) code = 0x10FFFF;
    return t.class_pages.data[be16(t.class_index.data + 2 * (code >> 8)) * 256u + (code & 0xFF)];
}
inline uint8_t class_flags(const TokenizerTables &t, uint32_t code) { return t.class_flags.data[class_of(t, code)]; }

// A Unicode normal form of whole texts: which one the tables say. Reuses its memory from one call to the next.
class NormalForm {
  public:
    explicit NormalForm(const TokenizerTables &tables) : tables_(tables) {}

    // Is every character one that the form leaves alone wherever it stands?
    bool is_plain(const uint8_t *text, size_t n) const;
    // Appends the text's normal form to `out`. O(n log n).
    void append(const uint8_t *text, size_t n, bool compose, std::string &out);

  private:
    struct Unit {
        uint32_t code;
        uint32_t ccc; // canonical combining class
    };
    const uint8_t *find_char(uint32_t code) const; // its record in CHARS, or null
    void decompose(uint32_t code);
    void push(uint32_t code);
    uint32_t composite(uint32_t first, uint32_t second) const; // 0: they do not
    void order();
    void compose();

    const TokenizerTables &tables_;
    std::vector<Unit> units_;
};

} // namespace n730
