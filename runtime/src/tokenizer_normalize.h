// The normalizer: the steps of the program NORMALIZER, one after the other, over a whole text.
#pragma once
#include <string>

#include "tokenizer_unicode.h"

namespace n730 {

// How many bytes the steps that write texts may still write: a package must not blow a prompt up.
class Budget {
  public:
    explicit Budget(size_t text) : left_(text * 128 + 4096) {}
    bool spend(size_t n) {
        if (n > left_) return false;
        left_ -= n;
        return true;
    }

  private:
    size_t left_;
};

// A text, and whether its first character is the first of everything that is encoded.
struct Piece {
    const uint8_t *begin, *end;
    bool first;
    size_t size() const { return static_cast<size_t>(end - begin); }
};

class Normalizer {
  public:
    explicit Normalizer(const TokenizerTables &tables) : tables_(tables), form_(tables) {}

    // `text` becomes its normalized form, which is valid until the next call. False: the budget is spent.
    bool run(Piece &text, Budget &budget);

  private:
    bool map(const TextStep &step, Piece &text, std::string &out, Budget &budget) const;
    void strip(const TextStep &step, Piece &text) const;
    const uint8_t *find(const TextStep &step, uint32_t code) const; // its record in MAPS, or null

    const TokenizerTables &tables_;
    NormalForm form_;
    std::string buffers_[2]; // a step reads from one and writes to the other
};

// Replaces each match of the step's automaton in `text` by the step's text, in `out`. False: the budget is spent.
bool replace(const TokenizerTables &tables, const TextStep &step, Piece &text, std::string &out, Budget &budget);

inline const uint8_t *bytes_of(std::string_view s) { return reinterpret_cast<const uint8_t *>(s.data()); }

} // namespace n730
