// Where things lie in a TOKENIZER section (FORMAT.md, section 6), and how its numbers are read.
#pragma once
#include "../include/n730/bytes.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace n730 {

inline uint32_t be24(const uint8_t *p) { return uint32_t{p[0]} << 16 | uint32_t{p[1]} << 8 | p[2]; }

constexpr uint32_t kNoId = 0xFFFFFFFF;   // no token (BYTES, WORDS, the unknown token)
constexpr uint32_t kMaxId = 0xFFFFFE;    // ids are 24 bits wide in the hash tables; all ones mark an empty slot
constexpr uint64_t kHashFactor = 0x9E3779B97F4A7C15;

enum class TokenizerKind : uint32_t { BYTE_BPE = 1, CHAR_BPE = 2, UNIGRAM = 3, WORD_PIECE = 4 };
enum ModelFlag : uint8_t { MODEL_FUSE_UNKNOWN = 1, MODEL_BYTE_FALLBACK = 2 };
enum TokenFlag : uint8_t { TOKEN_SPECIAL = 1, TOKEN_EOS = 2 };
enum AddedFlag : uint8_t { ADDED_LSTRIP = 1, ADDED_RSTRIP = 2, ADDED_SINGLE_WORD = 4 };

// Steps of the three programs. The first three programs' numbers never mean two things.
enum class TextOp : uint8_t {
    REPLACE = 1, // normalizer, pre-tokenizer: each match of an automaton by a text
    FORM = 2,    // normalizer: a Unicode normal form, with (arg 1) or without composition
    MAP = 3,     // normalizer: each character by what MAPS has for it
    PREPEND = 4, // normalizer: a text in front of all that is not empty
    STRIP = 5,   // normalizer: spaces at the beginning (arg & 1) and the end (arg & 2)
    SPLIT = 6,   // pre-tokenizer: cut at the matches of an automaton; arg: behavior and SplitFlag
    PREFIX = 7,  // pre-tokenizer: a text in front of one that does not begin with it; arg 1: at the very beginning only
    SUBSTITUTE = 8, // decoder: in each token one text by another
    DROP_FIRST = 9, // decoder: the first token loses each occurrence of a text
    JOIN = 10,      // decoder: tokens but the first lose a text at their beginning, or get a space
    BYTES = 11,     // decoder: runs of <0x..> tokens are bytes
    TRIM = 12,      // decoder: at most arg occurrences of a text at the beginning of everything are left out
};
enum class Behavior : uint8_t { ISOLATED = 0, REMOVED = 1, MERGED_WITH_PREVIOUS = 2, MERGED_WITH_NEXT = 3, CONTIGUOUS = 4 };
enum SplitFlag : uint8_t { SPLIT_BEHAVIOR = 7, SPLIT_INVERT = 8, SPLIT_BYTES = 16 };

struct Table {
    const uint8_t *data = nullptr;
    uint32_t size = 0; // bytes
};

// A step of a program, 16 bytes.
struct TextStep {
    TextOp op;
    uint8_t arg;
    uint16_t automaton;
    uint32_t x, y;  // offset in TEXT of two texts, one behind the other; or the records [x, y) of MAPS
    uint16_t a, b;  // bytes of the two texts

    explicit TextStep(const uint8_t *p)
        : op(static_cast<TextOp>(p[0])), arg(p[1]), automaton(static_cast<uint16_t>(be16(p + 2))), x(be32(p + 4)), y(be32(p + 8)),
          a(static_cast<uint16_t>(be16(p + 12))), b(static_cast<uint16_t>(be16(p + 14))) {}
};

struct TokenizerTables {
    static constexpr size_t kTables = 26;
    static constexpr size_t kHeader = 32 + 8 * kTables;
    static constexpr size_t kIndex = 257 * 4;   // bytes of the first-byte index before the records of ADDED tables and SORTED
    static constexpr size_t kStep = 16;         // bytes of a step
    static constexpr uint32_t kMaxSteps = 16;   // of one program
    static constexpr uint32_t kMaxStates = 1023; // of one automaton

    TokenizerKind kind;
    uint32_t tokens;
    uint8_t flags;
    uint32_t longest_word, merge_probes, word_probes, word_limit, unknown, classes;
    uint32_t continuing, continuing_size; // offset in TEXT, bytes: what WordPiece puts before all but a word's first token
    Table token_offsets, token_bytes, token_flags, bytes, merges, words, scores, sorted, added_raw, added_normalized, text;
    Table prefix, suffix, class_index, class_pages, class_flags, byte_classes, automata, transitions;
    Table chars, decompositions, compositions, maps, normalizer, pre_tokenizer, decoder;

    // Reads the header. `data` holds at least kHeader bytes; nothing has been checked yet.
    explicit TokenizerTables(const uint8_t *data)
        : kind(static_cast<TokenizerKind>(be32(data))), tokens(be32(data + 4)), flags(data[8]), longest_word(be32(data + 12)),
          merge_probes(be16(data + 16)), word_probes(be16(data + 18)), word_limit(be16(data + 10)), unknown(be32(data + 20)),
          classes(be16(data + 24)), continuing(be32(data + 28)), continuing_size(data[9]) {
        Table *all[kTables] = {&token_offsets, &token_bytes,  &token_flags,      &bytes,
                               &merges,        &words,        &scores,           &sorted,
                               &added_raw,     &added_normalized, &text,         &prefix,
                               &suffix,        &class_index,  &class_pages,      &class_flags,
                               &byte_classes,  &automata,     &transitions,      &chars,
                               &decompositions, &compositions, &maps,            &normalizer,
                               &pre_tokenizer, &decoder};
        for (size_t i = 0; i < kTables; i++)
            *all[i] = {data + be32(data + 32 + 8 * i), be32(data + 36 + 8 * i)};
    }

    // The bytes of a token; `id` is below `tokens`.
    std::string_view token(uint32_t id) const {
        const uint8_t *offsets = token_offsets.data + 4 * size_t{id};
        const uint32_t begin = be32(offsets);
        return {reinterpret_cast<const char *>(token_bytes.data) + begin, be32(offsets + 4) - begin};
    }
    std::string_view text_at(uint32_t offset, uint32_t length) const {
        return {reinterpret_cast<const char *>(text.data) + offset, length};
    }
    uint32_t byte_id(uint8_t byte) const { return be32(bytes.data + 4 * size_t{byte}); }
};

} // namespace n730
