// META must be one JSON object as RFC 8259 has it, nested at most 64 deep. It is checked without being built.
#include "package.h"
#include "utf8.h"

#include <nlohmann/json.hpp>

namespace n730 {

namespace {

constexpr int DEEPEST = 64;

// Follows the nesting; everything else is the parser's own judgement.
class DepthCheck : public nlohmann::json_sax<nlohmann::json> {
  public:
    bool object_first = false; // the outermost value is an object

    bool null() override { return true; }
    bool boolean(bool) override { return true; }
    bool number_integer(number_integer_t) override { return true; }
    bool number_unsigned(number_unsigned_t) override { return true; }
    bool number_float(number_float_t, const string_t &) override { return true; }
    bool string(string_t &) override { return true; }
    bool binary(binary_t &) override { return false; }
    bool key(string_t &) override { return true; }
    bool start_object(std::size_t) override {
        if (depth_ == 0) object_first = true;
        return ++depth_ <= DEEPEST;
    }
    bool start_array(std::size_t) override { return ++depth_ <= DEEPEST; }
    bool end_object() override { return --depth_, true; }
    bool end_array() override { return --depth_, true; }
    bool parse_error(std::size_t, const std::string &, const nlohmann::detail::exception &) override { return false; }

  private:
    int depth_ = 0;
};

} // namespace

void check_meta(const std::vector<uint8_t> &json) {
    const std::string_view text(reinterpret_cast<const char *>(json.data()), json.size());
    DepthCheck check;
    // The parser skips a byte-order mark and stops at a zero byte; RFC 8259 allows neither.
    const bool odd = text.compare(0, 3, "\xEF\xBB\xBF") == 0 || text.find('\0') != text.npos;
    const bool good = !odd && utf8_valid_length(text) == text.size() &&
                      nlohmann::json::sax_parse(text.begin(), text.end(), &check) && check.object_first;
    if (!good)
        throw PackageError("E_META", "META is malformed", "a JSON object nested at most 64 deep", "something else");
}

std::string meta_member(const Package &package, const char *name) {
    const nlohmann::json meta = nlohmann::json::parse(read_section(package, META));
    const auto found = meta.find(name);
    return found == meta.end() ? "" : found->dump();
}

} // namespace n730
