// Damages a small TOKENIZER section, and encodes and decodes with what still passes the validator.
// Input: a kind, a number of edits (offset: two bytes, value: one), then the text.
#include "../tests/tiny_tokenizer.h"
#include "tokenizer.h"
#include "tokenizer_decode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace n730;
    if (size < 2) return 0;
    std::vector<uint8_t> section = testing::TinyTokenizer(static_cast<TokenizerKind>(1 + data[0] % 4)).section;
    const size_t edits = data[1] % 8;
    const uint8_t *p = data + 2, *end = data + size;
    for (size_t i = 0; i < edits && end - p >= 3; i++, p += 3) section[be16(p) % section.size()] = p[2];
    section.shrink_to_fit();
    std::string why;
    if (!Tokenizer::validate(section.data(), section.size(), testing::TINY_TOKENS, why)) return 0;

    const Tokenizer tokenizer(section.data(), section.size());
    std::vector<int32_t> ids;
    tokenizer.encode(reinterpret_cast<const char *>(p), static_cast<size_t>(end - p), true, ids);
    for (const int32_t id : ids)
        if (id < 0 || static_cast<uint32_t>(id) >= tokenizer.tokens()) __builtin_trap();
    TokenStream stream(tokenizer);
    for (; p < end; p++) ids.push_back(*p + 16 * (*p % 17)); // tokens that encoding does not make
    for (const int32_t id : ids) {
        const std::string_view text = stream.push(id);
        if (utf8_valid_length(text) != text.size()) __builtin_trap();
    }
    stream.flush();
    return 0;
}
