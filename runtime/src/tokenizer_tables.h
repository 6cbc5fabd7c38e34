// Where things lie in a TOKENIZER section (FORMAT.md, section 6), and how its numbers are read.
#pragma once
#include "../include/n730/bytes.h"

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace n730 {

inline uint32_t be24(const uint8_t *p) { return uint32_t{p[0]} << 16 | uint32_t{p[1]} << 8 | p[2]; }

constexpr uint32_t kNoId = 0xFFFFFFFF;   // no token (BYTES, WORDS)
constexpr uint32_t kMaxId = 0xFFFFFE;    // ids are 24 bits wide in the hash tables; all ones mark an empty slot
constexpr uint64_t kHashFactor = 0x9E3779B97F4A7C15;

enum TokenFlag : uint8_t { TOKEN_SPECIAL = 1, TOKEN_EOS = 2 };
enum AddedFlag : uint8_t { ADDED_LSTRIP = 1, ADDED_RSTRIP = 2, ADDED_SINGLE_WORD = 4 };
enum class Pattern : uint8_t { GPT2 = 1, LLAMA3 = 2, QWEN2 = 3 };

struct Table {
    const uint8_t *data = nullptr;
    uint32_t size = 0; // bytes
};

struct TokenizerTables {
    static constexpr size_t kHeader = 160;
    static constexpr size_t kTables = 16;
    static constexpr size_t kAddedFirst = 257 * 4; // bytes of the first-byte index before the records of an ADDED table

    uint32_t kind, tokens;
    uint8_t pattern, normalizer, prefix_space;
    uint32_t longest_word, merge_probes, word_probes;
    Table token_offsets, token_bytes, token_flags, bytes, merges, words, added_raw, added_normalized, added_text;
    Table prefix, suffix, class_index, class_pages, chars, decompositions, compositions;

    // Reads the header. `data` holds at least kHeader bytes; nothing has been checked yet.
    explicit TokenizerTables(const uint8_t *data)
        : kind(be32(data)), tokens(be32(data + 4)), pattern(data[8]), normalizer(data[9]), prefix_space(data[10]),
          longest_word(be32(data + 12)), merge_probes(be16(data + 16)), word_probes(be16(data + 18)) {
        Table *all[kTables] = {&token_offsets, &token_bytes, &token_flags,      &bytes,
                               &merges,        &words,       &added_raw,        &added_normalized,
                               &added_text,    &prefix,      &suffix,           &class_index,
                               &class_pages,   &chars,       &decompositions,   &compositions};
        for (size_t i = 0; i < kTables; i++)
            *all[i] = {data + be32(data + 32 + 8 * i), be32(data + 36 + 8 * i)};
    }
};

} // namespace n730
