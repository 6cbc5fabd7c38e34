// The tokenizer on a section small enough to see through; tests/tokenizer compares it with the real library.
#include <doctest/doctest.h>

#include "tiny_tokenizer.h"
#include "tokenizer.h"
#include "tokenizer_decode.h"
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

// The words that the pre-tokenizer cuts the text into, with a bar between them.
std::string cut(TokenizerKind kind, const std::string &text) {
    const TinyTokenizer tiny(kind);
    const TokenizerTables tables(tiny.section.data());
    const uint8_t *p = reinterpret_cast<const uint8_t *>(text.data());
    std::string out;
    Budget budget(text.size());
    CHECK(PreTokenizer(tables).cut({p, p + text.size(), true}, budget, [&](const uint8_t *begin, const uint8_t *end) {
        out += (out.empty() ? "" : "|") + std::string(begin, end);
    }));
    return out;
}

std::string decode(const TinyTokenizer &tiny, const std::vector<int32_t> &ids, bool continues = false) {
    const Tokenizer tokenizer(tiny.section.data(), tiny.section.size());
    TokenStream stream(tokenizer, continues);
    std::string out;
    for (const int32_t id : ids) out += stream.push(id);
    return out += stream.flush();
}

} // namespace

TEST_CASE("merges, added tokens and ids in front") {
    const TinyTokenizer tiny(TokenizerKind::BYTE_BPE);
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
    CHECK(decode(tiny, {THE, 0xE2, 0x96, 'x', TINY_TOKENS, -1}) == "the\xEF\xBF\xBDx");
    const Tokenizer tokenizer(tiny.section.data(), tiny.section.size());
    CHECK(tokenizer.piece(THE) == "the");
    CHECK(tokenizer.piece(-1).empty());
    CHECK(tokenizer.piece(TINY_TOKENS).empty());
    CHECK((tokenizer.is_special(END) && tokenizer.is_eos(END)));
    CHECK_FALSE((tokenizer.is_special(THE) || tokenizer.is_eos(-5)));
}

TEST_CASE("Normalization Form C") {
    const TinyTokenizer tiny(TokenizerKind::BYTE_BPE);
    const std::string acute = "\xCC\x81", cedilla = "\xCC\xA7", e_acute = "\xC3\xA9";
    CHECK(encode(tiny, "e" + acute) == bytes(e_acute));
    CHECK(encode(tiny, "e" + acute + cedilla) == bytes(e_acute + cedilla)); // the cedilla does not stand in the way
    CHECK(encode(tiny, "x" + acute + cedilla) == bytes("x" + cedilla + acute));
    CHECK(encode(tiny, e_acute + "e") == bytes(e_acute + "e"));
    CHECK(encode(tiny, "\xE1\x84\x80\xE1\x85\xA1") == bytes("\xE1\x84\x80\xE1\x85\xA1")); // jamo without their class bit
}

TEST_CASE("words") {
    CHECK(cut(TokenizerKind::BYTE_BPE, "ab12 \xC3\xA9") == "ab|1|2| |\xC3\xA9");
    CHECK(cut(TokenizerKind::UNIGRAM, "a  b") == "\xE2\x96\x81|a\xE2\x96\x81|\xE2\x96\x81|b");
    CHECK(cut(TokenizerKind::WORD_PIECE, " ab.. c1") == "ab|c|1");
}

TEST_CASE("characters with a byte for what is missing") {
    const TinyTokenizer tiny(TokenizerKind::CHAR_BPE);
    std::string why;
    REQUIRE_MESSAGE(Tokenizer::validate(tiny.section.data(), tiny.section.size(), TINY_TOKENS, why), why);
    CHECK(encode(tiny, "the Qe") == std::vector<int32_t>{SPACE, THE, SPACE, THE}); // Q is th
    CHECK(encode(tiny, "X\xC3\xA9") == std::vector<int32_t>{SPACE, SPACE, 'X', SPACE, 0xC3, 0xA9});
    CHECK(decode(tiny, {SPACE, SPACE, THE, 0xC3, 0xA9, T, 0xC3, 0xC3, 0xA9}) == " the\xC3\xA9t\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
    CHECK(decode(tiny, {SPACE, THE}, true) == " the");
}

TEST_CASE("the best path") {
    const TinyTokenizer tiny(TokenizerKind::UNIGRAM);
    std::string why;
    REQUIRE_MESSAGE(Tokenizer::validate(tiny.section.data(), tiny.section.size(), TINY_TOKENS, why), why);
    CHECK(encode(tiny, " thethQ ") == std::vector<int32_t>{THE, TH, TH}); // what is stripped was the beginning
    CHECK(encode(tiny, "the") == std::vector<int32_t>{SPACE, THE});
    CHECK(encode(tiny, "theab<mask>\xC3\xA9") == std::vector<int32_t>{SPACE, THE, 'a', 'b', MASK, 0xC3, 0xA9});
    CHECK(decode(tiny, {SPACE, THE, SPACE}) == "the ");
}

TEST_CASE("the longest piece first") {
    const TinyTokenizer tiny(TokenizerKind::WORD_PIECE);
    std::string why;
    REQUIRE_MESSAGE(Tokenizer::validate(tiny.section.data(), tiny.section.size(), TINY_TOKENS, why), why);
    CHECK(encode(tiny, "the the x") == std::vector<int32_t>{TH, MORE_E, TH, MORE_E, UNKNOWN});
    CHECK(encode(tiny, "th" + std::string(18, 'e') + " th" + std::string(19, 'e')).size() == 20); // the second is too long
    CHECK(decode(tiny, {TH, MORE_E, T}) == "the t");
}

TEST_CASE("long runs take time in proportion") {
    // A quadratic encoder needs hours for these; the test run's own time limit is the judge.
    for (const TokenizerKind kind : {TokenizerKind::BYTE_BPE, TokenizerKind::CHAR_BPE, TokenizerKind::UNIGRAM, TokenizerKind::WORD_PIECE}) {
        const TinyTokenizer tiny(kind);
        const size_t n = 300000;
        std::string marks, tokens;
        for (size_t i = 0; i < n / 4; i++) marks += "\xCC\x81\xCC\xA7";
        for (size_t i = 0; i < n / 8; i++) tokens += "  <both>";
        CHECK(encode(tiny, std::string(n, 'a')).size() >= (kind == TokenizerKind::WORD_PIECE ? 1 : n));
        encode(tiny, std::string(n, ' '));
        encode(tiny, std::string(n, 't') + std::string(n, '1'));
        encode(tiny, marks);
        CHECK(encode(tiny, tokens).size() == n / 8);
    }
}
