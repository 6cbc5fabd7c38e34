// How wide text is on a terminal.
#pragma once
#include <cstddef>
#include <string_view>

namespace n730 {

// The character at the start of `text` (not empty) with the marks that are put on it.
struct Glyph {
    size_t bytes;
    int columns;
};
Glyph next_glyph(std::string_view text);
int text_columns(std::string_view text);

} // namespace n730
