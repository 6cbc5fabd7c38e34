// What is said on stderr while something takes long, and the one way to write to stdout.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace n730 {

// A line on a terminal, drawn over itself once the work has taken half a second; nothing where stderr is a file.
class Progress {
  public:
    // `unit`: "tokens", or "" for bytes.
    Progress(std::string what, uint64_t total, std::string unit);
    ~Progress(); // wipes the line
    void advance(uint64_t amount) { reach(done_ + amount); }
    void reach(uint64_t done); // of the total at most
    uint64_t done() const { return done_; }

  private:
    void draw(double now);

    const std::string what_, unit_;
    const uint64_t total_;
    const bool visible_;
    const double start_;
    uint64_t done_ = 0;
    double drawn_;
    size_t width_ = 0; // of the longest line drawn
};

void say(const std::string &line); // `n730-exec: LINE` on stderr

// Writes to stdout; throws Error if it is closed or full.
void put(std::string_view text);
void put_flush();

} // namespace n730
