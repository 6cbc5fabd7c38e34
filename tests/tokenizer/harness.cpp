// A C door to the runtime's tokenizer for ctypes.
#include <algorithm>
#include <cstring>

#include "tokenizer.h"
#include "tokenizer_decode.h"
#include "tokenizer_split.h"

extern "C" {

// 0: valid; otherwise the fault is in `why` (at most 255 bytes and a zero).
int validate(const uint8_t *data, size_t size, uint32_t vocab, char *why) {
    std::string fault;
    if (n730::Tokenizer::validate(data, size, vocab, fault)) return 0;
    why[fault.copy(why, 255)] = 0;
    return 1;
}

// Number of ids; the first `capacity` of them are in `ids`.
size_t encode(const uint8_t *data, size_t size, const char *text, size_t n, int add_special, int32_t *ids, size_t capacity) {
    std::vector<int32_t> out;
    n730::Tokenizer(data, size).encode(text, n, add_special != 0, out);
    std::copy_n(out.begin(), std::min(capacity, out.size()), ids);
    return out.size();
}

// Length of the token's bytes; `bytes` points at them.
size_t piece(const uint8_t *data, size_t size, int32_t id, const char **bytes) {
    const std::string_view found = n730::Tokenizer(data, size).piece(id);
    *bytes = found.data();
    return found.size();
}

// Bytes of each word that the pre-tokenizer cuts the text into; `lengths` has room for 2 n + 1 numbers. Returns how many.
size_t words(const uint8_t *data, const uint8_t *text, size_t n, uint32_t *lengths) {
    const n730::TokenizerTables tables(data);
    n730::Budget budget(n);
    size_t count = 0;
    n730::PreTokenizer(tables).cut({text, text + n, true}, budget, [&](const uint8_t *begin, const uint8_t *end) {
        lengths[count++] = static_cast<uint32_t>(end - begin);
    });
    return count;
}

// The text of the ids, put together from what a stream gives for each. Returns its length; the first `capacity` bytes are
// in `text`.
size_t decode(const uint8_t *data, size_t size, const int32_t *ids, size_t count, int skip_special, int continues,
              char *text, size_t capacity) {
    const n730::Tokenizer tokenizer(data, size);
    n730::TokenStream stream(tokenizer, continues != 0);
    std::string out;
    for (size_t i = 0; i < count; i++)
        if (!skip_special || !tokenizer.is_special(ids[i])) out += stream.push(ids[i]);
    out += stream.flush();
    out.copy(text, capacity);
    return out.size();
}

int flags(const uint8_t *data, size_t size, int32_t id) {
    const n730::Tokenizer tokenizer(data, size);
    return (tokenizer.is_special(id) ? 1 : 0) | (tokenizer.is_eos(id) ? 2 : 0);
}
}
