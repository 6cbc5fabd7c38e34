// The patterns, alternatives in order of preference (FORMAT.md, section 6):
//
//   GPT-2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//   Llama 3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*
//            |\s*[\r\n]+|\s+(?!\S)|\s+
//   Qwen2    the same with \p{N} in place of \p{N}{1,3}
//
// Letters, numbers and spaces exclude each other, so the first character and the one after it decide.
#include "tokenizer_split.h"

namespace n730 {
namespace {

constexpr uint8_t kAny = CLASS_LETTER | CLASS_NUMBER | CLASS_SPACE;

struct Cursor {
    const TokenizerTables &tables;
    const uint8_t *end;

    // Class of the character at `p` (0 at the end of the text) and the byte behind it.
    uint8_t look(const uint8_t *p, const uint8_t *&next) const {
        if (p == end) {
            next = p;
            return 0;
        }
        const Char c = decode_char(p, end);
        next = p + c.length;
        return class_of(tables, c.code) & kAny;
    }
    // End of the run of characters of class `kind` from `p` on; `kind` 0: neither letter, number nor space.
    const uint8_t *run(const uint8_t *p, uint8_t kind) const {
        const uint8_t *next;
        while (p < end && look(p, next) == kind) p = next;
        return p;
    }
};

bool is_newline(uint8_t b) { return b == '\r' || b == '\n'; }

// Bytes of the contraction that the text behind an apostrophe makes, without the apostrophe; 0: none.
size_t contraction(const uint8_t *p, const uint8_t *end, bool any_case) {
    const auto at = [&](int i) -> int {
        if (p + i >= end) return 0;
        const int b = p[i];
        return any_case && b >= 'A' && b <= 'Z' ? b + 32 : b;
    };
    const int a = at(0);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 1;
    if ((a == 'r' || a == 'v') && at(1) == 'e') return 2;
    if (a == 'l' && at(1) == 'l') return 2;
    if (any_case && a == 0xC5 && at(1) == 0xBF) return 2; // U+017F, the long s, folds to s
    return 0;
}

// \s+(?!\S)|\s+ for the run [p, stop): all of it at the end of the text, otherwise all but its last character.
const uint8_t *spaces(const uint8_t *p, const uint8_t *stop, const uint8_t *end) {
    if (stop == end) return stop;
    const uint8_t *last = stop - decode_char_before(p, stop).length;
    return last > p ? last : stop;
}

const uint8_t *gpt2(const Cursor &cursor, const uint8_t *p) {
    if (*p == '\'') {
        if (const size_t n = contraction(p + 1, cursor.end, false)) return p + 1 + n;
    }
    const uint8_t *next;
    uint8_t kind = cursor.look(p, next);
    if (*p == ' ' && next < cursor.end) {
        const uint8_t *behind;
        const uint8_t following = cursor.look(next, behind);
        if (following != CLASS_SPACE) return cursor.run(behind, following);
    }
    if (kind != CLASS_SPACE) return cursor.run(next, kind);
    return spaces(p, cursor.run(next, CLASS_SPACE), cursor.end);
}

const uint8_t *llama3(const Cursor &cursor, const uint8_t *p, int digits) {
    if (*p == '\'') {
        if (const size_t n = contraction(p + 1, cursor.end, true)) return p + 1 + n;
    }
    const uint8_t *next;
    const uint8_t kind = cursor.look(p, next);
    if (kind == CLASS_LETTER) return cursor.run(next, CLASS_LETTER);
    if (kind == CLASS_NUMBER) {
        const uint8_t *behind;
        for (int i = 1; i < digits && next < cursor.end && cursor.look(next, behind) == CLASS_NUMBER; i++) next = behind;
        return next;
    }
    const uint8_t *behind;
    const uint8_t following = cursor.look(next, behind);
    if (!is_newline(*p) && following == CLASS_LETTER) return cursor.run(behind, CLASS_LETTER);
    if (kind == 0 || (*p == ' ' && next < cursor.end && following == 0)) {
        const uint8_t *stop = cursor.run(next, 0);
        while (stop < cursor.end && is_newline(*stop)) stop++;
        return stop;
    }
    const uint8_t *stop = cursor.run(next, CLASS_SPACE);
    for (const uint8_t *q = stop; q > p; q--) { // \s*[\r\n]+ ends behind the last line break of the run
        if (is_newline(q[-1])) return q;
    }
    return spaces(p, stop, cursor.end);
}

} // namespace

const uint8_t *word_end(const TokenizerTables &tables, const uint8_t *p, const uint8_t *end) {
    const Cursor cursor{tables, end};
    switch (static_cast<Pattern>(tables.pattern)) {
    case Pattern::GPT2: return gpt2(cursor, p);
    case Pattern::LLAMA3: return llama3(cursor, p, 3);
    case Pattern::QWEN2: return llama3(cursor, p, 1);
    }
    return end;
}

} // namespace n730
