// One line about speed while tokens come: behind the text where both are on one terminal, else on a line of its own.
#pragma once
#include "reader.h"

#include <string>

namespace n730 {

class Status {
  public:
    // `disk_rate`: bytes/s that the plan counts on. Nothing is drawn where nobody looks.
    Status(const Reader &reader, double disk_rate);
    ~Status(); // wipes it
    Status(const Status &) = delete;
    Status &operator=(const Status &) = delete;

    void token() { ++tokens_; }
    void draw();  // if the last time was long enough ago
    void clear(); // to be called before text is written

  private:
    enum class Where { NOWHERE, BEHIND_TEXT, OWN_LINE };
    std::string text(double now) const;

    const Reader &reader_;
    const double disk_rate_;
    Where where_ = Where::NOWHERE;
    const double start_;
    const uint64_t start_bytes_;
    uint64_t tokens_ = 0;
    double drawn_;
    size_t width_ = 0; // of what is on the terminal
};

} // namespace n730
