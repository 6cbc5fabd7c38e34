// The reader's first checks on handmade bytes; tests/hostile_packages holds the rest, for both validators.
#include "hash.h"
#include "package.h"

#include <doctest/doctest.h>

using namespace n730;

namespace {

std::string code_of(const std::vector<uint8_t> &bytes) {
    try {
        const MemorySource source(bytes.data(), bytes.size());
        read_package(source);
        return "OK";
    } catch (const PackageError &error) {
        return error.code;
    }
}

void put_be(std::vector<uint8_t> &bytes, size_t at, uint64_t value, size_t size) {
    for (size_t i = 0; i < size; ++i) bytes[at + i] = static_cast<uint8_t>(value >> 8 * (size - 1 - i));
}

// A header whose sections are all empty: right up to the first limit.
std::vector<uint8_t> header() {
    std::vector<uint8_t> bytes(HEADER_SIZE);
    std::copy(std::begin(MAGIC), std::end(MAGIC), bytes.begin());
    put_be(bytes, 8, 1, 2);
    put_be(bytes, 12, HEADER_SIZE, 4);
    put_be(bytes, 16, HEADER_SIZE, 8);
    put_be(bytes, 24, SECTION_COUNT, 4);
    for (size_t i = 0; i < SECTION_COUNT; ++i) {
        put_be(bytes, 32 + i * 32, i + 1, 4);
        put_be(bytes, 32 + i * 32 + 8, HEADER_SIZE, 8);
    }
    return bytes;
}

std::vector<uint8_t> sealed(std::vector<uint8_t> bytes) {
    put_be(bytes, HEADER_SIZE - 8, xxh3(bytes.data(), HEADER_SIZE - 8), 8);
    return bytes;
}

bool meta_ok(const std::string &json) {
    try {
        check_meta(std::vector<uint8_t>(json.begin(), json.end()));
        return true;
    } catch (const PackageError &error) {
        CHECK(error.code == "E_META");
        return false;
    }
}

std::string nested(int depth) { // an object and depth - 1 arrays in it
    return "{\"a\":" + std::string(size_t(depth - 1), '[') + std::string(size_t(depth - 1), ']') + "}";
}

} // namespace

TEST_CASE("the header is judged in the order that FORMAT.md gives") {
    CHECK(code_of({}) == "E_TRUNCATED");
    CHECK(code_of({0x89, 'N'}) == "E_TRUNCATED");
    CHECK(code_of(std::vector<uint8_t>(8, 'G')) == "E_MAGIC");
    std::vector<uint8_t> bytes = header();
    CHECK(code_of(bytes) == "E_HEADER_CHECKSUM");
    CHECK(code_of({bytes.begin(), bytes.end() - 1}) == "E_TRUNCATED");
    CHECK(code_of(sealed(bytes)) == "E_SECTION"); // the first limit: SEGMENTS must not be empty
    const auto changed = [&](size_t at, uint64_t value, size_t size) {
        std::vector<uint8_t> copy = header();
        put_be(copy, at, value, size);
        return code_of(sealed(copy));
    };
    CHECK(changed(8, 2, 2) == "E_VERSION");
    CHECK(changed(10, 1, 2) == "E_VERSION");
    CHECK(changed(12, 8192, 4) == "E_HEADER");
    CHECK(changed(24, 16, 4) == "E_HEADER");
    CHECK(changed(28, 1, 4) == "E_HEADER");
    CHECK(changed(3000, 1, 1) == "E_HEADER");
    CHECK(changed(16, 4095, 8) == "E_HEADER"); // the file is longer
    CHECK(changed(16, 4097, 8) == "E_TRUNCATED");
    CHECK(changed(16, ~uint64_t(0), 8) == "E_TRUNCATED");
    CHECK(changed(32, 2, 4) == "E_SECTION");
    CHECK(changed(36, 1, 4) == "E_SECTION");
    CHECK(changed(40, 4095, 8) == "E_SECTION");
    CHECK(changed(48, ~uint64_t(0), 8) == "E_SECTION"); // nothing is allocated on its word
}

TEST_CASE("a file that cannot be read") {
    class Broken : public Source {
      public:
        uint64_t size() const override { return 8192; }
        bool read(uint64_t, void *, size_t) const override { return false; }
    };
    const Broken broken;
    CHECK_THROWS_WITH(read_package(broken), doctest::Contains("E_OPEN"));
}

TEST_CASE("META is one JSON object and nothing else") {
    for (const char *good :
         {"{}", " {\"a\": [1, -2.5e3, true, null, \"\\u00e9\\ud83d\\ude00\"]}\n", "{\"a\":1,\"a\":2}", "{\"a\":1e308}"})
        CHECK_MESSAGE(meta_ok(good), good);
    for (const char *bad :
         {"", "[]", "1", "null", "{", "{} {}", "{}x", "\xEF\xBB\xBF{}", "{\"a\":NaN}", "{\"a\":1e999}", "{'a':1}",
          "{\"a\":1,}", "{\"a\":\"\xFF\"}", "{\"a\":\"\\ud800\"}", "{\"a\":01}", "{\"a\":\"\t\"}", "/**/{}"})
        CHECK_MESSAGE(!meta_ok(bad), bad);
    CHECK(meta_ok(nested(64)));
    CHECK_FALSE(meta_ok(nested(65)));
    CHECK_FALSE(meta_ok(std::string(1 << 20, '[')));
    CHECK_FALSE(meta_ok(std::string("{}\0", 3)));
}
