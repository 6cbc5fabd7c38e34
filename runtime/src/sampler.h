// Chooses the next token from logits. The same seed gives the same choices on every machine.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace n730 {

// splitmix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t next() {
        uint64_t z = state_ += 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }
    double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; } // [0, 1)

  private:
    uint64_t state_;
};

struct SamplerOptions {
    double temperature = 0; // 0: greedy
    int64_t top_k = 0;      // 0: all
    double top_p = 1;       // 1: all
    uint64_t seed = 0;
};

class Sampler {
  public:
    Sampler(int64_t vocab, const SamplerOptions &options);
    // Greedy: the first of the largest. Otherwise, in this order: temperature, the top_k largest, of these the
    // fewest whose probability reaches top_p, one of them by its probability. `logits`: f32 [vocab]; a NaN is never
    // chosen while there is anything else. Allocates nothing.
    int32_t sample(const float *logits);

  private:
    struct Candidate {
        double weight;
        float logit;
        int32_t id;
    };
    void sort_first(size_t n);

    const int64_t vocab_;
    const SamplerOptions options_;
    Random random_;
    std::vector<Candidate> candidates_;
    size_t kept_ = 0, sorted_ = 0; // the first `sorted_` of `kept_` are in order
};

} // namespace n730
