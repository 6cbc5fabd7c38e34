// The functions, methods, filters and tests of chat programs (FORMAT.md, CHAT).
#pragma once
#include "chat_program.h"
#include "chat_value.h"

namespace n730::chat {

// `n` operands, as many as the builtin takes. Throws Failure.
Value call_builtin(Memory &memory, Builtin builtin, const Value *operands, uint32_t n);

Value attribute(const Value &object, std::string_view name, Memory &memory); // object.name
Value item(Memory &memory, const Value &object, const Value &key);           // object[key]
Value slice(Memory &memory, const Value &object, const Value range[3]);      // object[start:stop:step]
Value compute(Memory &memory, Binary how, const Value &a, const Value &b);
bool compare(Memory &memory, Compare how, const Value &a, const Value &b);
Value concatenate(Memory &memory, const Value *parts, uint32_t n);
// What a loop goes through, as a list.
Value elements(Memory &memory, const Value &value);

} // namespace n730::chat
