// Big-endian fields, ranges, sizes as people write them, and the choice of a plan.
#include "model.h"
#include "n730/format.h"
#include "text.h"

#include <cmath>
#include <doctest/doctest.h>

using namespace n730;

TEST_CASE("fields are big-endian") {
    const uint8_t bytes[8] = {0x40, 0x49, 0x0F, 0xDB, 0xFF, 0x00, 0x80, 0x01};
    CHECK(be16(bytes) == 0x4049);
    CHECK(be32(bytes) == 0x40490FDB);
    CHECK(be64(bytes) == 0x40490FDBFF008001);
    CHECK(be_f32(bytes) == 3.14159274f);
    const uint8_t one[8] = {0x3F, 0xF0};
    CHECK(be_f64(one) == 1.0);
}

TEST_CASE("ranges at the edge of 64 bits do not wrap") {
    const uint64_t most = ~uint64_t(0);
    CHECK(inside(0, 0, 0));
    CHECK(inside(4, 6, 10));
    CHECK_FALSE(inside(5, 6, 10));
    CHECK_FALSE(inside(most, 2, 10));
    CHECK_FALSE(inside(2, most, 10));
    CHECK(inside(most, 0, most));
    CHECK(round_up(0, 64) == 0);
    CHECK(round_up(1, 64) == 64);
    CHECK(round_up(64, 64) == 64);
}

TEST_CASE("sizes of tensors and buffers") {
    CHECK(matrix_bytes(Format::F16, 17, 3) == 2 * 16 * 3 * 2);
    CHECK(matrix_bytes(Format::INT8, 16, 32) == 32 + 512);
    CHECK(matrix_bytes(Format::INT4, 17, 33) == 2 * 2 * (32 + 256));
    CHECK(matrix_bytes(Format::INT2, 1, 1) == 32 + 128);
    CHECK(matrix_bytes(Format::INT3, 16, 256) == 96 + 8 * 192);
    CHECK(matrix_bytes(Format::NL4, 17, 257) == 2 * (2 * 96 + 9 * 256));
    CHECK(matrix_bytes(Format::INT5, 1, 32) == 96 + 320);
    CHECK(matrix_bytes(Format::INT6, 1, 33) == 96 + 2 * 384);
    CHECK(Buffer{BufferKind::F32, Scope::BODY, 17}.token_bytes() == 128);
    CHECK(Buffer{BufferKind::Q8, Scope::BODY, 33}.token_bytes() == 128); // 64 values, 2 scales, 2 sums
    CHECK(Buffer{BufferKind::Q16, Scope::BODY, 33}.token_bytes() == 256);
    CHECK(Cache{2, 8, 0, Format::F16}.bytes(3, 1) == 192);
    CHECK(Cache{2, 8, 0, Format::F32}.bytes(3, 1) == 384);
    CHECK(Cache{2, 8, 0, Format::INT8}.bytes(3, 1) == 192); // 2 × 2 × 3 rows of 8 + 4 bytes, rounded up
}

TEST_CASE("sizes as people write them") {
    uint64_t bytes = 0;
    const auto parsed = [&](const char *text) { return parse_size(text, bytes) ? bytes : 0; };
    CHECK(parsed("4096") == 4096);
    CHECK(parsed("512M") == uint64_t(512) << 20);
    CHECK(parsed("1.5G") == uint64_t(3) << 29);
    CHECK(parsed("2GiB") == uint64_t(2) << 30);
    CHECK(parsed("2gB") == uint64_t(2) << 30);
    CHECK(parsed("1T") == uint64_t(1) << 40);
    CHECK(parsed("100B") == 100);
    for (const char *bad :
         {"", "M", "-1M", "1X", "1.2.3M", "1 M", "0", "0.1", "1e3", "inf", "nan", "0x10", "99999999T", "1MM", "1iB"})
        CHECK_MESSAGE(parsed(bad) == 0, bad);
    CHECK(format_size(100) == "100 bytes");
    CHECK(format_size(uint64_t(3) << 29) == "1.50 GiB");
    for (const uint64_t size : {uint64_t(100), uint64_t(1025), uint64_t(708206593), uint64_t(1) << 30, (uint64_t(3) << 29) + 1}) {
        std::string shown = format_need(size);
        shown = shown.substr(0, shown.find(' ')) + (size == 100 ? "" : shown.substr(shown.find(' ') + 1, 1));
        uint64_t read = 0;
        REQUIRE(parse_size(shown, read));
        CHECK(read >= size); // what is shown is enough
        CHECK(static_cast<double>(read) <= 1.01 * static_cast<double>(size));
    }
}

TEST_CASE("JSON is escaped and never holds what JSON has no word for") {
    CHECK(json_string("a\"b\\c\n\x01\xFF") == "\"a\\\"b\\\\c\\u000a\\u0001\xEF\xBF\xBD\"");
    CHECK(JsonObject().add("x", 1.5).add("y", HUGE_VAL).add("n", uint64_t(7)).text() ==
          R"({"x": 1.5, "y": null, "n": 7})");
    CHECK(json_array(std::vector<int>{1, 2}, [](int i) { return std::to_string(i); }) == "[1, 2]");
}

TEST_CASE("the fastest plan that fits is taken, of equals the first") {
    Package package;
    for (const uint64_t mib : {4000, 2000, 1000}) {
        Plan plan{};
        plan.arena_bytes = mib << 20;
        package.plans.push_back(plan);
    }
    const auto taken = [&](uint64_t ram_mib, uint64_t free_mib) -> int {
        const PlanChoice choice = choose_plan(package, ram_mib << 20, free_mib << 20);
        CHECK_FALSE(choice.why.empty());
        return choice.plan ? static_cast<int>(*choice.plan) : -1;
    };
    CHECK(taken(0, 0) == 0); // nothing known, nothing asked
    CHECK(taken(0, 8000) == 0);
    CHECK(taken(0, 4012) == 0); // with what the process takes beside
    CHECK(taken(0, 4011) == 1);
    CHECK(taken(4012, 8000) == 0);
    CHECK(taken(4011, 8000) == 1);
    CHECK(taken(4012, 1500) == 2);
    CHECK(taken(1011, 8000) == -1);
    CHECK(taken(0, 1000) == -1);
    package.plans[2].decode_tokens_per_s = 2.0;
    package.plans[1].decode_tokens_per_s = 1.0;
    CHECK(taken(0, 0) == 2);
    package.plans[1].decode_tokens_per_s = 3.0;
    CHECK(taken(0, 8000) == 1);
    CHECK(taken(0, 1500) == 2);
    package.plans[1].vram_bytes = 1 << 20; // the driver takes memory, too
    for (const uint64_t mib : {5, 6}) {
        const auto fits = [](size_t, uint64_t spare) { return spare >= uint64_t(5) << 20; };
        CHECK(*choose_plan(package, (2011 + mib) << 20, 0, fits).plan == (mib == 5 ? 2 : 1));
    }
}
