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

// Not inline across files: hash_avx2.cpp has one of its own, of other instructions.
static inline uint64_t xxh3(const void *data, size_t n) { return XXH3_64bits(data, n); }
// The same value, with AVX2: 49 instead of 20 GB/s in the cache of a Zen 4.
uint64_t xxh3_avx2(const void *data, size_t n);

class Hasher {
  public:
    Hasher() { XXH3_64bits_reset(&state_); }
    void update(const void *data, size_t n) { XXH3_64bits_update(&state_, data, n); }
    uint64_t digest() const { return XXH3_64bits_digest(&state_); }

  private:
    XXH3_state_t state_;
};

} // namespace n730
