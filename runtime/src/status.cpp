#include "status.h"
#include "platform.h"
#include "text.h"

#include <algorithm>

namespace n730 {

namespace {
constexpr double QUIET_SECONDS = 0.5, REDRAW_SECONDS = 0.25;
// Save the cursor and let nothing wrap; the reverse; erase to the end of the line.
constexpr const char *BEGIN = "\0337\033[?7l", *END = "\033[K\033[?7h\0338", *ERASE = "\033[K";
} // namespace

Status::Status(const Reader &reader, double disk_rate)
    : reader_(reader), disk_rate_(disk_rate), start_(platform::seconds()), start_bytes_(reader.bytes_read()),
      drawn_(start_ + QUIET_SECONDS - REDRAW_SECONDS) {
    if (platform::stderr_is_tty() && !platform::stdout_is_tty()) where_ = Where::OWN_LINE;
    // Behind text it would only disturb where tokens come fast.
    if (reader.reads() > 0 && platform::escapes_work()) where_ = Where::BEHIND_TEXT;
}

Status::~Status() {
    clear();
    if (width_ > 0) std::fprintf(stderr, "\r%*s\r", static_cast<int>(width_), "");
}

std::string Status::text(double now) const {
    const double seconds = std::max(now - start_, 1e-3);
    std::string out = std::to_string(tokens_) + (tokens_ == 1 ? " token, " : " tokens, ") +
                      format_number(static_cast<double>(tokens_) / seconds) + "/s";
    if (reader_.reads() == 0) return out;
    const double rate = static_cast<double>(reader_.bytes_read() - start_bytes_) / seconds;
    out += ", " + format_number(rate / 1e6) + " MB/s from disk";
    if (disk_rate_ > 0) out += " (" + std::to_string(static_cast<int>(100 * rate / disk_rate_ + 0.5)) + " % of its speed)";
    return out;
}

void Status::draw() {
    if (where_ == Where::NOWHERE) return;
    const double now = platform::seconds();
    if (now - drawn_ < REDRAW_SECONDS) return;
    drawn_ = now;
    const std::string line = text(now);
    if (where_ == Where::BEHIND_TEXT)
        std::fprintf(stderr, "%s  [%s]%s", BEGIN, line.c_str(), END);
    else // blanks over what the line before had more: old Windows consoles know no escape sequences
        std::fprintf(stderr, "\r%-*s", static_cast<int>(width_), line.c_str());
    std::fflush(stderr);
    width_ = std::max(width_, line.size());
}

void Status::clear() {
    if (where_ != Where::BEHIND_TEXT || width_ == 0) return;
    std::fputs(ERASE, stderr);
    width_ = 0;
}

} // namespace n730
