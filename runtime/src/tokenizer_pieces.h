// Words to tokens by whole pieces of the vocabulary: the most likely path (Unigram), or the longest first (WordPiece).
#pragma once
#include <vector>

#include "tokenizer_tables.h"

namespace n730 {

class Unigram {
  public:
    explicit Unigram(const TokenizerTables &tables) : tables_(tables) {}

    // Appends the ids of the path with the highest sum of scores, added up in double precision from the left; of
    // equal ones, the one whose last token is the longest. O(n × longest token). Keeps its memory.
    void append(const uint8_t *word, size_t n, std::vector<int32_t> &out);

  private:
    struct Node { // the best path to a place in the word
        double score;
        uint32_t begin; // of its last token; kNone: there is no path
        uint32_t id;
    };
    static constexpr uint32_t kNone = 0xFFFFFFFF;
    void append_unknown(const uint8_t *word, size_t n, std::vector<int32_t> &out) const;

    const TokenizerTables &tables_;
    std::vector<Node> nodes_;
    std::vector<uint32_t> ends_; // of the path's tokens, the last first
};

class WordPiece {
  public:
    explicit WordPiece(const TokenizerTables &tables) : tables_(tables) {}

    // Appends the ids of the word, or the unknown token. O(n × longest token).
    void append(const uint8_t *word, size_t n, std::vector<int32_t> &out) const;

  private:
    const TokenizerTables &tables_;
};

} // namespace n730
