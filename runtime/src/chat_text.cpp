#include "chat_text.h"
#include "utf8.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace n730::chat {

namespace {

bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

size_t char_length(std::string_view text) {
    size_t n = 1;
    while (n < text.size() && continues(text[n])) ++n;
    return n;
}

size_t last_char_length(std::string_view text) {
    size_t n = 1;
    while (n < text.size() && continues(text[text.size() - n])) ++n;
    return n;
}

bool is_one_of(std::string_view character, std::initializer_list<std::string_view> list) {
    return std::find(list.begin(), list.end(), character) != list.end();
}

bool ends_line(std::string_view c) {
    if (c.size() == 1) return (c[0] >= 0x0A && c[0] <= 0x0D) || (c[0] >= 0x1C && c[0] <= 0x1E);
    return is_one_of(c, {"\u0085", "\u2028", "\u2029"});
}

// As str.isspace has it.
bool is_space(std::string_view c) {
    if (c.size() == 1) return c[0] == ' ' || (c[0] >= 0x09 && c[0] <= 0x0D) || (c[0] >= 0x1C && c[0] <= 0x1F);
    if (c.size() == 3 && c[0] == '\xE2' && c[1] == '\x80' && c[2] <= '\x8A') return true; // U+2000 … U+200A
    return is_one_of(c, {"\u0085", "\u00A0", "\u1680", "\u2028", "\u2029", "\u202F", "\u205F", "\u3000"});
}

template <class Goes> std::string_view strip(std::string_view text, int sides, Goes goes) {
    while ((sides & LEFT) && !text.empty() && goes(text.substr(0, char_length(text))))
        text.remove_prefix(char_length(text));
    while ((sides & RIGHT) && !text.empty() && goes(text.substr(text.size() - last_char_length(text))))
        text.remove_suffix(last_char_length(text));
    return text;
}

void add(Memory &memory, Value &list, std::string_view part) { memory.append(list, Memory::share(part)); }

Value split_at_space(Memory &memory, std::string_view text, int64_t most) {
    Value list = memory.list(8);
    for (text = strip_space(text, LEFT); !text.empty(); text = strip_space(text, LEFT)) {
        size_t n = 0;
        while (n < text.size() && (most == 0 || !is_space(text.substr(n, char_length(text.substr(n))))))
            n += char_length(text.substr(n));
        add(memory, list, text.substr(0, n));
        text.remove_prefix(n);
        --most;
    }
    return list;
}

void require_part(Memory &memory, std::string_view text, std::string_view part) {
    memory.work_on_bytes(text.size() * std::max<size_t>(1, part.size() / 8));
    if (part.empty()) throw Failure{"an empty separator"};
}

} // namespace

uint32_t code_points(std::string_view text) {
    return static_cast<uint32_t>(text.size() - static_cast<size_t>(std::count_if(text.begin(), text.end(), continues)));
}

size_t byte_offset(std::string_view text, uint64_t index) {
    size_t at = 0;
    for (; index > 0 && at < text.size(); --index) at += char_length(text.substr(at));
    return at;
}

std::string_view strip_space(std::string_view text, int sides) { return strip(text, sides, is_space); }

std::string_view strip_chars(std::string_view text, std::string_view chars, int sides) {
    return strip(text, sides, [&](std::string_view c) { return chars.find(c) != chars.npos; });
}

Value split(Memory &memory, std::string_view text, const std::string_view *separator, int64_t most, bool from_right) {
    memory.work_on_bytes(text.size());
    if (separator == nullptr) {
        if (from_right && most >= 0) throw Failure{"rsplit at white space with a limit"};
        return split_at_space(memory, text, most);
    }
    require_part(memory, text, *separator);
    Value list = memory.list(8);
    for (; most != 0; --most) {
        const size_t at = from_right ? text.rfind(*separator) : text.find(*separator);
        if (at == text.npos) break;
        const std::string_view before = text.substr(0, at), behind = text.substr(at + separator->size());
        add(memory, list, from_right ? behind : before);
        text = from_right ? before : behind;
    }
    add(memory, list, text);
    if (from_right) std::reverse(list.list->items, list.list->items + list.list->size);
    return list;
}

Value split_lines(Memory &memory, std::string_view text) {
    memory.work_on_bytes(text.size());
    Value list = memory.list(8);
    while (!text.empty()) {
        size_t n = 0, end = 0;
        while (n < text.size() && end == 0) {
            const size_t length = char_length(text.substr(n));
            if (ends_line(text.substr(n, length)))
                end = length;
            else
                n += length;
        }
        add(memory, list, text.substr(0, n));
        if (text.substr(n, 2) == "\r\n") end = 2;
        text.remove_prefix(n + end);
    }
    return list;
}

Value replace(Memory &memory, std::string_view text, std::string_view from, std::string_view to, int64_t most) {
    if (from.empty()) throw Failure{"a replacement of an empty text"};
    require_part(memory, text, from);
    const size_t found = static_cast<size_t>(count(memory, text, from));
    const size_t times = most < 0 ? found : std::min(found, static_cast<size_t>(most));
    if (times == 0) return memory.text(text);
    const size_t kept = text.size() - times * from.size();
    if (to.size() > (Memory::MOST_BYTES - kept) / times) throw Failure{"a text is longer than 16 MiB"};
    const size_t size = kept + times * to.size();
    char *out = static_cast<char *>(memory.take(size));
    const char *const begin = out;
    const auto put = [&](std::string_view part) {
        if (!part.empty()) std::memcpy(out, part.data(), part.size());
        out += part.size();
    };
    for (size_t i = 0; i < times; ++i) {
        const size_t at = text.find(from);
        put(text.substr(0, at));
        put(to);
        text.remove_prefix(at + from.size());
    }
    put(text);
    return Memory::share({begin, size});
}

int64_t count(Memory &memory, std::string_view text, std::string_view part) {
    require_part(memory, text, part);
    int64_t n = 0;
    for (size_t at = 0; (at = text.find(part, at)) != text.npos; at += part.size()) ++n;
    return n;
}

Value change_case(Memory &memory, std::string_view text, Case how) {
    Value changed = memory.text(text);
    char *const out = const_cast<char *>(changed.text); // a fresh copy
    bool first = true;                                  // of a word, or of the text
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (static_cast<unsigned char>(c) >= 0x80) throw Failure{"the case of letters beyond ASCII"};
        const bool upper = c >= 'A' && c <= 'Z', lower = c >= 'a' && c <= 'z';
        const bool want = how == Case::UPPER || (how != Case::LOWER && first);
        if (want && lower) out[i] = static_cast<char>(c - 'a' + 'A');
        if (!want && upper) out[i] = static_cast<char>(c - 'A' + 'a');
        if (how == Case::TITLE) first = !upper && !lower;
        if (how == Case::TITLE_FILTER) first = is_space({&c, 1}) || std::strchr("-({[<", c) != nullptr;
        if (how == Case::CAPITALIZE) first = false;
    }
    return changed;
}

bool parse_integer(std::string_view text, int64_t &value) {
    const std::string trimmed(strip_space(text, BOTH));
    const char *at = trimmed.c_str() + (!trimmed.empty() && (trimmed[0] == '-' || trimmed[0] == '+'));
    const auto digits = [&] {
        const char *from = at;
        while (*at >= '0' && *at <= '9') ++at;
        return at > from;
    };
    bool some = digits();
    const bool whole = *at == '\0';
    if (!whole) {
        if (*at == '.') some = (++at, digits()) || some;
        if (some && (*at == 'e' || *at == 'E')) {
            ++at;
            if (*at == '-' || *at == '+') ++at;
            some = digits();
        }
    }
    if (!some || at != trimmed.c_str() + trimmed.size()) {
        if (trimmed.find('_') != trimmed.npos || utf8_valid_length(trimmed) != code_points(trimmed))
            throw Failure{"a number written so: " + trimmed};
        return false;
    }
    const double real = std::strtod(trimmed.c_str(), nullptr);
    if (!(real > -9e18 && real < 9e18)) throw Failure{"a number beyond 64 bits"};
    value = whole ? std::strtoll(trimmed.c_str(), nullptr, 10) : static_cast<int64_t>(real);
    return true;
}

std::string format_time(std::string_view format) {
    const std::time_t now = std::time(nullptr);
    const std::tm *const local = std::localtime(&now);
    std::string out;
    for (size_t i = 0; i < format.size(); ++i) {
        if (format[i] != '%') {
            out += format[i];
            continue;
        }
        const bool short_form = format.substr(i + 1, 1) == "-"; // no zero in front
        i += short_form ? 2 : 1;
        if (i >= format.size() || std::strchr("aAbBdHIjmMpSwyYZ%", format[i]) == nullptr || local == nullptr)
            throw Failure{"a format of the time beyond %a %A %b %B %d %H %I %j %m %M %p %S %w %y %Y %Z"};
        const char one[] = {'%', format[i], '\0'};
        char part[64];
        const size_t n = std::strftime(part, sizeof part, one, local);
        const std::string_view text(part, n);
        out += text.substr(short_form && n > 1 && text[0] == '0' ? 1 : 0);
    }
    return out;
}

} // namespace n730::chat
