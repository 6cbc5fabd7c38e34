#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace n730 {

namespace {

int32_t greedy(const float *logits, int64_t vocab) {
    int64_t best = 0;
    float most = -std::numeric_limits<float>::infinity();
    for (int64_t i = 0; i < vocab; ++i)
        if (logits[i] > most) most = logits[i], best = i;
    return static_cast<int32_t>(best);
}

} // namespace

Sampler::Sampler(int64_t vocab, const SamplerOptions &options)
    : vocab_(vocab), options_(options), random_(options.seed) {
    if (options.temperature > 0) candidates_.resize(static_cast<size_t>(vocab));
}

namespace {
// Largest first; equal ones by id, so that the order is the same everywhere.
template <class Candidate> bool before(const Candidate &a, const Candidate &b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}
} // namespace

// Sorts no more than is asked for, in steps that grow: usually a few tokens hold almost all probability.
void Sampler::sort_first(size_t n) {
    while (sorted_ < n) {
        const size_t end = std::min(kept_, std::max<size_t>(64, sorted_ * 4));
        const auto from = candidates_.begin() + static_cast<std::ptrdiff_t>(sorted_);
        const auto to = candidates_.begin() + static_cast<std::ptrdiff_t>(end);
        const auto last = candidates_.begin() + static_cast<std::ptrdiff_t>(kept_);
        if (to != last) std::nth_element(from, to, last, before<Candidate>);
        std::sort(from, to, before<Candidate>);
        sorted_ = end;
    }
}

int32_t Sampler::sample(const float *logits) {
    const int32_t best = greedy(logits, vocab_);
    if (candidates_.empty() || !std::isfinite(logits[best])) return best;
    const double most = logits[best];
    for (int64_t i = 0; i < vocab_; ++i) {
        const float logit = std::isnan(logits[i]) ? -std::numeric_limits<float>::infinity() : logits[i];
        const double weight = std::exp((logit - most) / options_.temperature);
        candidates_[static_cast<size_t>(i)] = {weight, logit, static_cast<int32_t>(i)};
    }
    kept_ = static_cast<size_t>(vocab_);
    sorted_ = 0;
    if (options_.top_k > 0 && options_.top_k < vocab_) {
        sort_first(static_cast<size_t>(options_.top_k));
        kept_ = static_cast<size_t>(options_.top_k);
        sorted_ = kept_;
    }
    double total = 0;
    for (size_t i = 0; i < kept_; ++i) total += candidates_[i].weight;
    if (options_.top_p < 1) {
        size_t n = 0;
        double reached = 0;
        do {
            sort_first(n + 1);
            reached += candidates_[n++].weight;
        } while (n < kept_ && reached < options_.top_p * total);
        kept_ = n;
        total = reached;
    }
    double rest = random_.uniform() * total;
    for (size_t i = 0; i + 1 < kept_; ++i) {
        rest -= candidates_[i].weight;
        if (rest < 0) return candidates_[i].id;
    }
    return candidates_[kept_ - 1].weight > 0 ? candidates_[kept_ - 1].id : best;
}

} // namespace n730
