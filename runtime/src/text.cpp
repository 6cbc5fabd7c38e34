#include "text.h"
#include "utf8.h"

#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace n730 {

bool parse_size(const std::string &text, uint64_t &bytes) {
    // strtod alone would take signs, spaces, hexadecimal digits and "inf".
    size_t digits = 0;
    while (digits < text.size() && (std::isdigit(static_cast<unsigned char>(text[digits])) || text[digits] == '.'))
        ++digits;
    const std::string number = text.substr(0, digits);
    char *end;
    const double value = std::strtod(number.c_str(), &end);
    if (number.empty() || *end != '\0') return false;
    std::string unit = text.substr(digits);
    double factor = 1;
    if (!unit.empty()) {
        const std::string units = "KMGT";
        const size_t power = units.find(static_cast<char>(std::toupper(static_cast<unsigned char>(unit[0]))));
        if (power != std::string::npos) {
            factor = std::pow(1024.0, static_cast<double>(power + 1));
            unit.erase(0, 1);
        }
        if (!unit.empty() && unit != "B" && unit != "iB") return false;
        if (unit == "iB" && power == std::string::npos) return false;
    }
    const double product = std::floor(value * factor);
    if (!(product >= 1 && product < 9e18)) return false;
    bytes = static_cast<uint64_t>(product);
    return true;
}

namespace {

int decimals(double value) { return value >= 100 ? 0 : value >= 10 ? 1 : 2; }

std::string in_units(uint64_t bytes, bool up) {
    const char *units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double value = static_cast<double>(bytes);
    int unit = 0;
    while (value >= 1024 && unit < 4) value /= 1024, ++unit;
    if (unit == 0) return std::to_string(bytes) + " bytes";
    const double step = std::pow(10.0, -decimals(value));
    return format_number(up ? std::ceil(value / step) * step : value) + " " + units[unit];
}

} // namespace

std::string format_size(uint64_t bytes) { return in_units(bytes, false); }

std::string format_need(uint64_t bytes) { return in_units(bytes, true); }

std::string format_number(double value) {
    char text[64];
    std::snprintf(text, sizeof text, "%.*f", decimals(value), value);
    return text;
}

std::string json_string(const std::string &text) {
    Utf8Stream stream;
    std::string valid(stream.push(text));
    valid += stream.flush();
    std::string out = "\"";
    for (const char c : valid) {
        if (c == '"' || c == '\\') {
            out.append(1, '\\').append(1, c);
        } else if (static_cast<unsigned char>(c) < 0x20) {
            char escape[8];
            std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
            out += escape;
        } else {
            out += c;
        }
    }
    return out + "\"";
}

JsonObject &JsonObject::add(const char *name, double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.17g", value);
    return raw(name, std::isfinite(value) ? text : "null");
}

JsonObject &JsonObject::raw(const char *name, const std::string &json) {
    members_ += separator_ + json_string(name) + ": " + json;
    separator_ = indent_ ? ",\n  " : ", ";
    return *this;
}

} // namespace n730
