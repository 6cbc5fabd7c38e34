// XXH3-64 with seed 0, the checksum of headers, sections and segments.
#pragma once
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#define XXH_INLINE_ALL
#include <xxhash.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <cstddef>
#include <cstdint>

namespace n730 {

inline uint64_t xxh3(const void *data, size_t n) { return XXH3_64bits(data, n); }

class Hasher {
  public:
    Hasher() { XXH3_64bits_reset(&state_); }
    void update(const void *data, size_t n) { XXH3_64bits_update(&state_, data, n); }
    uint64_t digest() const { return XXH3_64bits_digest(&state_); }

  private:
    XXH3_state_t state_;
};

} // namespace n730
