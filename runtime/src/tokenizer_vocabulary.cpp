#include "tokenizer_vocabulary.h"

namespace n730 {

uint32_t find_word(const TokenizerTables &tables, const uint8_t *word, size_t n) {
    if (n > tables.longest_word) return kNoId;
    uint64_t hash = 0xCBF29CE484222325; // FNV-1a
    for (size_t i = 0; i < n; i++) hash = (hash ^ word[i]) * 0x100000001B3;
    hash = (hash ^ hash >> 32) * kHashFactor;
    const uint32_t capacity = tables.words.size / 4;
    const uint32_t print = hash >> 24 & 0xFF;
    uint32_t slot = static_cast<uint32_t>((hash >> 32) * capacity >> 32);
    for (uint32_t probe = 0; probe < tables.word_probes; probe++) {
        const uint32_t entry = be32(tables.words.data + 4 * size_t{slot});
        if (entry == 0xFFFFFFFF) return kNoId;
        if (entry >> 24 == print) {
            const std::string_view token = tables.token(entry & 0xFFFFFF);
            if (token.size() == n && std::memcmp(token.data(), word, n) == 0) return entry & 0xFFFFFF;
        }
        if (++slot == capacity) slot = 0;
    }
    return kNoId;
}

} // namespace n730
