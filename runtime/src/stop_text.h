// Text that ends where one of some texts begins, even if that comes in pieces.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace n730 {

class StopText {
  public:
    explicit StopText(std::vector<std::string> stops); // none of them empty
    // Takes text and returns what is certain to stand before a stop; the rest is held back. The view is valid until the
    // next call.
    std::string_view push(std::string_view text);
    std::string_view flush(); // ends: what was held back is text after all, unless there was a stop
    // The stop that came, if any.
    const std::string *found() const { return found_; }

  private:
    const std::vector<std::string> stops_;
    std::string text_;    // what is given out, then what is held back
    size_t given_ = 0;    // bytes of text_ that the last call returned
    const std::string *found_ = nullptr;
};

} // namespace n730
