#include "stop_text.h"

#include <algorithm>

namespace n730 {

StopText::StopText(std::vector<std::string> stops) : stops_(std::move(stops)) { text_.reserve(1024); }

std::string_view StopText::push(std::string_view text) {
    text_.erase(0, given_);
    given_ = 0;
    if (found_ != nullptr) return {};
    text_ += text;
    size_t first = std::string::npos;
    for (const std::string &stop : stops_) {
        const size_t at = text_.find(stop);
        if (at < first) first = at, found_ = &stop;
    }
    if (found_ != nullptr) {
        text_.resize(first);
        given_ = first;
        return text_;
    }
    size_t held = 0; // the longest end of the text that a stop may begin with
    for (const std::string &stop : stops_)
        for (size_t n = std::min(stop.size() - 1, text_.size()); n > held; --n)
            if (std::string_view(text_).substr(text_.size() - n) == std::string_view(stop).substr(0, n)) held = n;
    given_ = text_.size() - held;
    return std::string_view(text_).substr(0, given_);
}

std::string_view StopText::flush() {
    text_.erase(0, given_);
    given_ = text_.size();
    return text_;
}

} // namespace n730
