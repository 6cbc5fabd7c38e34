// Conversations as JSON.
#pragma once
#include "chat_value.h"

namespace n730::chat {

// The value of a JSON text, its texts copied to `memory`. Throws Failure: not JSON, or beyond what programs know.
Value from_json(Memory &memory, std::string_view json);

} // namespace n730::chat
