// The CHAT section: a chat template as a small program (FORMAT.md, CHAT). Read where it lies; nothing is built.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <n730/bytes.h>

namespace n730::chat {

enum class Op : uint8_t {
    END,
    LINE,
    TEXT,
    PRINT,
    STRING,
    INTEGER,
    VALUE,
    LOAD,
    STORE,
    SET_ATTR,
    ATTR,
    ITEM,
    SLICE,
    LIST,
    MAPPING,
    NAMESPACE,
    UNPACK,
    APPEND,
    DUP,
    DROP,
    NOT,
    NEGATE,
    BINARY,
    CONCAT,
    COMPARE,
    JUMP,
    JUMP_FALSE,
    AND,
    OR,
    FOR,
    NEXT,
    FOR_ELSE,
    FOR_END,
    SCOPE,
    END_SCOPE,
    CAPTURE,
    CAPTURED,
    CALL,
    RETURN,
    GIVEN,
    BUILTIN,
    FOR_DONE,
    COUNT
};

constexpr int64_t INTEGER_BIAS = 1 << 23;
constexpr uint32_t CHAT_HEADER = 16, CHAT_VERSION = 1;

enum class Binary : uint8_t { ADD, SUB, MUL, FLOOR_DIV, MOD, COUNT };
enum class Compare : uint8_t { EQ, NE, LT, LE, GT, GE, IN, NOT_IN, COUNT };
enum class Constant : uint8_t { UNDEFINED, NONE, FALSE_, TRUE_, MISSING, COUNT };

enum class Builtin : uint8_t {
    RANGE,
    RAISE_EXCEPTION,
    STRFTIME_NOW,
    STRIP,
    LSTRIP,
    RSTRIP,
    SPLIT,
    RSPLIT,
    SPLITLINES,
    STARTSWITH,
    ENDSWITH,
    REMOVEPREFIX,
    REMOVESUFFIX,
    REPLACE,
    UPPER,
    LOWER,
    CAPITALIZE,
    TITLE,
    TITLE_FILTER,
    FIND,
    COUNT_OF,
    JOIN,
    JOIN_FILTER,
    GET,
    KEYS,
    VALUES,
    ITEMS,
    LENGTH,
    FIRST,
    LAST,
    LIST,
    REVERSED,
    INT,
    ABS,
    TOJSON,
    DEFAULT,
    CYCLE,
    IS_DEFINED,
    IS_NONE,
    IS_STRING,
    IS_MAPPING,
    IS_ITERABLE,
    IS_SEQUENCE,
    IS_NUMBER,
    IS_INTEGER,
    IS_BOOLEAN,
    IS_TRUE,
    IS_FALSE,
    DIVISIBLE,
    COUNT
};

// Does the section follow FORMAT.md? If not, `why` says what is wrong. An empty one does: the model has no template.
bool validate(const uint8_t *data, size_t size, std::string &why);

class Program {
  public:
    explicit Program(std::vector<uint8_t> section); // has passed `validate`

    bool empty() const { return section_.empty(); }
    uint32_t instruction(uint32_t at) const { return be32(code_ + 4 * size_t{at}); }
    uint32_t strings() const { return strings_; }
    std::string_view string(uint32_t index) const {
        const uint32_t begin = be32(offsets_ + 4 * size_t{index});
        return {text_ + begin, be32(offsets_ + 4 * size_t{index} + 4) - begin};
    }
    uint32_t entry(uint32_t macro) const { return be32(macros_ + 8 * size_t{macro}); }
    uint32_t parameters(uint32_t macro) const { return be32(macros_ + 8 * size_t{macro} + 4); }
    static constexpr uint32_t NO_STRING = ~uint32_t(0);
    uint32_t find(std::string_view text) const; // the first string that reads so; NO_STRING: none does

  private:
    std::vector<uint8_t> section_;
    const uint8_t *code_ = nullptr, *macros_ = nullptr, *offsets_ = nullptr;
    const char *text_ = nullptr;
    uint32_t strings_ = 0;
};

} // namespace n730::chat
