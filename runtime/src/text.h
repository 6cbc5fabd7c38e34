// Small texts: sizes and numbers as people and JSON want them.
#pragma once
#include <cstdint>
#include <string>

namespace n730 {

// `512M`, `1.5G`, `4096`: bytes, in binary units (K, M, G, T; `MB` and `MiB` mean the same). False if malformed.
bool parse_size(const std::string &text, uint64_t &bytes);
std::string format_size(uint64_t bytes); // "1.5 GiB"
std::string format_need(uint64_t bytes); // the same, never less than it is: --ram with what is shown is enough
std::string format_number(double value); // three significant digits, never an exponent for usual values

std::string json_string(const std::string &text); // quoted; bytes that are no UTF-8 become U+FFFD

// JSON as `--json` prints it, members in the order they are added. With `indent`, one member a line.
class JsonObject {
  public:
    explicit JsonObject(bool indent = false) : separator_(indent ? "\n  " : ""), indent_(indent) {}
    JsonObject &add(const char *name, uint64_t value) { return raw(name, std::to_string(value)); }
    JsonObject &add(const char *name, double value); // null if not finite
    JsonObject &add(const char *name, const std::string &value) { return raw(name, json_string(value)); }
    JsonObject &raw(const char *name, const std::string &json);
    std::string text() const { return "{" + members_ + (indent_ ? "\n}" : "}"); }

  private:
    std::string members_, separator_;
    const bool indent_;
};

template <class Items, class Fn> std::string json_array(const Items &items, Fn fn) {
    std::string out;
    for (const auto &item : items) out += (out.empty() ? "" : ", ") + fn(item);
    return "[" + out + "]";
}

} // namespace n730
