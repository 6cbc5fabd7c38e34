// Byte-pair encoding of one word, by the hash tables WORDS and MERGES.
#pragma once
#include <vector>

#include "tokenizer_tables.h"

namespace n730 {

class Bpe {
  public:
    explicit Bpe(const TokenizerTables &tables) : tables_(tables) {}

    // Appends the ids of the word. O(n log n). Keeps its memory from one call to the next.
    void append(const uint8_t *word, size_t n, std::vector<int32_t> &out);

  private:
    struct Merge {
        uint32_t rank; // kNoRank: the pair does not merge
        uint32_t id;
    };
    static constexpr uint32_t kNoRank = 0xFFFFFFFF;
    static constexpr size_t kShort = 48; // symbols up to which scanning beats a heap

    struct Symbol {
        uint32_t id;
        uint32_t prev, next; // index of the neighbours; kEnd: none
        Merge with_next;
    };
    static constexpr uint32_t kEnd = 0xFFFFFFFF;

    template <class Add> void start(const uint8_t *word, size_t n, Add add) const;
    Merge find_merge(uint32_t left, uint32_t right) const;
    void append_short(const uint8_t *word, size_t n, std::vector<int32_t> &out) const;
    void append_long(const uint8_t *word, size_t n, std::vector<int32_t> &out);

    const TokenizerTables &tables_;
    std::vector<Symbol> symbols_;
    std::vector<uint64_t> heap_; // rank << 32 | index of the left symbol, smallest on top
};

} // namespace n730
