// UTF-8: validation, and a stream that turns arbitrary bytes into whole characters.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace n730 {

// Length of the longest prefix of `text` that is valid UTF-8; `text.size()` if all of it is.
size_t utf8_valid_length(std::string_view text);

// What stands at the start of `text`: a whole character, a broken sequence (its maximal subpart, as Unicode
// chapter 3.9 and Rust's from_utf8_lossy define it), or the beginning of a character whose end has not come yet.
struct Utf8Unit {
    enum Kind { WHOLE, BROKEN, PARTIAL } kind;
    size_t length; // bytes
};
Utf8Unit utf8_next(std::string_view text);

// Output in pieces that are never cut within a character; invalid bytes become U+FFFD. The pieces put together
// equal the lossy decoding of all bytes at once.
class Utf8Stream {
  public:
    Utf8Stream() { text_.reserve(256); }
    // Takes bytes and returns the text that is certain now; the view is valid until the next call.
    std::string_view push(std::string_view bytes);
    // Ends the stream: what is left over is an incomplete character.
    std::string_view flush();

  private:
    std::string text_;
    char pending_[4] = {};
    size_t pending_size_ = 0;
};

} // namespace n730
