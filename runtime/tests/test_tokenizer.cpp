// The tokenizer on a section small enough to see through; tests/tokenizer compares it with the real library.
#include <doctest/doctest.h>

#include "tiny_tokenizer.h"
#include "tokenizer.h"
#include "tokenizer_split.h"

using namespace n730;
using namespace n730::testing;

namespace {

std::vector<int32_t> encode(const TinyTokenizer &tiny, const std::string &text, bool add_special = false) {
    std::vector<int32_t> ids;
    CHECK(Tokenizer(tiny.section.data(), tiny.section.size()).encode(text.data(), text.size(), add_special, ids));
    return ids;
}

std::vector<int32_t> bytes(const std::string &text) {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
    return ids;
}

// The words that the pattern cuts the text into, with a bar between them.
std::string cut(Pattern pattern, const std::string &text) {
    const TinyTokenizer tiny(pattern);
    const TokenizerTables tables(tiny.section.data());
    const uint8_t *p = reinterpret_cast<const uint8_t *>(text.data()), *end = p + text.size();
    std::string out;
    while (p < end) {
        const uint8_t *stop = word_end(tables, p, end);
        out += (out.empty() ? "" : "|") + std::string(p, stop);
        p = stop;
    }
    return out;
}

} // namespace

TEST_CASE("merges, added tokens and ids in front") {
    const TinyTokenizer tiny(Pattern::GPT2);
    std::string why;
    REQUIRE_MESSAGE(Tokenizer::validate(tiny.section.data(), tiny.section.size(), TINY_TOKENS, why), why);
    CHECK_FALSE(Tokenizer::validate(tiny.section.data(), tiny.section.size(), TINY_TOKENS - 1, why));
    CHECK(encode(tiny, "") == std::vector<int32_t>{});
    CHECK(encode(tiny, "", true) == std::vector<int32_t>{END});
    CHECK(encode(tiny, "the th") == std::vector<int32_t>{THE, ' ', TH});
    CHECK(encode(tiny, "t<|end|>he") == std::vector<int32_t>{'t', END, 'h', 'e'});
    CHECK(encode(tiny, "a \n<both>\t b") == std::vector<int32_t>{'a', BOTH, 'b'});
    CHECK(encode(tiny, "a <mask> b") == std::vector<int32_t>{'a', ' ', MASK, ' ', 'b'});
    CHECK(encode(tiny, "alone.alone") == std::vector<int32_t>{ALONE, '.', ALONE});
    CHECK(encode(tiny, "alone2") == bytes("alone2"));
    const Tokenizer tokenizer(tiny.section.data(), tiny.section.size());
    CHECK(tokenizer.piece(THE) == "the");
    CHECK(tokenizer.piece(-1).empty());
    CHECK(tokenizer.piece(TINY_TOKENS).empty());
    CHECK((tokenizer.is_special(END) && tokenizer.is_eos(END)));
    CHECK_FALSE((tokenizer.is_special(THE) || tokenizer.is_eos(-5)));
}

TEST_CASE("Normalization Form C") {
    const TinyTokenizer tiny(Pattern::QWEN2);
    const std::string acute = "\xCC\x81", cedilla = "\xCC\xA7", e_acute = "\xC3\xA9";
    CHECK(encode(tiny, "e" + acute) == bytes(e_acute));
    CHECK(encode(tiny, "e" + acute + cedilla) == bytes(e_acute + cedilla)); // the cedilla does not stand in the way
    CHECK(encode(tiny, "x" + acute + cedilla) == bytes("x" + cedilla + acute));
    CHECK(encode(tiny, e_acute + "e") == bytes(e_acute + "e"));
    CHECK(encode(tiny, "\xE1\x84\x80\xE1\x85\xA1") == bytes("\xE1\x84\x80\xE1\x85\xA1")); // jamo without their class bit
}

TEST_CASE("the three patterns") {
    CHECK(cut(Pattern::GPT2, "I'm  fine\n\n\tx 12345 ..a") == "I|'m| | fine|\n\n|\t|x| 12345| ..|a");
    CHECK(cut(Pattern::LLAMA3, "I'M  fine\n\n\tx 12345 ..\na") == "I|'M| | fine|\n\n|\tx| |123|45| ..\n|a");
    CHECK(cut(Pattern::QWEN2, "'\xC5\xBFx 123  \n  y  ") == "'\xC5\xBF|x| |1|2|3|  \n| | y|  ");
    CHECK(cut(Pattern::LLAMA3, "a\xFF\x80 b") == "a|\xFF\x80| b");
}

TEST_CASE("long runs take time in proportion") {
    // A quadratic encoder needs hours for these; the test run's own time limit is the judge.
    for (const Pattern pattern : {Pattern::GPT2, Pattern::LLAMA3, Pattern::QWEN2}) {
        const TinyTokenizer tiny(pattern);
        const size_t n = 300000;
        CHECK(encode(tiny, std::string(n, 'a')).size() == n);
        CHECK(encode(tiny, std::string(n, ' ')).size() == n);
        std::string marks, tokens;
        for (size_t i = 0; i < n / 4; i++) marks += "\xCC\x81\xCC\xA7";
        for (size_t i = 0; i < n / 8; i++) tokens += "  <both>";
        CHECK(encode(tiny, marks).size() == marks.size());
        CHECK(encode(tiny, tokens).size() == n / 8);
    }
}
