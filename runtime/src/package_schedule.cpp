// SCHEDULE: what is read when, into which place of the ring, and what waits for it. After these checks no read
// overwrites what is in use, and nothing waits for itself.
#include "package.h"

#include <algorithm>

namespace n730 {

namespace {

constexpr uint32_t MAX_LEAD = 64;

std::string str(uint64_t n) { return std::to_string(n); }

struct Event {
    uint16_t action, zero;
    uint32_t a, b, c;
};

// The entries of one plan, taken one after the other.
class Cursor {
  public:
    Cursor(const std::vector<uint8_t> &bytes, const Plan &plan, size_t index)
        : next_(bytes.data() + size_t(plan.schedule_first) * 16), left_(plan.schedule_count), plan_(index) {}

    bool at_end() const { return left_ == 0; }
    // The CARD entries that come next; their reserved field is 0.
    std::vector<CardShare> take_cards() {
        std::vector<CardShare> found;
        while (left_ > 0 && be16(next_) == CARD) {
            const Event e = take(CARD, be32(next_ + 4));
            found.push_back({e.a, e.b, e.c});
        }
        return found;
    }
    // The next entry, if it is `action` of `a`; the reserved field is 0, and so is c but of CARD.
    Event take(Action action, uint64_t a) {
        static const char *const names[] = {"", "LOAD ", "RUN from ", "READ ", "WAIT ", "CARD of step "};
        const std::string expected = names[action] + str(a);
        need(left_ > 0, expected, "the end");
        const Event e{be16(next_), be16(next_ + 2), be32(next_ + 4), be32(next_ + 8), be32(next_ + 12)};
        need(e.action == action && e.a == a && e.zero == 0 && (e.c == 0 || action == CARD), expected,
             "action " + str(e.action) + " of " + str(e.a) + ", " + str(e.b) + ", " + str(e.c));
        next_ += 16, --left_, ++entry_;
        return e;
    }
    void need(bool good, const std::string &expected, const std::string &found) const {
        if (!good)
            throw PackageError("E_PLAN", "plan " + str(plan_) + ": schedule entry " + str(entry_), expected, found);
    }

  private:
    const uint8_t *next_;
    uint32_t left_;
    const size_t plan_;
    size_t entry_ = 0;
};

std::vector<Read> take_reads(const Package &package, size_t plan, Cursor &cursor, const std::vector<SegmentUse> &uses) {
    const auto of = [&](Tier tier) {
        std::vector<uint32_t> segments;
        for (uint32_t i = 0; i < package.segments.size(); ++i)
            if (package.placement(plan, i).tier == tier) segments.push_back(i);
        return segments;
    };
    for (const uint32_t segment : of(Tier::RAM))
        cursor.need(cursor.take(LOAD, segment).b == 0, "LOAD with b = 0", "another b");
    const std::vector<uint32_t> streamed = of(Tier::STREAM);
    std::vector<Read> reads;
    reads.reserve(streamed.size());
    const uint64_t most = std::min<uint64_t>(MAX_LEAD, streamed.size());
    for (const uint32_t segment : streamed) {
        const uint32_t lead = cursor.take(READ, segment).b;
        cursor.need(lead >= 1 && lead <= most, "a lead of 1 to " + str(most), str(lead));
        const SegmentUse &use = uses[segment];
        cursor.need(reads.empty() || (use.first >= reads.back().first && use.last >= reads.back().last),
                    "segments in the order of their use", "segment " + str(segment));
        reads.push_back({segment, lead, use.first, use.last});
    }
    return reads;
}

// RUNs of all steps; before the step that first uses a STREAM segment, a WAIT for it that can end.
void take_runs(const Package &package, Cursor &cursor, const std::vector<Read> &reads) {
    const uint64_t steps = package.steps.size();
    uint64_t step = 0;
    size_t waited = 0, released = 0; // READs waited for; READs whose last step is before `step`
    while (step < steps) {
        for (; released < reads.size() && reads[released].last < step;) ++released;
        for (; waited < reads.size() && reads[waited].first == step; ++waited) {
            cursor.need(cursor.take(WAIT, reads[waited].segment).b == 0, "WAIT with b = 0", "another b");
            cursor.need(released + reads[waited].lead > waited, "a segment that does not wait for itself",
                        "lead " + str(reads[waited].lead) + " with " + str(released) + " released");
        }
        const uint64_t most = (waited < reads.size() ? reads[waited].first : steps) - step;
        const uint32_t count = cursor.take(RUN, step).b;
        cursor.need(count >= 1 && count <= most, "a RUN of 1 to " + str(most) + " steps", str(count));
        step += count;
    }
    cursor.need(cursor.at_end(), "the end", "more entries");
}

// No read goes where one of those before it may still be in use, over the border between two passes too.
void check_ring(const Package &package, size_t plan, const std::vector<Read> &reads) {
    const auto range = [&](uint32_t segment) {
        const uint64_t begin = package.placement(plan, segment).offset;
        return std::pair(begin, begin + package.segments[segment].size);
    };
    for (size_t i = 0; i < reads.size(); ++i)
        for (size_t back = 1; back < reads[i].lead; ++back) {
            const Read &other = reads[i >= back ? i - back : i + reads.size() - back];
            const auto [begin, end] = range(reads[i].segment);
            const auto [other_begin, other_end] = range(other.segment);
            if (begin < other_end && other_begin < end)
                throw PackageError("E_PLAN", "plan " + str(plan) + ": READ of segment " + str(reads[i].segment),
                                   "a place that is free", "that of segment " + str(other.segment));
        }
}

} // namespace

std::vector<SegmentUse> segment_uses(const Package &package) {
    enum { UNUSED = 0, IN_BODY = 1, EMBEDDED = 2, IN_HEAD = 4, IN_EXPERT = 8 };
    uint32_t expert = NONE, expert_end = 0; // the steps of one expert
    std::vector<uint8_t> tensors(package.tensors.size(), UNUSED);
    std::vector<SegmentUse> uses(package.segments.size());
    for (uint32_t i = 0; i < package.steps.size(); ++i) {
        const Step &step = package.steps[i];
        if (step.op == Op::EXPERT) expert = i, expert_end = i + 1 + static_cast<uint32_t>(step.p[1]);
        for (const uint32_t id : {step.weight, step.bias}) {
            if (id == NONE) continue;
            const bool positions = step.op == Op::EMBED && step.p[0] != 0; // their rows are not rows of ids
            tensors[id] |= i < expert_end                   ? IN_EXPERT
                           : i >= package.program.head_first ? IN_HEAD
                           : positions                       ? EMBEDDED | IN_BODY
                           : step.op == Op::EMBED            ? EMBEDDED
                                                             : IN_BODY;
            SegmentUse &use = uses[package.tensors[id].segment];
            const bool alone = use.first == NONE || use.expert == expert;
            use.expert = alone && i < expert_end ? expert : NONE;
            use.first = std::min(use.first, i);
            use.last = i;
        }
    }
    for (size_t i = 0; i < uses.size(); ++i) {
        const uint8_t *first = tensors.data() + package.segments[i].first_tensor;
        const uint8_t *end = first + package.segments[i].tensor_count;
        uses[i].streams = std::all_of(first, end, [](uint8_t use) { return use == IN_BODY; });
        uses[i].only_embeds = std::any_of(first, end, [](uint8_t use) { return use == EMBEDDED; }) &&
                              std::all_of(first, end, [](uint8_t use) { return use == EMBEDDED || use == UNUSED; });
        if (!std::all_of(first, end, [](uint8_t use) { return use == IN_EXPERT; })) uses[i].expert = NONE;
    }
    return uses;
}

void read_schedule(Package &package, const std::vector<SegmentUse> &uses) {
    const std::vector<uint8_t> events = read_section(package, SCHEDULE);
    package.reads.reserve(package.plans.size());
    for (size_t i = 0; i < package.plans.size(); ++i) {
        Cursor cursor(events, package.plans[i], i);
        package.reads.push_back(take_reads(package, i, cursor, uses));
        package.cards.push_back(cursor.take_cards());
        take_runs(package, cursor, package.reads[i]);
        check_ring(package, i, package.reads[i]);
        check_cards(package, i);
    }
}

} // namespace n730
