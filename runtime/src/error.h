// Errors that a user can cause: one line each, `WHAT (expected …, found …). NEXT STEP`.
#pragma once
#include <stdexcept>
#include <string>

namespace n730 {

class Error : public std::runtime_error {
  public:
    explicit Error(const std::string &what, const std::string &expected = "", const std::string &found = "",
                   const std::string &next = "")
        : std::runtime_error(line(what, expected, found, next)) {}

  private:
    static std::string line(const std::string &what, const std::string &expected, const std::string &found,
                            const std::string &next) {
        std::string inner;
        if (!expected.empty()) inner = "expected " + expected;
        if (!found.empty()) inner += (inner.empty() ? "found " : ", found ") + found;
        std::string text = what + (inner.empty() ? "" : " (" + inner + ")") + "." + (next.empty() ? "" : " " + next);
        for (char &c : text)
            if (c == '\0') c = ' '; // of a user's file: it would cut the line off
        return text;
    }
};

// A file that breaks FORMAT.md; `code` is one of those listed there.
class PackageError : public Error {
  public:
    PackageError(const std::string &code_, const std::string &what, const std::string &expected = "",
                 const std::string &found = "", const std::string &next = "")
        : Error(code_ + ": " + what, expected, found, next), code(code_) {}
    const std::string code;
};

// The user pressed Ctrl-C while something that cannot give a partial result was under way.
class Interrupted : public std::exception {};

} // namespace n730
