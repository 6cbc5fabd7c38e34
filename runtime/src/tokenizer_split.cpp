#include "tokenizer_split.h"

#include "tokenizer_automaton.h"

namespace n730 {
namespace {

// Joins matches and what lies between them into the parts that a behavior asks for; each part goes to `out`, whose
// answer false ends everything.
template <class Out> class Joiner {
  public:
    Joiner(Behavior behavior, Out out) : behavior_(behavior), out_(out) {}

    bool add(const uint8_t *begin, const uint8_t *end, bool match) {
        switch (behavior_) {
        case Behavior::ISOLATED: return out_(begin, end);
        case Behavior::REMOVED: return match || out_(begin, end);
        case Behavior::CONTIGUOUS: return hold(begin, end, match, held_match_ == match);
        case Behavior::MERGED_WITH_PREVIOUS: return hold(begin, end, match, match && !held_match_);
        case Behavior::MERGED_WITH_NEXT: return hold(begin, end, match, held_match_ && !match);
        }
        return true;
    }
    bool finish() { return !held_ || out_(held_, held_end_); }

  private:
    // The part is held back until it is certain that the next does not belong to it.
    bool hold(const uint8_t *begin, const uint8_t *end, bool match, bool join) {
        const bool joined = held_ && join;
        if (held_ && !joined && !out_(held_, held_end_)) return false;
        if (!joined) held_ = begin;
        held_end_ = end;
        held_match_ = match;
        return true;
    }

    const Behavior behavior_;
    Out out_;
    const uint8_t *held_ = nullptr, *held_end_ = nullptr;
    bool held_match_ = false;
};

} // namespace

bool PreTokenizer::split(size_t at, const TextStep &step, const Piece &text, Budget &budget, const Word &word) {
    const auto out = [&](const uint8_t *begin, const uint8_t *end) {
        return run(at + 1, {begin, end, text.first && begin == text.begin}, budget, word);
    };
    Joiner<decltype(out)> joiner(static_cast<Behavior>(step.arg & SPLIT_BEHAVIOR), out);
    const bool invert = step.arg & SPLIT_INVERT;
    const auto part = [&](const uint8_t *begin, const uint8_t *end, bool match) { return joiner.add(begin, end, match != invert); };
    return Automaton(tables_, step.automaton, step.arg & SPLIT_BYTES).split(text.begin, text.end, part) && joiner.finish();
}

bool PreTokenizer::run(size_t at, Piece text, Budget &budget, const Word &word) {
    for (; at < buffers_.size() && text.size() != 0; at++) {
        const TextStep step(tables_.pre_tokenizer.data + TokenizerTables::kStep * at);
        if (step.op == TextOp::SPLIT) return split(at, step, text, budget, word);
        if (step.op == TextOp::REPLACE) {
            if (!replace(tables_, step, text, buffers_[at], budget)) return false;
        } else if (step.op == TextOp::PREFIX && (text.first || step.arg == 0)) {
            const std::string_view prefix = tables_.text_at(step.x, step.a);
            const std::string_view whole(reinterpret_cast<const char *>(text.begin), text.size());
            if (whole.substr(0, prefix.size()) == prefix) continue;
            if (!budget.spend(prefix.size() + whole.size())) return false;
            buffers_[at].assign(prefix).append(whole);
            text = {bytes_of(buffers_[at]), bytes_of(buffers_[at]) + buffers_[at].size(), text.first};
        }
    }
    if (text.size() != 0) word(text.begin, text.end);
    return true;
}

} // namespace n730
