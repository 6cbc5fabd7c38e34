// Finding tokens by their text: whole (table WORDS), or byte by byte along a text (table SORTED).
#pragma once
#include "tokenizer_tables.h"

namespace n730 {

// The token of WORDS with this text; kNoId: there is none.
uint32_t find_word(const TokenizerTables &tables, const uint8_t *word, size_t n);

// Walks along a text and says where tokens of SORTED end. Each step takes O(log tokens).
class TokenWalk {
  public:
    explicit TokenWalk(const TokenizerTables &tables) : tables_(tables) {}

    // Reads one more byte. False: no token begins with what was read.
    bool step(uint8_t byte) {
        if (depth_ == 0) {
            lo_ = be32(tables_.sorted.data + 4 * size_t{byte});
            hi_ = be32(tables_.sorted.data + 4 * size_t{byte} + 4);
        } else {
            // Tokens [lo, hi) begin with what was read so far; the first of them is the shortest.
            if (token(lo_).size() == depth_) lo_++;
            lo_ = bound(byte);
            if (byte != 255) hi_ = bound(byte + 1u);
        }
        depth_++;
        return lo_ < hi_;
    }
    // The token that ends here, after step() has said true; kNoId: none.
    uint32_t id() const { return token(lo_).size() == depth_ ? id_at(lo_) : kNoId; }

  private:
    uint32_t id_at(uint32_t i) const { return be32(tables_.sorted.data + TokenizerTables::kIndex + 4 * size_t{i}); }
    std::string_view token(uint32_t i) const { return tables_.token(id_at(i)); }

    // First token in [lo, hi), all longer than the depth, whose byte there is at least `byte`.
    uint32_t bound(uint32_t byte) const {
        uint32_t lo = lo_, hi = hi_;
        while (lo < hi) {
            const uint32_t mid = lo + (hi - lo) / 2;
            if (static_cast<uint8_t>(token(mid)[depth_]) < byte)
                lo = mid + 1;
            else
                hi = mid;
        }
        return lo;
    }

    const TokenizerTables &tables_;
    uint32_t lo_ = 0, hi_ = 0;
    size_t depth_ = 0;
};

} // namespace n730
