#include "chat_value.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace n730::chat {

void Memory::too_long() { throw Failure{"it takes too many steps"}; }

void *Memory::take(size_t bytes) {
    constexpr size_t CHUNK = 64 << 10;
    bytes = (bytes + 15) & ~size_t{15};
    if (bytes > MOST_BYTES || total_ + bytes > MOST_BYTES) throw Failure{"it takes more than 64 MiB of memory"};
    if (chunks_.empty() || chunk_size_ - used_ < bytes) {
        chunk_size_ = std::max(CHUNK, bytes);
        chunks_.push_back(std::make_unique<char[]>(chunk_size_));
        used_ = 0;
    }
    void *at = chunks_.back().get() + used_;
    used_ += bytes;
    total_ += bytes;
    work_on_bytes(bytes);
    return at;
}

Value Memory::share(std::string_view text) {
    Value value;
    value.kind = Kind::TEXT;
    value.size = static_cast<uint32_t>(text.size());
    value.text = text.data();
    return value;
}

Value Memory::text(std::string_view text) {
    if (text.empty()) return share("");
    char *copy = static_cast<char *>(take(text.size()));
    std::memcpy(copy, text.data(), text.size());
    return share({copy, text.size()});
}

Value Memory::list(uint32_t capacity) {
    Value value;
    value.kind = Kind::LIST;
    value.list = static_cast<List *>(take(sizeof(List)));
    Value *items = static_cast<Value *>(take(capacity * sizeof(Value)));
    std::uninitialized_fill_n(items, capacity, Value());
    *value.list = {items, 0, capacity};
    return value;
}

Value Memory::mapping(Kind kind, uint32_t capacity) {
    Value value;
    value.kind = kind;
    value.mapping = static_cast<Mapping *>(take(sizeof(Mapping)));
    Entry *entries = static_cast<Entry *>(take(capacity * sizeof(Entry)));
    std::uninitialized_fill_n(entries, capacity, Entry());
    *value.mapping = {entries, 0, capacity};
    return value;
}

Value Memory::loop(List *items, uint32_t scopes) {
    Value value;
    value.kind = Kind::LOOP;
    value.loop = static_cast<Loop *>(take(sizeof(Loop)));
    *value.loop = {items, 0, scopes, false};
    return value;
}

namespace {

// Room for one more, by doubling.
template <class Item> void grow(Memory &memory, Item *&items, uint32_t size, uint32_t &capacity) {
    if (size < capacity) return;
    const uint32_t more = std::max<uint32_t>(4, capacity * 2);
    Item *moved = static_cast<Item *>(memory.take(more * sizeof(Item)));
    std::uninitialized_copy_n(items, size, moved);
    std::uninitialized_fill_n(moved + size, more - size, Item());
    items = moved;
    capacity = more;
}

} // namespace

void Memory::append(Value &list, const Value &item) {
    List &l = *list.list;
    grow(*this, l.items, l.size, l.capacity);
    l.items[l.size++] = item;
}

void Memory::set(Value &mapping, std::string_view key, const Value &value) {
    Mapping &m = *mapping.mapping;
    if (const Value *there = find(*this, m, key)) {
        *const_cast<Value *>(there) = value;
        return;
    }
    grow(*this, m.entries, m.size, m.capacity);
    m.entries[m.size++] = {share(key), value};
}

Value boolean(bool value) {
    Value v;
    v.kind = Kind::BOOLEAN;
    v.integer = value;
    return v;
}

Value integer(int64_t value) {
    Value v;
    v.kind = Kind::INTEGER;
    v.integer = value;
    return v;
}

Value none() {
    Value v;
    v.kind = Kind::NONE;
    return v;
}

Value undefined(std::string_view name) {
    Value v = Memory::share(name);
    v.kind = Kind::UNDEFINED;
    return v;
}

bool truth(const Value &value) {
    switch (value.kind) {
    case Kind::UNDEFINED:
    case Kind::MISSING:
    case Kind::NONE: return false;
    case Kind::BOOLEAN:
    case Kind::INTEGER: return value.integer != 0;
    case Kind::TEXT: return value.size > 0;
    case Kind::LIST: return value.list->size > 0;
    case Kind::MAPPING: return value.mapping->size > 0;
    default: return true;
    }
}

namespace {

void require_depth(int64_t depth) {
    if (depth > Memory::DEEPEST) throw Failure{"lists are nested more than 64 deep"};
}

bool equal_at(Memory &memory, const Value &a, const Value &b, uint32_t depth) {
    memory.work(1);
    require_depth(depth);
    if (a.undefined() || b.undefined()) return a.undefined() && b.undefined();
    if (a.number() && b.number()) return a.integer == b.integer;
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case Kind::NONE: return true;
    case Kind::TEXT: memory.work_on_bytes(std::min(a.size, b.size)); return a.view() == b.view();
    case Kind::LIST:
        return a.list->size == b.list->size &&
               std::equal(a.list->items, a.list->items + a.list->size, b.list->items,
                          [&](const Value &x, const Value &y) { return equal_at(memory, x, y, depth + 1); });
    case Kind::MAPPING:
        return a.mapping->size == b.mapping->size &&
               std::all_of(a.mapping->entries, a.mapping->entries + a.mapping->size, [&](const Entry &entry) {
                   const Value *other = find(memory, *b.mapping, entry.key.view());
                   return other != nullptr && equal_at(memory, entry.value, *other, depth + 1);
               });
    case Kind::NAMESPACE: return a.mapping == b.mapping;
    default: return a.loop == b.loop;
    }
}

} // namespace

bool equal(Memory &memory, const Value &a, const Value &b) { return equal_at(memory, a, b, 0); }

const Value *find(Memory &memory, const Mapping &mapping, std::string_view key) {
    memory.work_on_bytes(key.size() + 4 * mapping.size);
    for (uint32_t i = 0; i < mapping.size; ++i)
        if (mapping.entries[i].key.view() == key) return &mapping.entries[i].value;
    return nullptr;
}

const char *kind_name(const Value &value) {
    static const char *const names[] = {"something undefined", "something undefined", "none",      "a boolean", "a number",
                                        "a text",              "a list",              "a mapping", "a namespace", "a loop"};
    return names[size_t(value.kind)];
}

void fail_undefined(const Value &value) {
    throw Failure{value.size > 0 ? "'" + std::string(value.view()) + "' is undefined" : "a value is undefined"};
}

std::string_view to_text(Memory &memory, const Value &value) {
    switch (value.kind) {
    case Kind::UNDEFINED:
    case Kind::MISSING: return "";
    case Kind::NONE: return "None";
    case Kind::BOOLEAN: return value.integer != 0 ? "True" : "False";
    case Kind::INTEGER: return memory.text(std::to_string(value.integer)).view();
    case Kind::TEXT: return value.view();
    default: throw Failure{std::string(kind_name(value)) + " cannot be turned into text"};
    }
}

namespace {

void quote(std::string &out, std::string_view text) {
    out += '"';
    for (const char c : text) {
        const char *named = std::strchr("\nn\rr\tt\bb\ff", c); // its letter stands behind it
        if (c == '"' || c == '\\') {
            out.append(1, '\\').append(1, c);
        } else if (static_cast<unsigned char>(c) < 0x20) {
            char escape[8] = {'\\'};
            if (c != '\0' && named != nullptr)
                escape[1] = named[1];
            else
                std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
            out += escape;
        } else {
            out += c;
        }
    }
    out += '"';
}

struct Json {
    Memory &memory;
    const int64_t indent;
    std::string out;

    void line(int64_t level) {
        if (indent >= 0) out.append(1, '\n').append(static_cast<size_t>(level * indent), ' ');
    }
    void comma(bool first) {
        if (!first) out += indent >= 0 ? "," : ", ";
    }
    void value(const Value &v, int64_t level) {
        memory.work_on_bytes(v.is_text() ? v.size : 16);
        require_depth(level);
        if (out.size() > Memory::MOST_BYTES / 4) throw Failure{"a text is longer than 16 MiB"};
        switch (v.kind) {
        case Kind::NONE: out += "null"; break;
        case Kind::BOOLEAN: out += v.integer != 0 ? "true" : "false"; break;
        case Kind::INTEGER: out += std::to_string(v.integer); break;
        case Kind::TEXT: quote(out, v.view()); break;
        case Kind::LIST:
            out += '[';
            for (uint32_t i = 0; i < v.list->size; ++i) {
                comma(i == 0);
                line(level + 1);
                value(v.list->items[i], level + 1);
            }
            if (v.list->size > 0) line(level);
            out += ']';
            break;
        case Kind::MAPPING:
            out += '{';
            for (uint32_t i = 0; i < v.mapping->size; ++i) {
                comma(i == 0);
                line(level + 1);
                quote(out, v.mapping->entries[i].key.view());
                out += ": ";
                value(v.mapping->entries[i].value, level + 1);
            }
            if (v.mapping->size > 0) line(level);
            out += '}';
            break;
        default:
            if (v.undefined()) fail_undefined(v);
            throw Failure{std::string(kind_name(v)) + " cannot be turned into JSON"};
        }
    }
};

} // namespace

std::string to_json(Memory &memory, const Value &value, int64_t indent) {
    if (indent > 64) throw Failure{"an indent of more than 64"};
    Json json{memory, indent, {}};
    json.value(value, 0);
    return std::move(json.out);
}

} // namespace n730::chat
