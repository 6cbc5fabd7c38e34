// What Python's methods of texts do, on UTF-8.
#pragma once
#include "chat_value.h"

namespace n730::chat {

uint32_t code_points(std::string_view text);
// Bytes of `text` before its code point number `index`, at most all.
size_t byte_offset(std::string_view text, uint64_t index);

enum Side { LEFT = 1, RIGHT = 2, BOTH = 3 };
std::string_view strip_space(std::string_view text, int sides);
std::string_view strip_chars(std::string_view text, std::string_view chars, int sides);

// text.split(separator, most): at white space if `separator` is null; `most` < 0: without limit. `from_right`: rsplit.
Value split(Memory &memory, std::string_view text, const std::string_view *separator, int64_t most, bool from_right);
Value split_lines(Memory &memory, std::string_view text);
Value replace(Memory &memory, std::string_view text, std::string_view from, std::string_view to, int64_t most);
int64_t count(Memory &memory, std::string_view text, std::string_view part); // without overlaps

enum class Case { UPPER, LOWER, CAPITALIZE, TITLE, TITLE_FILTER };
// Of ASCII only: throws Failure for other texts, rather than to leave a letter as it is.
Value change_case(Memory &memory, std::string_view text, Case how);

// Python's int(text), or Jinja's: of a decimal fraction its whole part. False: it is no number.
bool parse_integer(std::string_view text, int64_t &value);
// The time now in this place by a format of strftime.
std::string format_time(std::string_view format);

} // namespace n730::chat
