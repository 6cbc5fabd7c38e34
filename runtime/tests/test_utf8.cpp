// Streams of bytes come out as whole characters, whatever the pieces they came in.
#include "utf8.h"
#include "sampler.h"

#include <doctest/doctest.h>

using n730::utf8_valid_length;
using n730::Utf8Stream;

namespace {

const std::string BAD = "\xEF\xBF\xBD";

std::string all_at_once(const std::string &bytes) {
    Utf8Stream stream;
    std::string out(stream.push(bytes));
    out += stream.flush();
    return out;
}

} // namespace

TEST_CASE("invalid bytes become U+FFFD by maximal subparts, as Unicode's table 3-8 and Rust have it") {
    CHECK(all_at_once("plain \xC3\xA4 \xE2\x82\xAC \xF0\x9F\x98\x80") ==
          "plain \xC3\xA4 \xE2\x82\xAC \xF0\x9F\x98\x80");
    CHECK(all_at_once("a\xF1\x80\x80\xE1\x80\xC2"
                      "b") == "a" + BAD + BAD + BAD + "b");
    CHECK(all_at_once("\x80\xBF") == BAD + BAD);
    CHECK(all_at_once("\xC0\xAF") == BAD + BAD);                     // overlong
    CHECK(all_at_once("\xE0\x80\xAF") == BAD + BAD + BAD);           // overlong
    CHECK(all_at_once("\xED\xA0\x80") == BAD + BAD + BAD);           // surrogate
    CHECK(all_at_once("\xF4\x90\x80\x80") == BAD + BAD + BAD + BAD); // beyond U+10FFFF
    CHECK(all_at_once("\xF0\x9F\x98") == BAD);                       // cut at the end
    CHECK(all_at_once("\xE2\x82"
                      "A") == BAD + "A");
}

TEST_CASE("pieces give what the whole gives, and every piece is whole characters") {
    n730::Random random(7);
    const uint8_t interesting[] = {'a',  0x80, 0xBF, 0xC2, 0xE0, 0xA0, 0xED, 0x9F, 0xEF,
                                   0xF0, 0x90, 0xF4, 0x8F, 0xFF, 0xE2, 0x82, 0xAC};
    for (int round = 0; round < 2000; ++round) {
        std::string bytes;
        for (size_t n = random.next() % 24; n > 0; --n)
            bytes.push_back(static_cast<char>(interesting[random.next() % sizeof interesting]));
        Utf8Stream stream;
        std::string pieces;
        for (size_t at = 0; at < bytes.size();) {
            const size_t n = 1 + random.next() % 5;
            const std::string piece(stream.push(std::string_view(bytes).substr(at, n)));
            REQUIRE(utf8_valid_length(piece) == piece.size());
            pieces += piece;
            at += n;
        }
        pieces += stream.flush();
        REQUIRE(pieces == all_at_once(bytes));
    }
}

TEST_CASE("the offset of the first invalid byte") {
    CHECK(utf8_valid_length("abc") == 3);
    CHECK(utf8_valid_length("abc \xFF\xFE") == 4);
    CHECK(utf8_valid_length("\xE2\x82\xAC\xE2\x82") == 3);
    CHECK(utf8_valid_length("") == 0);
}
