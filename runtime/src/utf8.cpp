#include "utf8.h"

namespace n730 {

Utf8Unit utf8_next(std::string_view text) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const uint8_t lead = byte(0);
    if (lead < 0x80) return {Utf8Unit::WHOLE, 1};
    if (lead < 0xC2 || lead > 0xF4) return {Utf8Unit::BROKEN, 1};
    const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    // The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF.
    uint8_t low = 0x80, high = 0xBF;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    for (size_t i = 1; i < length; ++i) {
        if (i == text.size()) return {Utf8Unit::PARTIAL, i};
        if (byte(i) < low || byte(i) > high) return {Utf8Unit::BROKEN, i};
        low = 0x80, high = 0xBF;
    }
    return {Utf8Unit::WHOLE, length};
}

size_t utf8_valid_length(std::string_view text) {
    size_t at = 0;
    while (at < text.size()) {
        const Utf8Unit unit = utf8_next(text.substr(at));
        if (unit.kind != Utf8Unit::WHOLE) return at;
        at += unit.length;
    }
    return at;
}

std::string_view Utf8Stream::push(std::string_view bytes) {
    text_.assign(pending_, pending_size_).append(bytes);
    pending_size_ = 0;
    std::string_view rest = text_;
    if (utf8_valid_length(rest) == rest.size()) return text_;
    std::string clean;
    while (!rest.empty()) {
        const Utf8Unit unit = utf8_next(rest);
        if (unit.kind == Utf8Unit::PARTIAL) {
            pending_size_ = rest.copy(pending_, sizeof pending_);
            break;
        }
        if (unit.kind == Utf8Unit::WHOLE) clean += rest.substr(0, unit.length);
        else clean += "\xEF\xBF\xBD";
        rest.remove_prefix(unit.length);
    }
    text_ = clean;
    return text_;
}

std::string_view Utf8Stream::flush() {
    text_ = pending_size_ != 0 ? "\xEF\xBF\xBD" : "";
    pending_size_ = 0;
    return text_;
}

} // namespace n730
