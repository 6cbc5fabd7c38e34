// PLANS, PLACEMENTS, OFFSETS: where everything lies in the arena, and that nothing overlaps.
#include "package.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace n730 {

namespace {

constexpr uint32_t MAX_CONTEXT = 1u << 24, MAX_READ = 1u << 26, MAX_IN_FLIGHT = 64, MAX_PLACES = 1u << 16;

std::string str(uint64_t n) { return std::to_string(n); }

void need(bool good, size_t plan, const std::string &what, const std::string &expected, const std::string &found) {
    if (!good) throw PackageError("E_PLAN", "plan " + str(plan) + ": " + what, expected, found);
}

// Steps during which a buffer holds something; first > last: never.
struct Life {
    uint32_t first = NONE, last = 0;
};

std::vector<Life> buffer_lives(const Package &package) {
    std::vector<Life> lives(package.buffers.size());
    const uint32_t end = static_cast<uint32_t>(package.steps.size()) - 1;
    const auto use = [&](uint32_t buffer, uint32_t step) {
        if (buffer == NONE) return;
        Life &life = lives[buffer];
        life.first = std::min(life.first, step);
        // The head runs many times over one body pass: what it reads of the body must last.
        const bool crosses = step >= package.program.head_first && package.buffers[buffer].scope == Scope::BODY;
        life.last = std::max(life.last, crosses ? end : step);
    };
    for (uint32_t i = 0; i <= end; ++i) {
        for (const uint32_t in : package.steps[i].in) use(in, i);
        use(package.steps[i].out, i);
    }
    lives[package.program.logits].last = end;
    return lives;
}

constexpr uint32_t FIXED = NONE, RING = NONE - 1;

struct Range {
    uint64_t begin, end;
    uint32_t buffer; // FIXED: nothing may share its bytes; RING: a STREAM segment, only others of them may
};

// Sweeps the arena from low to high; `living` holds the buffers over the current byte by the first step of their lives.
void check_overlaps(size_t plan, std::vector<Range> &ranges, const std::vector<Life> &lives) {
    std::sort(ranges.begin(), ranges.end(), [](const Range &a, const Range &b) { return a.begin < b.begin; });
    const auto clash = [&](const Range &r) {
        need(false, plan, "the arena", "ranges that do not overlap", "an overlap at byte " + str(r.begin));
    };
    std::multimap<uint64_t, uint32_t> ends; // of the buffers in `living`
    std::map<uint32_t, uint32_t> living;    // first step → last step
    uint64_t fixed_end = 0, ring_end = 0, buffers_end = 0;
    for (const Range &r : ranges) {
        if (r.begin == r.end) continue;
        const bool buffer = r.buffer != FIXED && r.buffer != RING;
        if (r.begin < fixed_end || (r.buffer != RING && r.begin < ring_end) || (!buffer && r.begin < buffers_end))
            clash(r);
        if (!buffer) {
            uint64_t &end = r.buffer == RING ? ring_end : fixed_end;
            end = std::max(end, r.end);
            continue;
        }
        buffers_end = std::max(buffers_end, r.end);
        const Life life = lives[r.buffer];
        if (life.first > life.last) continue;
        while (!ends.empty() && ends.begin()->first <= r.begin) {
            living.erase(ends.begin()->second);
            ends.erase(ends.begin());
        }
        const auto after = living.lower_bound(life.first);
        if (after != living.end() && after->first <= life.last) clash(r);
        if (after != living.begin() && std::prev(after)->second >= life.first) clash(r);
        living.emplace(life.first, life.last);
        ends.emplace(r.end, life.first);
    }
}

void check_arena(const Package &package, size_t plan, const std::vector<Life> &lives,
                 const std::vector<SegmentUse> &uses) {
    const Plan &p = package.plans[plan];
    std::vector<Range> ranges;
    ranges.reserve(package.segments.size() + package.buffers.size() + package.caches.size() + 1);
    const auto add = [&](const char *what, uint64_t offset, uint64_t size, uint64_t align, uint32_t buffer) {
        need(offset % align == 0, plan, what, "an offset that is a multiple of " + str(align), str(offset));
        need(inside(offset, size, p.arena_bytes), plan, what, "within " + str(p.arena_bytes) + " bytes of arena",
             str(size) + " bytes at " + str(offset));
        ranges.push_back({offset, offset + size, buffer});
    };
    uint64_t largest = 0; // expert that is not in RAM
    std::vector<bool> seen(package.steps.size());
    for (size_t i = 0; i < package.segments.size(); ++i) {
        const Placement place = package.placement(plan, i);
        const uint64_t size = place.tier == Tier::ROWS ? 2 * PIECE : package.segments[i].size;
        if (place.tier == Tier::VRAM) {
            need(place.offset == 0, plan, "offset of segment " + str(i) + " in VRAM", "0", str(place.offset));
            continue;
        }
        if (place.tier == Tier::EXPERT) {
            need(place.offset == 0, plan, "offset of an expert", "0", str(place.offset));
            need(!seen[uses[i].expert], plan, "segments of one expert", "one", "two");
            seen[uses[i].expert] = true;
            largest = std::max(largest, size);
            continue;
        }
        add("a segment", place.offset, size, PAGE, place.tier == Tier::STREAM ? RING : FIXED);
    }
    need((p.expert_places > 0) == (largest > 0), plan, "places for experts", largest > 0 ? "1 or more" : "0",
         str(p.expert_places));
    add("the experts", p.experts_offset, largest * p.expert_places, PAGE, FIXED);
    for (uint32_t i = 0; i < package.buffers.size(); ++i)
        add("a buffer", package.buffer_offset(plan, i), buffer_bytes(package.buffers[i], p), 64, i);
    for (size_t i = 0; i < package.caches.size(); ++i)
        add("a cache", package.cache_offset(plan, i), package.caches[i].bytes(p.context, p.batch), 64, FIXED);
    add("the tokenizer", p.tokenizer_offset, package.sections[TOKENIZER].size, 64, FIXED);
    check_overlaps(plan, ranges, lives);
}

// Throws unless the segment may live in that tier.
void check_tier(const Package &package, size_t plan, size_t segment, const SegmentUse &use) {
    const Tier tier = package.placement(plan, segment).tier;
    const std::string what = "tier of segment " + str(segment);
    need(tier != Tier::STREAM || use.streams, plan, what,
         "0: it has a tensor that no step of the body uses, or EMBED, or an expert", "1");
    need(tier != Tier::EXPERT || use.expert != NONE, plan, what, "0: it is not that of one expert", "4");
    if (tier != Tier::ROWS) return;
    const Segment &s = package.segments[segment];
    const Tensor &t = package.tensors[s.first_tensor];
    need(s.tensor_count == 1 && use.only_embeds && t.layout == Layout::MATRIX &&
             matrix_bytes(t.format, TILE_ROWS, t.cols) <= PIECE,
         plan, what, "0: it is not one matrix for EMBED with tiles of at most 256 KiB", "3");
}

void read_plan(Package &package, const uint8_t *r, size_t i, uint64_t &events) {
    const bool with_card = be64(r + 8) > 0, card_before = i == 0 || package.plans[i - 1].vram_bytes > 0;
    need(card_before || !with_card, i, "VRAM", "0, as the plan before has none", str(be64(r + 8)));
    const uint64_t before = i == 0 || with_card != card_before ? ~uint64_t(0) : package.plans[i - 1].arena_bytes;
    const Plan p{be64(r),      be64(r + 48), be64(r + 32),   be32(r + 16),   be32(r + 20),  be32(r + 24),
                 be32(r + 40), be32(r + 44), be_f64(r + 56), be_f64(r + 64), be_f64(r + 72), be_f64(r + 80),
                 be32(r + 88), be32(r + 92), be64(r + 96),   be32(r + 104), be32(r + 28),  be64(r + 8)};
    need(p.arena_bytes % PAGE == 0 && p.arena_bytes <= uint64_t(1) << 46, i, "arena",
         "a multiple of 4096, at most 2^46", str(p.arena_bytes));
    need(p.arena_bytes <= before, i, "arena", "at most that of the plan before", str(p.arena_bytes));
    need(p.context >= 1 && p.context <= MAX_CONTEXT, i, "context", "1 to 2^24", str(p.context));
    need(p.batch >= 1 && p.batch <= 4096, i, "batch", "1 to 4096", str(p.batch));
    need(p.head_batch >= 1 && p.head_batch <= p.batch, i, "head batch", "1 to " + str(p.batch), str(p.head_batch));
    need(p.card_batch <= p.batch, i, "card batch", "0 to " + str(p.batch), str(p.card_batch));
    need(all_zero(r + 108, 20), i, "reserved bytes", "zeros", "others");
    need(p.schedule_first == events, i, "first event", str(events), str(p.schedule_first));
    events += p.schedule_count;
    need(events <= package.sections[SCHEDULE].size / 16, i, "events", "those that SCHEDULE has left",
         str(p.schedule_count));
    for (const double x : {p.decode_tokens_per_s, p.prefill_tokens_per_s, p.first_token_s, p.disk_bytes_per_s})
        need(std::isfinite(x) && x >= 0, i, "predictions", "finite and at least 0", std::to_string(x));
    need(p.read_bytes >= PIECE && p.read_bytes % PIECE == 0 && p.read_bytes <= MAX_READ, i, "bytes of one read",
         "a multiple of 262144, at most 2^26", str(p.read_bytes));
    need(p.expert_places <= MAX_PLACES, i, "places for experts", "at most 65536", str(p.expert_places));
    need(p.expert_places > 0 || p.experts_offset == 0, i, "offset of no experts", "0", str(p.experts_offset));
    need(p.reads_in_flight >= 1 && p.reads_in_flight <= MAX_IN_FLIGHT, i, "reads in flight", "1 to 64",
         str(p.reads_in_flight));
    package.plans.push_back(p);
}

} // namespace

void read_plans(Package &package) {
    uint64_t events = 0;
    each_record(package, PLANS, 128, [&](const uint8_t *r, size_t i) { read_plan(package, r, i, events); });
    const uint64_t have = package.sections[SCHEDULE].size / 16;
    if (events != have) throw PackageError("E_PLAN", "events of all plans", str(have), str(events));
    package.placements.reserve(package.sections[PLACEMENTS].size / 16);
    each_record(package, PLACEMENTS, 16, [&](const uint8_t *r, size_t i) {
        need(r[0] <= 4 && all_zero(r + 1, 7), i / package.segments.size(), "placement " + str(i),
             "tier 0 to 4, device and reserved bytes 0", "others");
        package.placements.push_back({Tier(r[0]), be64(r + 8)});
    });
    package.offsets.reserve(package.sections[OFFSETS].size / 8);
    each_record(package, OFFSETS, 8, [&](const uint8_t *r, size_t) { package.offsets.push_back(be64(r)); });
    for (const Step &step : package.steps)
        for (size_t i = 0; step.op == Op::EMBED && step.p[0] != 0 && i < package.plans.size(); ++i)
            need(package.plans[i].context <= package.tensors[step.weight].rows, i, "context",
                 "at most the positions that have a row, " + str(package.tensors[step.weight].rows),
                 str(package.plans[i].context));
    const std::vector<Life> lives = buffer_lives(package);
    const std::vector<SegmentUse> uses = segment_uses(package);
    for (size_t i = 0; i < package.plans.size(); ++i) {
        for (size_t j = 0; j < package.segments.size(); ++j) check_tier(package, i, j, uses[j]);
        check_arena(package, i, lives, uses);
    }
    read_schedule(package, uses);
}

} // namespace n730
