#include "chat_builtins.h"
#include "chat_text.h"

#include <algorithm>

namespace n730::chat {

namespace {

constexpr int64_t LONGEST_RANGE = 100000; // as in sandboxed Jinja

std::string_view text_of(const Value &value) {
    if (value.undefined()) fail_undefined(value);
    if (!value.is_text()) throw Failure{std::string("a method of texts on ") + kind_name(value)};
    return value.view();
}

int64_t integer_of(const Value &value) {
    if (value.undefined()) fail_undefined(value);
    if (!value.number()) throw Failure{std::string(kind_name(value)) + " in place of a number"};
    return value.integer;
}

const Mapping &mapping_of(const Value &value) {
    if (value.undefined()) fail_undefined(value);
    if (value.kind != Kind::MAPPING) throw Failure{std::string("a method of mappings on ") + kind_name(value)};
    return *value.mapping;
}

Value range(Memory &memory, const Value *v, uint32_t n) {
    const int64_t start = n > 1 ? integer_of(v[0]) : 0, stop = integer_of(v[n > 1]), step = n > 2 ? integer_of(v[2]) : 1;
    if (step == 0) throw Failure{"range() with a step of 0"};
    Value out = memory.list(4);
    for (__int128 at = start; step > 0 ? at < stop : at > stop; at += step) {
        if (out.list->size >= LONGEST_RANGE) throw Failure{"range() of more than 100000 numbers"};
        memory.append(out, integer(static_cast<int64_t>(at)));
    }
    return out;
}

Value strip(Memory &memory, const Value *v, uint32_t n, int sides) {
    const std::string_view text = text_of(v[0]);
    const bool space = n < 2 || v[1].kind == Kind::NONE;
    memory.work_on_bytes(text.size() * (space ? 1 : text_of(v[1]).size() / 8 + 1));
    return Memory::share(space ? strip_space(text, sides) : strip_chars(text, text_of(v[1]), sides));
}

Value split_text(Memory &memory, const Value *v, uint32_t n, bool from_right) {
    const bool space = n < 2 || v[1].kind == Kind::NONE;
    const std::string_view separator = space ? std::string_view() : text_of(v[1]);
    const int64_t most = n > 2 ? integer_of(v[2]) : -1;
    return split(memory, text_of(v[0]), space ? nullptr : &separator, most, from_right);
}

bool starts(std::string_view text, std::string_view with) { return text.substr(0, with.size()) == with; }
bool ends(std::string_view text, std::string_view with) {
    return text.size() >= with.size() && text.substr(text.size() - with.size()) == with;
}

Value join(Memory &memory, const Value &items, std::string_view separator) {
    const Value all = elements(memory, items);
    std::string out;
    for (uint32_t i = 0; i < all.list->size; ++i) {
        out.append(i > 0 ? separator : "").append(to_text(memory, all.list->items[i]));
        if (out.size() > Memory::MOST_BYTES / 4) throw Failure{"a text is longer than 16 MiB"};
    }
    return memory.text(out);
}

enum class Part { KEYS, VALUES, ITEMS };

Value parts(Memory &memory, const Mapping &mapping, Part part) {
    Value out = memory.list(mapping.size);
    for (uint32_t i = 0; i < mapping.size; ++i) {
        const Entry &entry = mapping.entries[i];
        if (part != Part::ITEMS) {
            memory.append(out, part == Part::KEYS ? entry.key : entry.value);
            continue;
        }
        Value pair = memory.list(2);
        memory.append(pair, entry.key);
        memory.append(pair, entry.value);
        memory.append(out, pair);
    }
    return out;
}

int64_t length(const Value &value) {
    if (value.undefined()) return 0;
    if (value.is_text()) return code_points(value.view());
    if (value.kind == Kind::LIST) return value.list->size;
    if (value.kind == Kind::MAPPING) return value.mapping->size;
    throw Failure{std::string("the length of ") + kind_name(value)};
}

Value first_or_last(Memory &memory, const Value &value, bool first) {
    const Value all = elements(memory, value);
    const uint32_t n = all.list->size;
    return n == 0 ? undefined("the first or last of nothing") : all.list->items[first ? 0 : n - 1];
}

Value reversed(Memory &memory, const Value &value) {
    const Value all = elements(memory, value);
    Value out = memory.list(all.list->size);
    for (uint32_t i = all.list->size; i > 0; --i) memory.append(out, all.list->items[i - 1]);
    return out;
}

Value to_integer(const Value &value, const Value &otherwise) {
    if (value.number()) return integer(value.integer);
    int64_t number;
    return value.is_text() && parse_integer(value.view(), number) ? integer(number) : otherwise;
}

} // namespace

Value call_builtin(Memory &memory, Builtin builtin, const Value *v, uint32_t n) {
    for (uint32_t i = 0; i < n; ++i) memory.work_on_bytes(v[i].is_text() ? v[i].size : 0); // most look at all of a text
    switch (builtin) {
    case Builtin::RANGE: return range(memory, v, n);
    case Builtin::RAISE_EXCEPTION: throw Failure{std::string(to_text(memory, v[0]))};
    case Builtin::STRFTIME_NOW: return memory.text(format_time(text_of(v[0])));
    case Builtin::STRIP: return strip(memory, v, n, BOTH);
    case Builtin::LSTRIP: return strip(memory, v, n, LEFT);
    case Builtin::RSTRIP: return strip(memory, v, n, RIGHT);
    case Builtin::SPLIT: return split_text(memory, v, n, false);
    case Builtin::RSPLIT: return split_text(memory, v, n, true);
    case Builtin::SPLITLINES: return split_lines(memory, text_of(v[0]));
    case Builtin::STARTSWITH: return boolean(starts(text_of(v[0]), text_of(v[1])));
    case Builtin::ENDSWITH: return boolean(ends(text_of(v[0]), text_of(v[1])));
    case Builtin::REMOVEPREFIX: {
        const std::string_view text = text_of(v[0]), part = text_of(v[1]);
        return Memory::share(starts(text, part) ? text.substr(part.size()) : text);
    }
    case Builtin::REMOVESUFFIX: {
        const std::string_view text = text_of(v[0]), part = text_of(v[1]);
        return Memory::share(ends(text, part) ? text.substr(0, text.size() - part.size()) : text);
    }
    case Builtin::REPLACE: return replace(memory, text_of(v[0]), text_of(v[1]), text_of(v[2]), n > 3 ? integer_of(v[3]) : -1);
    case Builtin::UPPER: return change_case(memory, text_of(v[0]), Case::UPPER);
    case Builtin::LOWER: return change_case(memory, text_of(v[0]), Case::LOWER);
    case Builtin::CAPITALIZE: return change_case(memory, text_of(v[0]), Case::CAPITALIZE);
    case Builtin::TITLE: return change_case(memory, text_of(v[0]), Case::TITLE);
    case Builtin::TITLE_FILTER: return change_case(memory, text_of(v[0]), Case::TITLE_FILTER);
    case Builtin::FIND: {
        const std::string_view text = text_of(v[0]), part = text_of(v[1]);
        memory.work_on_bytes(text.size() * (part.size() / 8 + 1));
        const size_t at = text.find(part);
        return integer(at == text.npos ? -1 : int64_t(code_points(text.substr(0, at))));
    }
    case Builtin::COUNT_OF: return integer(count(memory, text_of(v[0]), text_of(v[1])));
    case Builtin::JOIN: return join(memory, v[1], text_of(v[0]));
    case Builtin::JOIN_FILTER: return join(memory, v[0], to_text(memory, v[1]));
    case Builtin::GET: {
        const Value *found = find(memory, mapping_of(v[0]), text_of(v[1]));
        return found != nullptr ? *found : n > 2 ? v[2] : none();
    }
    case Builtin::KEYS: return parts(memory, mapping_of(v[0]), Part::KEYS);
    case Builtin::VALUES: return parts(memory, mapping_of(v[0]), Part::VALUES);
    case Builtin::ITEMS: return parts(memory, mapping_of(v[0]), Part::ITEMS);
    case Builtin::LENGTH: return integer(length(v[0]));
    case Builtin::FIRST: return first_or_last(memory, v[0], true);
    case Builtin::LAST: return first_or_last(memory, v[0], false);
    case Builtin::LIST: return elements(memory, v[0]);
    case Builtin::REVERSED: return reversed(memory, v[0]);
    case Builtin::INT: return to_integer(v[0], n > 1 ? v[1] : integer(0));
    case Builtin::ABS: {
        const int64_t value = integer_of(v[0]);
        if (value == INT64_MIN) throw Failure{"a number beyond 64 bits"};
        return integer(value < 0 ? -value : value);
    }
    case Builtin::TOJSON: return memory.text(to_json(memory, v[0], n > 1 && v[1].kind != Kind::NONE ? integer_of(v[1]) : -1));
    case Builtin::DEFAULT: return v[0].undefined() || (n > 2 && truth(v[2]) && !truth(v[0])) ? v[1] : v[0];
    case Builtin::CYCLE:
        if (v[0].kind != Kind::LOOP) throw Failure{"cycle() outside of a loop"};
        return v[1 + (v[0].loop->next - 1) % (n - 1)];
    case Builtin::IS_DEFINED: return boolean(!v[0].undefined());
    case Builtin::IS_NONE: return boolean(v[0].kind == Kind::NONE);
    case Builtin::IS_STRING: return boolean(v[0].is_text());
    case Builtin::IS_MAPPING: return boolean(v[0].kind == Kind::MAPPING);
    case Builtin::IS_ITERABLE:
    case Builtin::IS_SEQUENCE:
        return boolean(v[0].undefined() || v[0].is_text() || v[0].kind == Kind::LIST || v[0].kind == Kind::MAPPING);
    case Builtin::IS_NUMBER: return boolean(v[0].number());
    case Builtin::IS_INTEGER: return boolean(v[0].kind == Kind::INTEGER);
    case Builtin::IS_BOOLEAN: return boolean(v[0].kind == Kind::BOOLEAN);
    case Builtin::IS_TRUE: return boolean(v[0].kind == Kind::BOOLEAN && v[0].integer != 0);
    case Builtin::IS_FALSE: return boolean(v[0].kind == Kind::BOOLEAN && v[0].integer == 0);
    case Builtin::DIVISIBLE: return boolean(compute(memory, Binary::MOD, v[0], v[1]).integer == 0);
    case Builtin::COUNT: break;
    }
    throw Failure{"an unknown function"};
}

} // namespace n730::chat
