// Values that a chat program computes with, and the memory they live in: all of it is given back at once.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace n730::chat {

// What goes wrong in a program; the interpreter adds the line.
struct Failure {
    std::string what;
};

enum class Kind : uint8_t { UNDEFINED, MISSING, NONE, BOOLEAN, INTEGER, TEXT, LIST, MAPPING, NAMESPACE, LOOP };

struct List;
struct Mapping;
struct Loop;

// 16 bytes, copied freely. Texts are UTF-8 and may share bytes.
struct Value {
    Kind kind = Kind::UNDEFINED;
    uint32_t size = 0; // bytes of the text
    union {
        int64_t integer; // and BOOLEAN
        const char *text;
        List *list;
        Mapping *mapping; // and NAMESPACE
        Loop *loop;
    };
    Value() : text(nullptr) {}

    bool undefined() const { return kind <= Kind::MISSING; }
    bool is_text() const { return kind == Kind::TEXT; }
    bool number() const { return kind == Kind::INTEGER || kind == Kind::BOOLEAN; }
    std::string_view view() const { return {text, size}; }
};

struct List {
    Value *items;
    uint32_t size, capacity;
};

struct Entry {
    Value key, value; // keys are texts
};

struct Mapping {
    Entry *entries;
    uint32_t size, capacity;
};

struct Loop {
    List *items;
    uint32_t next; // of the items; the current one is before it
    uint32_t scopes;
    bool done; // an iteration came to the end of the body
};

// Where values live, and the count of work done. Every use of either is limited: a program may be hostile.
class Memory {
  public:
    static constexpr size_t MOST_BYTES = size_t{64} << 20;
    static constexpr uint64_t MOST_WORK = 10'000'000;
    static constexpr uint32_t DEEPEST = 64; // lists and mappings within each other

    // Throw Failure when there is too much of it.
    void *take(size_t bytes);
    void work(uint64_t amount) {
        work_ += amount;
        if (work_ > MOST_WORK) too_long();
    }
    void work_on_bytes(uint64_t bytes) { work(1 + bytes / 16); }

    Value text(std::string_view text);          // copied
    static Value share(std::string_view text);  // not copied; outlives the memory
    Value list(uint32_t capacity);              // empty
    Value mapping(Kind kind, uint32_t capacity); // empty; MAPPING or NAMESPACE
    Value loop(List *items, uint32_t scopes);
    void append(Value &list, const Value &item);
    void set(Value &mapping, std::string_view key, const Value &value); // `key` outlives the memory

  private:
    [[noreturn]] static void too_long();
    std::vector<std::unique_ptr<char[]>> chunks_;
    size_t used_ = 0, chunk_size_ = 0, total_ = 0;
    uint64_t work_ = 0;
};

Value boolean(bool value);
Value integer(int64_t value);
Value none();
Value undefined(std::string_view name = {}); // `name`: what is, for errors

bool truth(const Value &value);
bool equal(Memory &memory, const Value &a, const Value &b);
const Value *find(Memory &memory, const Mapping &mapping, std::string_view key); // nullptr: not there
const char *kind_name(const Value &value);                                      // "a text"
// As printed; throws Failure for what has no plain text.
std::string_view to_text(Memory &memory, const Value &value);
// Throws Failure naming what is undefined.
[[noreturn]] void fail_undefined(const Value &value);
// JSON as Python's json.dumps writes it, non-ASCII characters as they are. `indent` < 0: on one line.
std::string to_json(Memory &memory, const Value &value, int64_t indent);

} // namespace n730::chat
