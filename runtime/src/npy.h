// A NumPy file of float32 rows, written as they come and put in its place only when it is whole.
#pragma once
#include <cstdint>
#include <cstdio>
#include <string>

namespace n730 {

class NpyWriter {
  public:
    // Throws Error, also where `path` is something else than a new file, a NumPy file or an empty one.
    NpyWriter(const std::string &path, int64_t rows, int64_t cols);
    ~NpyWriter(); // removes an unfinished file
    NpyWriter(const NpyWriter &) = delete;
    NpyWriter &operator=(const NpyWriter &) = delete;
    void row(const float *values); // f32 [cols]
    void finish();

  private:
    [[noreturn]] void fail();

    const std::string path_, temporary_;
    const int64_t cols_;
    std::FILE *file_;
};

} // namespace n730
