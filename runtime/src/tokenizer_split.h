// The pre-tokenizer: cuts text into words by the pattern of the model's tokenizer, with hand-written state machines.
#pragma once
#include "tokenizer_unicode.h"

namespace n730 {

// End of the word that begins at `p`, which is before `end`. What the regular expressions see as the end of
// the text is `end`. The tables say which pattern it is.
const uint8_t *word_end(const TokenizerTables &tables, const uint8_t *p, const uint8_t *end);

} // namespace n730
