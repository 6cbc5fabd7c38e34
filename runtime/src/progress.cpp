#include "progress.h"
#include "error.h"
#include "platform.h"
#include "text.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace n730 {

Progress::Progress(std::string what, uint64_t total, std::string unit)
    : what_(std::move(what)), unit_(std::move(unit)), total_(total), visible_(platform::stderr_is_tty()),
      start_(platform::seconds()), drawn_(start_ + 0.3) {}

Progress::~Progress() {
    if (width_ > 0) std::fprintf(stderr, "\r%*s\r", static_cast<int>(width_), "");
}

void Progress::reach(uint64_t done) {
    done_ = std::min(done, total_);
    if (!visible_) return;
    const double now = platform::seconds();
    if (now - drawn_ >= 0.2) draw(now);
}

void Progress::draw(double now) {
    drawn_ = now;
    const double rate = static_cast<double>(done_) / (now - start_);
    const double left = rate > 0 ? static_cast<double>(total_ - done_) / rate : 0;
    const std::string speed =
        unit_.empty() ? format_size(static_cast<uint64_t>(rate)) : format_number(rate) + " " + unit_;
    char line[160];
    std::snprintf(line, sizeof line, "%s %3.0f %%, %s/s, %.0f s left", what_.c_str(),
                  100.0 * static_cast<double>(done_) / static_cast<double>(total_ > 0 ? total_ : 1), speed.c_str(),
                  left);
    // Blanks over what the line before had more: old Windows consoles know no escape sequences.
    std::fprintf(stderr, "\r%-*s", static_cast<int>(width_), line);
    width_ = std::max(width_, std::strlen(line));
    std::fflush(stderr);
}

void say(const std::string &line) { std::fprintf(stderr, "n730-exec: %s\n", line.c_str()); }

namespace {
[[noreturn]] void fail_output() {
    throw Error("cannot write the output", "", std::strerror(errno), "Give stdout a place to go.");
}
} // namespace

void put(std::string_view text) {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) fail_output();
}

void put_flush() {
    if (std::fflush(stdout) != 0) fail_output();
}

} // namespace n730
