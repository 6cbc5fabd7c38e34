// The pre-tokenizer: cuts a text into words by the steps of the program PRE_TOKENIZER.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "tokenizer_normalize.h"

namespace n730 {

class PreTokenizer {
  public:
    using Word = std::function<void(const uint8_t *begin, const uint8_t *end)>;

    explicit PreTokenizer(const TokenizerTables &tables)
        : tables_(tables), buffers_(tables.pre_tokenizer.size / TokenizerTables::kStep) {}

    // Calls `word` for each word in turn. What regular expressions see as the end of the text is the text's end.
    // False: the budget is spent.
    bool cut(const Piece &text, Budget &budget, const Word &word) { return run(0, text, budget, word); }

  private:
    bool run(size_t at, Piece text, Budget &budget, const Word &word);
    bool split(size_t at, const TextStep &step, const Piece &text, Budget &budget, const Word &word);

    const TokenizerTables &tables_;
    std::vector<std::string> buffers_; // what each step writes, if it does
};

} // namespace n730
