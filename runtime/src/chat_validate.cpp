// The CHAT section by FORMAT.md: all that can be seen without running the program.
#include "chat_program.h"
#include "utf8.h"

namespace n730::chat {

namespace {

constexpr uint32_t MOST_INSTRUCTIONS = 1 << 18, MOST_STRINGS = 1 << 18, MOST_MACROS = 1 << 10, MOST_OPERANDS = 255;

struct Range {
    uint8_t least, most;
};

// Operands of each builtin, in their order.
constexpr Range OPERANDS[] = {
    {1, 3}, {1, 1}, {1, 1}, {1, 2}, {1, 2}, {1, 2}, {1, 3}, {1, 3}, {1, 1}, {2, 2}, {2, 2}, {2, 2},
    {2, 2}, {3, 4}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {2, 2}, {2, 2}, {2, 2}, {2, 2}, {2, 3}, {1, 1},
    {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 2}, {1, 1}, {1, 2}, {2, 3}, {2, MOST_OPERANDS},
    {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {2, 2},
};
static_assert(sizeof OPERANDS / sizeof *OPERANDS == size_t(Builtin::COUNT), "one row a builtin");

bool builtin_fits(uint32_t operand) {
    const uint32_t number = operand >> 8, count = operand & 255;
    return number < uint32_t(Builtin::COUNT) && count >= OPERANDS[number].least && count <= OPERANDS[number].most;
}

struct Counts {
    uint32_t instructions, strings, macros;
};

bool fits(uint32_t word, const Counts &counts) {
    const uint32_t operand = word & 0xFFFFFF;
    if (word >> 24 >= uint32_t(Op::COUNT)) return false;
    switch (Op(word >> 24)) {
    case Op::TEXT:
    case Op::STRING:
    case Op::LOAD:
    case Op::STORE:
    case Op::SET_ATTR:
    case Op::ATTR: return operand < counts.strings;
    case Op::JUMP:
    case Op::JUMP_FALSE:
    case Op::AND:
    case Op::OR:
    case Op::NEXT:
    case Op::FOR_ELSE:
    case Op::GIVEN: return operand < counts.instructions;
    case Op::CALL: return operand < counts.macros;
    case Op::BUILTIN: return builtin_fits(operand);
    case Op::LINE:
    case Op::INTEGER: return true;
    case Op::VALUE: return operand < uint32_t(Constant::COUNT);
    case Op::BINARY: return operand < uint32_t(Binary::COUNT);
    case Op::COMPARE: return operand < uint32_t(Compare::COUNT);
    case Op::LIST:
    case Op::UNPACK:
    case Op::CONCAT: return operand <= MOST_OPERANDS;
    case Op::MAPPING:
    case Op::NAMESPACE: return operand <= MOST_OPERANDS / 2;
    default: return operand == 0;
    }
}

} // namespace

bool validate(const uint8_t *data, size_t size, std::string &why) {
    const auto wrong = [&](const std::string &what) {
        why = what;
        return false;
    };
    if (size == 0) return true;
    if (size < CHAT_HEADER) return wrong("CHAT is cut");
    const Counts counts = {be32(data + 4), be32(data + 8), be32(data + 12)};
    if (be32(data) != CHAT_VERSION) return wrong("version of CHAT");
    if (counts.instructions < 1 || counts.instructions > MOST_INSTRUCTIONS || counts.strings > MOST_STRINGS ||
        counts.macros > MOST_MACROS)
        return wrong("counts of CHAT");
    const uint8_t *code = data + CHAT_HEADER, *macros = code + 4 * size_t{counts.instructions};
    const uint64_t texts = CHAT_HEADER + 4 * uint64_t{counts.instructions} + 8 * uint64_t{counts.macros} +
                           4 * (uint64_t{counts.strings} + 1);
    if (texts > size) return wrong("CHAT is cut");
    const uint8_t *offsets = macros + 8 * size_t{counts.macros};
    uint32_t begin = be32(offsets);
    if (begin != 0 || be32(offsets + 4 * size_t{counts.strings}) != size - texts)
        return wrong("string offsets of CHAT");
    for (uint32_t i = 1; i <= counts.strings; ++i) {
        const uint32_t end = be32(offsets + 4 * size_t{i});
        if (end < begin || end > size - texts) return wrong("string offsets of CHAT");
        const std::string_view text(reinterpret_cast<const char *>(data) + texts + begin, end - begin);
        if (utf8_valid_length(text) != text.size()) return wrong("string " + std::to_string(i - 1) + " of CHAT");
        begin = end;
    }
    for (uint32_t i = 0; i < counts.macros; ++i)
        if (be32(macros + 8 * size_t{i}) >= counts.instructions || be32(macros + 8 * size_t{i} + 4) > MOST_OPERANDS)
            return wrong("macro " + std::to_string(i) + " of CHAT");
    for (uint32_t i = 0; i < counts.instructions; ++i)
        if (!fits(be32(code + 4 * size_t{i}), counts)) return wrong("instruction " + std::to_string(i) + " of CHAT");
    const Op last = Op(code[4 * size_t{counts.instructions} - 4]);
    if (last != Op::END && last != Op::JUMP && last != Op::RETURN)
        return wrong("CHAT does not end with END, JUMP or RETURN");
    return true;
}

Program::Program(std::vector<uint8_t> section) : section_(std::move(section)) {
    if (section_.empty()) return;
    code_ = section_.data() + CHAT_HEADER;
    macros_ = code_ + 4 * size_t{be32(section_.data() + 4)};
    strings_ = be32(section_.data() + 8);
    offsets_ = macros_ + 8 * size_t{be32(section_.data() + 12)};
    text_ = reinterpret_cast<const char *>(offsets_ + 4 * (size_t{strings_} + 1));
}

uint32_t Program::find(std::string_view text) const {
    for (uint32_t i = 0; i < strings_; ++i)
        if (string(i) == text) return i;
    return NO_STRING;
}

} // namespace n730::chat
