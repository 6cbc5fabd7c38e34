// Added tokens: those that are found in the text before it is cut into words (special tokens among them).
#pragma once
#include <vector>

#include "tokenizer_unicode.h"

namespace n730 {

// A piece of text, or an added token in its place.
struct Span {
    const uint8_t *begin;
    const uint8_t *end;
    uint32_t id; // kNoId: text
};

// Cuts the text at the added tokens of `table` (ADDED_RAW or ADDED_NORMALIZED) and appends the spans to `out`:
// leftmost first, longest first, each with its rules about the spaces and words beside it. Empty spans of text are left out.
void find_added(const TokenizerTables &tables, const Table &table, const uint8_t *begin, const uint8_t *end,
                std::vector<Span> &out);

} // namespace n730
