// A C door to the runtime's tokenizer for ctypes.
#include <algorithm>
#include <cstring>

#include "tokenizer.h"
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

// Bytes of each word that the pattern cuts the text into; `lengths` has room for n numbers. Returns how many.
size_t words(const uint8_t *data, const uint8_t *text, size_t n, uint32_t *lengths) {
    const n730::TokenizerTables tables(data);
    size_t count = 0;
    for (const uint8_t *p = text, *end = text + n; p < end; count++) {
        const uint8_t *stop = n730::word_end(tables, p, end);
        lengths[count] = static_cast<uint32_t>(stop - p);
        p = stop;
    }
    return count;
}

int flags(const uint8_t *data, size_t size, int32_t id) {
    const n730::Tokenizer tokenizer(data, size);
    return (tokenizer.is_special(id) ? 1 : 0) | (tokenizer.is_eos(id) ? 2 : 0);
}
}
