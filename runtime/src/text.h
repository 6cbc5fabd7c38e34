// Small texts: sizes and numbers as people and JSON want them.
#pragma once
#include <cstdint>
#include <string>

namespace n730 {

// `512M`, `1.5G`, `4096`: bytes, in binary units (K, M, G, T; `MB` and `MiB` mean the same). False if malformed.
bool parse_size(const std::string &text, uint64_t &bytes);
std::string format_size(uint64_t bytes); // "1.5 GiB"
std::string format_number(double value); // three significant digits, never an exponent for usual values

// A flat JSON object, one member a line, as `--json` prints it.
class JsonObject {
  public:
    JsonObject &add(const char *name, uint64_t value) { return raw(name, std::to_string(value)); }
    JsonObject &add(const char *name, double value); // finite, or null
    JsonObject &add(const char *name, const std::string &plain) {
        return raw(name, '"' + plain + '"');
    } // nothing to escape
    std::string text() const { return "{\n" + members_ + "\n}\n"; }

  private:
    JsonObject &raw(const char *name, const std::string &value);

    std::string members_;
};

} // namespace n730
