// Chooses the next token from logits. The same seed gives the same choices on every machine.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>
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
    double min_p = 0;       // 0: all
    double typical = 1;     // 1: all
    double repetition_penalty = 1, frequency_penalty = 0, presence_penalty = 0;
    std::vector<std::pair<int32_t, float>> bias; // of token ids, added to their logits
    uint64_t seed = 0;
};

class Sampler {
  public:
    Sampler(int64_t vocab, const SamplerOptions &options);
    // Tells of a token that is in the text now: of the prompt, or generated.
    void accept(int32_t id, bool generated);
    // Forgets all tokens; the random sequence goes on.
    void forget();

    // In this order, as transformers does it: bias is added; the repetition penalty r divides the logits of tokens that are
    // in the text (prompt included) by r if they are positive and multiplies them if not; the frequency penalty is
    // subtracted for each time that a token was generated, the presence penalty once. Then greedy: the first of
    // the largest. Or temperature; the top_k largest; of these the fewest whose probability reaches top_p; of these those
    // with at least min_p times the probability of the likeliest; of these the fewest that reach `typical`, nearest first
    // by how far -log p is from the entropy (all that are as near as the last are kept); one of them by its probability.
    // `logits`: f32 [vocab]; a NaN is never chosen while there is anything else. Allocates nothing.
    int32_t sample(const float *logits);

    // What the last sample() chose among; empty if it was greedy.
    size_t kept() const { return kept_; }
    int32_t kept_id(size_t i) const { return candidates_[i].id; }
    // Its probability among them.
    double kept_probability(size_t i) const;

  private:
    struct Candidate {
        double weight;
        float logit;
        int32_t id;
        float far; // of -log p from the entropy
    };
    struct Seen {
        int32_t id;
        uint32_t generated; // times
    };
    const float *adjust(const float *logits);
    void sort_first(size_t n);
    void keep_top_p();
    void keep_min_p();
    void keep_typical();
    double total() const;

    const int64_t vocab_;
    const SamplerOptions options_;
    const bool penalizes_;
    Random random_;
    std::vector<float> adjusted_;    // a copy of the logits, where they are changed
    std::vector<Seen> seen_;         // each token of the text once
    std::vector<uint32_t> where_;    // by id: index in seen_ + 1, 0: not there
    std::vector<Candidate> candidates_;
    size_t kept_ = 0, sorted_ = 0; // the first `sorted_` of `kept_` are in order
};

// Logarithm of the probability of each token by the model alone, without temperature, penalties and filters: the logit
// less this.
double log_total(const float *logits, int64_t vocab);

} // namespace n730
