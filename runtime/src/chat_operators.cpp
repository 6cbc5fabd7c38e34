// What the operators of chat programs do: as Python and Jinja have it, on the values that there are.
#include "chat_builtins.h"
#include "chat_text.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace n730::chat {

namespace {

Value loop_attribute(const Loop &loop, std::string_view name) {
    const int64_t size = loop.items->size, index0 = int64_t(loop.next) - 1;
    const auto at = [&](int64_t i, const char *what) {
        return i >= 0 && i < size ? loop.items->items[i] : undefined(what);
    };
    if (name == "index0") return integer(index0);
    if (name == "index") return integer(index0 + 1);
    if (name == "first") return boolean(index0 == 0);
    if (name == "last") return boolean(index0 == size - 1);
    if (name == "length") return integer(size);
    if (name == "revindex") return integer(size - index0);
    if (name == "revindex0") return integer(size - index0 - 1);
    if (name == "previtem") return at(index0 - 1, "loop.previtem");
    if (name == "nextitem") return at(index0 + 1, "loop.nextitem");
    if (name == "depth") return integer(1);
    if (name == "depth0") return integer(0);
    return undefined("loop attribute");
}

// Position `index` of `size` as Python counts, from the end if negative. False: outside.
bool resolve(int64_t index, int64_t size, int64_t &at) {
    at = index < 0 ? index + size : index;
    return at >= 0 && at < size;
}

[[noreturn]] void fail_operands(const char *what, const Value &a, const Value &b) {
    if (a.undefined()) fail_undefined(a);
    if (b.undefined()) fail_undefined(b);
    throw Failure{std::string(what) + " of " + kind_name(a) + " and " + kind_name(b)};
}

// The text of a slice: whole characters, picked one by one.
Value pick_text(Memory &memory, const Value &text, int64_t start, int64_t count, int64_t step) {
    const std::string_view view = text.view();
    memory.work_on_bytes(view.size());
    if (count <= 0) return Memory::share("");
    if (step == 1) {
        const size_t from = byte_offset(view, static_cast<uint64_t>(start));
        return Memory::share(view.substr(from, byte_offset(view.substr(from), static_cast<uint64_t>(count))));
    }
    const size_t characters = code_points(view);
    uint32_t *const starts = static_cast<uint32_t *>(memory.take(4 * (characters + 1)));
    size_t n = 0;
    for (size_t at = 0; at < view.size(); at += byte_offset(view.substr(at), 1)) starts[n++] = static_cast<uint32_t>(at);
    starts[n] = static_cast<uint32_t>(view.size());
    char *const out = static_cast<char *>(memory.take(view.size()));
    size_t size = 0;
    for (int64_t i = 0; i < count; ++i) {
        const size_t at = static_cast<size_t>(start + i * step);
        const size_t bytes = starts[at + 1] - starts[at];
        std::memcpy(out + size, view.data() + starts[at], bytes);
        size += bytes;
    }
    return Memory::share({out, size});
}

} // namespace

Value attribute(const Value &object, std::string_view name, Memory &memory) {
    if (object.undefined()) fail_undefined(object);
    if (object.kind == Kind::LOOP) return loop_attribute(*object.loop, name);
    if (object.kind == Kind::MAPPING || object.kind == Kind::NAMESPACE)
        if (const Value *found = find(memory, *object.mapping, name)) return *found;
    return undefined(name);
}

Value item(Memory &memory, const Value &object, const Value &key) {
    if (object.undefined()) fail_undefined(object);
    if (key.is_text()) return attribute(object, key.view(), memory);
    int64_t at;
    if (object.kind == Kind::LIST && key.number() && resolve(key.integer, object.list->size, at))
        return object.list->items[at];
    if (object.is_text() && key.number()) {
        memory.work_on_bytes(object.size);
        if (resolve(key.integer, code_points(object.view()), at)) return pick_text(memory, object, at, 1, 1);
    }
    return undefined("an element");
}

Value slice(Memory &memory, const Value &object, const Value range[3]) {
    if (object.undefined()) fail_undefined(object);
    if (object.kind != Kind::LIST && !object.is_text()) throw Failure{std::string("a slice of ") + kind_name(object)};
    for (int i = 0; i < 3; ++i)
        if (range[i].kind != Kind::NONE && !range[i].number()) throw Failure{"a slice by something else than numbers"};
    const int64_t size = object.is_text() ? code_points(object.view()) : object.list->size;
    const int64_t step = range[2].kind == Kind::NONE ? 1 : range[2].integer;
    if (step == 0) throw Failure{"a slice with a step of 0"};
    const int64_t least = step < 0 ? -1 : 0, most = step < 0 ? size - 1 : size;
    const auto bound = [&](const Value &value, int64_t otherwise) {
        if (value.kind == Kind::NONE) return otherwise;
        const int64_t at = std::clamp(value.integer, -size - 1, size + 1);
        return std::clamp(at < 0 ? at + size : at, least, most);
    };
    const int64_t start = bound(range[0], step < 0 ? most : least), stop = bound(range[1], step < 0 ? least : most);
    const int64_t span = step < 0 ? start - stop : stop - start, stride = step < 0 ? -std::max(step, -size - 1) : step;
    const int64_t count = span <= 0 ? 0 : (span - 1) / stride + 1;
    if (object.is_text()) return pick_text(memory, object, start, count, step < 0 ? -stride : step);
    Value out = memory.list(static_cast<uint32_t>(count));
    for (int64_t i = 0; i < count; ++i) memory.append(out, object.list->items[start + i * (step < 0 ? -stride : step)]);
    return out;
}

Value concatenate(Memory &memory, const Value *parts, uint32_t n) {
    if (n == 1 && parts->is_text()) return *parts;
    size_t size = 0;
    std::string_view *const texts = static_cast<std::string_view *>(memory.take(n * sizeof(std::string_view)));
    for (uint32_t i = 0; i < n; ++i) size += (*new (texts + i) std::string_view(to_text(memory, parts[i]))).size();
    char *const out = static_cast<char *>(memory.take(size));
    size_t at = 0;
    for (uint32_t i = 0; i < n; at += texts[i++].size())
        if (!texts[i].empty()) std::memcpy(out + at, texts[i].data(), texts[i].size());
    return Memory::share({out, size});
}

Value compute(Memory &memory, Binary how, const Value &a, const Value &b) {
    static const char *const names[] = {"the sum", "the difference", "the product", "the quotient", "the remainder"};
    if (a.number() && b.number()) {
        const int64_t x = a.integer, y = b.integer;
        int64_t result = 0;
        bool beyond = false;
        if ((how == Binary::FLOOR_DIV || how == Binary::MOD) && y == 0) throw Failure{"a division by zero"};
        switch (how) {
        case Binary::ADD: beyond = __builtin_add_overflow(x, y, &result); break;
        case Binary::SUB: beyond = __builtin_sub_overflow(x, y, &result); break;
        case Binary::MUL: beyond = __builtin_mul_overflow(x, y, &result); break;
        default: { // Python rounds towards minus infinity
            beyond = x == INT64_MIN && y == -1;
            if (beyond) break;
            const bool below = x % y != 0 && (x < 0) != (y < 0);
            result = how == Binary::MOD ? x % y + (below ? y : 0) : x / y - below;
        }
        }
        if (beyond) throw Failure{"a number beyond 64 bits"};
        return integer(result);
    }
    if (how == Binary::ADD && a.is_text() && b.is_text()) {
        const Value parts[] = {a, b};
        return concatenate(memory, parts, 2);
    }
    if (how == Binary::ADD && a.kind == Kind::LIST && b.kind == Kind::LIST) {
        Value out = memory.list(a.list->size + b.list->size);
        for (const List *part : {a.list, b.list})
            for (uint32_t i = 0; i < part->size; ++i) memory.append(out, part->items[i]);
        return out;
    }
    if (how == Binary::MUL && (a.is_text() || b.is_text()) && (a.number() || b.number())) {
        const Value &text = a.is_text() ? a : b;
        const uint64_t times = static_cast<uint64_t>(std::max<int64_t>(0, (a.is_text() ? b : a).integer));
        if (text.size == 0 || times == 0) return Memory::share("");
        if (times > Memory::MOST_BYTES / text.size) throw Failure{"it takes more than 64 MiB of memory"};
        char *const out = static_cast<char *>(memory.take(text.size * times));
        for (uint64_t i = 0; i < times; ++i) std::memcpy(out + i * text.size, text.text, text.size);
        return Memory::share({out, text.size * times});
    }
    fail_operands(names[size_t(how)], a, b);
}

namespace {

bool contains(Memory &memory, const Value &all, const Value &one) {
    if (all.undefined()) return false;
    if (all.kind == Kind::LIST)
        return std::any_of(all.list->items, all.list->items + all.list->size,
                           [&](const Value &element) { return equal(memory, element, one); });
    if (all.kind == Kind::MAPPING) return one.is_text() && find(memory, *all.mapping, one.view()) != nullptr;
    if (!all.is_text() || !one.is_text()) {
        if (one.undefined()) fail_undefined(one);
        throw Failure{std::string("a search for ") + kind_name(one) + " in " + kind_name(all)};
    }
    memory.work_on_bytes(uint64_t(all.size) * std::max<uint32_t>(1, one.size / 8));
    return all.view().find(one.view()) != std::string_view::npos;
}

} // namespace

bool compare(Memory &memory, Compare how, const Value &a, const Value &b) {
    switch (how) {
    case Compare::EQ: return equal(memory, a, b);
    case Compare::NE: return !equal(memory, a, b);
    case Compare::IN: return contains(memory, b, a);
    case Compare::NOT_IN: return !contains(memory, b, a);
    default: break;
    }
    int64_t order; // of code points, which UTF-8 keeps
    if (a.number() && b.number()) {
        order = a.integer < b.integer ? -1 : a.integer > b.integer;
    } else if (a.is_text() && b.is_text()) {
        memory.work_on_bytes(a.size);
        order = a.view().compare(b.view());
    } else {
        fail_operands("the order", a, b);
    }
    switch (how) {
    case Compare::LT: return order < 0;
    case Compare::LE: return order <= 0;
    case Compare::GT: return order > 0;
    default: return order >= 0;
    }
}

Value elements(Memory &memory, const Value &value) {
    if (value.kind == Kind::LIST) return value;
    Value out = memory.list(value.kind == Kind::MAPPING ? value.mapping->size : 4);
    if (value.kind == Kind::MAPPING) {
        for (uint32_t i = 0; i < value.mapping->size; ++i) memory.append(out, value.mapping->entries[i].key);
    } else if (value.is_text()) {
        for (std::string_view rest = value.view(); !rest.empty();) {
            const size_t n = byte_offset(rest, 1);
            memory.append(out, Memory::share(rest.substr(0, n)));
            rest.remove_prefix(n);
        }
    } else if (!value.undefined()) {
        throw Failure{std::string("a loop over ") + kind_name(value)};
    }
    return out;
}

} // namespace n730::chat
