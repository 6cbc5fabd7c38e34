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
    : vocab_(vocab), options_(options),
      penalizes_(options.repetition_penalty != 1 || options.frequency_penalty != 0 || options.presence_penalty != 0),
      random_(options.seed) {
    const size_t n = static_cast<size_t>(vocab);
    if (options.temperature > 0) candidates_.resize(n);
    if (penalizes_ || !options.bias.empty()) adjusted_.resize(n);
    if (penalizes_) {
        where_.resize(n);
        seen_.reserve(n);
    }
}

void Sampler::accept(int32_t id, bool generated) {
    if (!penalizes_) return;
    uint32_t &where = where_[static_cast<size_t>(id)];
    if (where == 0) {
        seen_.push_back({id, 0});
        where = static_cast<uint32_t>(seen_.size());
    }
    seen_[where - 1].generated += generated;
}

void Sampler::forget() {
    for (const Seen &token : seen_) where_[static_cast<size_t>(token.id)] = 0;
    seen_.clear();
}

const float *Sampler::adjust(const float *logits) {
    if (adjusted_.empty()) return logits;
    std::copy(logits, logits + vocab_, adjusted_.begin());
    for (const auto &[id, bias] : options_.bias) adjusted_[static_cast<size_t>(id)] += bias;
    const float repetition = static_cast<float>(options_.repetition_penalty);
    for (const Seen &token : seen_) {
        float &logit = adjusted_[static_cast<size_t>(token.id)];
        logit = logit > 0 ? logit / repetition : logit * repetition;
        if (token.generated > 0)
            logit -= static_cast<float>(options_.frequency_penalty * token.generated + options_.presence_penalty);
    }
    return adjusted_.data();
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

double Sampler::total() const {
    double sum = 0;
    for (size_t i = 0; i < kept_; ++i) sum += candidates_[i].weight;
    return sum;
}

double Sampler::kept_probability(size_t i) const { return candidates_[i].weight / total(); }

void Sampler::keep_top_p() {
    const double all = total();
    size_t n = 0;
    double reached = 0;
    do {
        sort_first(n + 1);
        reached += candidates_[n++].weight;
    } while (n < kept_ && reached < options_.top_p * all);
    kept_ = n;
}

void Sampler::keep_min_p() {
    double most = 0;
    for (size_t i = 0; i < kept_; ++i) most = std::max(most, candidates_[i].weight);
    size_t n = 0;
    for (size_t i = 0; i < kept_; ++i) // those that stay keep their order
        if (candidates_[i].weight >= options_.min_p * most) candidates_[n++] = candidates_[i];
    kept_ = std::max<size_t>(n, 1);
}

void Sampler::keep_typical() {
    const double all = total();
    double entropy = 0;
    for (size_t i = 0; i < kept_; ++i) {
        const double p = candidates_[i].weight / all;
        if (p > 0) entropy -= p * std::log(p);
    }
    for (size_t i = 0; i < kept_; ++i)
        candidates_[i].far = static_cast<float>(std::abs(-std::log(candidates_[i].weight / all) - entropy));
    const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(kept_);
    std::sort(candidates_.begin(), end,
              [](const Candidate &a, const Candidate &b) { return a.far != b.far ? a.far < b.far : a.id < b.id; });
    size_t n = 0;
    double reached = 0;
    while (n < kept_ && (n == 0 || reached < options_.typical * all)) reached += candidates_[n++].weight;
    while (n < kept_ && candidates_[n].far == candidates_[n - 1].far) ++n;
    kept_ = n;
}

int32_t Sampler::sample(const float *raw) {
    const float *const logits = adjust(raw);
    const int32_t best = greedy(logits, vocab_);
    kept_ = sorted_ = 0;
    if (candidates_.empty() || !std::isfinite(logits[best])) return best;
    const double most = logits[best];
    for (int64_t i = 0; i < vocab_; ++i) {
        const float logit = std::isnan(logits[i]) ? -std::numeric_limits<float>::infinity() : logits[i];
        const double weight = std::exp((logit - most) / options_.temperature);
        candidates_[static_cast<size_t>(i)] = {weight, logit, static_cast<int32_t>(i), 0};
    }
    kept_ = static_cast<size_t>(vocab_);
    if (options_.top_k > 0 && options_.top_k < vocab_) {
        sort_first(static_cast<size_t>(options_.top_k));
        kept_ = static_cast<size_t>(options_.top_k);
        sorted_ = kept_;
    }
    if (options_.top_p < 1) keep_top_p();
    if (options_.min_p > 0) keep_min_p();
    if (options_.typical < 1) keep_typical();
    double rest = random_.uniform() * total();
    for (size_t i = 0; i + 1 < kept_; ++i) {
        rest -= candidates_[i].weight;
        if (rest < 0) return candidates_[i].id;
    }
    return candidates_[kept_ - 1].weight > 0 ? candidates_[kept_ - 1].id : best;
}

double log_total(const float *logits, int64_t vocab) {
    const double most = logits[greedy(logits, vocab)];
    double sum = 0;
    for (int64_t i = 0; i < vocab; ++i)
        if (!std::isnan(logits[i])) sum += std::exp(logits[i] - most);
    return most + std::log(sum);
}

} // namespace n730
