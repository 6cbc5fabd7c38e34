// The tokenizer: text to token ids by the tables of the TOKENIZER section (FORMAT.md, section 6).
//
// The tables are read where they lie, in the memory arena; nothing is copied or built. `encode` keeps no state,
// so any number of threads may use one Tokenizer.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer_tables.h"

namespace n730 {

class Tokenizer {
  public:
    static constexpr size_t kMaxText = size_t{1} << 30; // bytes of one text

    // Does the section follow FORMAT.md, for a model with `vocab` tokens? If not, `why` says what is wrong.
    static bool validate(const uint8_t *data, size_t size, uint32_t vocab, std::string &why);

    // `data` has passed `validate` and outlives the tokenizer.
    Tokenizer(const uint8_t *data, size_t size);

    // Appends the ids of `text` to `out`, with the ids that belong in front and behind if `add_special`.
    // Any bytes are safe; a byte that is no UTF-8 counts as a character of its own. Takes O(n log n) time (times the
    // longest token, for Unigram and WordPiece) and O(n) memory. False, and nothing appended, if the text is longer
    // than kMaxText, or if the normalizer blows it up more than any real one does.
    bool encode(const char *text, size_t n, bool add_special, std::vector<int32_t> &out) const;

    // The token as the vocabulary has it: of byte-level tokenizers the bytes that it stands for, of others its text (in
    // which other characters may stand for spaces; TokenStream makes text of it). Empty for ids without a token.
    std::string_view piece(int32_t id) const;
    bool is_special(int32_t id) const { return flags(id) & TOKEN_SPECIAL; } // not part of the text when decoded
    bool is_eos(int32_t id) const { return flags(id) & TOKEN_EOS; }         // ends generation
    uint32_t tokens() const { return tables_.tokens; }                      // ids are 0 … tokens - 1
    const TokenizerTables &tables() const { return tables_; }

  private:
    uint8_t flags(int32_t id) const;

    TokenizerTables tables_;
};

} // namespace n730
