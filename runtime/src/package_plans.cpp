// PLANS, PLACEMENTS, OFFSETS, SCHEDULE: where everything lies in the arena, and that nothing overlaps.
#include "package.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace n730 {

namespace {

constexpr uint32_t MAX_CONTEXT = 1u << 24;

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

struct Range {
    uint64_t begin, end;
    uint32_t buffer; // NONE: nothing may share its bytes
};

// Sweeps the arena from low to high; `living` holds the buffers over the current byte by the first step of their lives.
void check_overlaps(size_t plan, std::vector<Range> &ranges, const std::vector<Life> &lives) {
    std::sort(ranges.begin(), ranges.end(), [](const Range &a, const Range &b) { return a.begin < b.begin; });
    const auto clash = [&](const Range &r) {
        need(false, plan, "the arena", "ranges that do not overlap", "an overlap at byte " + str(r.begin));
    };
    std::multimap<uint64_t, uint32_t> ends; // of the buffers in `living`
    std::map<uint32_t, uint32_t> living;    // first step → last step
    uint64_t fixed_end = 0, buffers_end = 0;
    for (const Range &r : ranges) {
        if (r.begin == r.end) continue;
        if (r.begin < fixed_end) clash(r);
        if (r.buffer == NONE) {
            if (r.begin < buffers_end) clash(r);
            fixed_end = r.end;
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

void check_arena(const Package &package, size_t plan, const std::vector<Life> &lives) {
    const Plan &p = package.plans[plan];
    std::vector<Range> ranges;
    ranges.reserve(package.segments.size() + package.buffers.size() + package.caches.size() + 1);
    const auto add = [&](const char *what, uint64_t offset, uint64_t size, uint64_t align, uint32_t buffer) {
        need(offset % align == 0, plan, what, "an offset that is a multiple of " + str(align), str(offset));
        need(inside(offset, size, p.arena_bytes), plan, what, "within " + str(p.arena_bytes) + " bytes of arena",
             str(size) + " bytes at " + str(offset));
        ranges.push_back({offset, offset + size, buffer});
    };
    for (size_t i = 0; i < package.segments.size(); ++i)
        add("a segment", package.segment_offset(plan, i), package.segments[i].size, PAGE, NONE);
    for (uint32_t i = 0; i < package.buffers.size(); ++i)
        add("a buffer", package.buffer_offset(plan, i), buffer_bytes(package.buffers[i], p), 64, i);
    for (size_t i = 0; i < package.caches.size(); ++i)
        add("a cache", package.cache_offset(plan, i), package.caches[i].bytes(p.context, p.batch), 64, NONE);
    add("the tokenizer", p.tokenizer_offset, package.sections[TOKENIZER].size, 64, NONE);
    check_overlaps(plan, ranges, lives);
}

void check_schedule(const Package &package, size_t plan, const std::vector<uint8_t> &events) {
    const Plan &p = package.plans[plan];
    const uint64_t segments = package.segments.size(), steps = package.steps.size();
    uint64_t loaded = 0, run = 0;
    for (uint32_t i = 0; i < p.schedule_count; ++i) {
        const uint8_t *r = events.data() + (size_t(p.schedule_first) + i) * 16;
        const uint16_t action = be16(r);
        const uint32_t a = be32(r + 4), b = be32(r + 8);
        const std::string where = "event " + str(i);
        need(be16(r + 2) == 0 && be32(r + 12) == 0, plan, where + ", unused fields", "0", "others");
        if (loaded < segments) {
            need(action == LOAD && a == loaded && b == 0, plan, where, "LOAD of segment " + str(loaded),
                 "action " + str(action) + " of " + str(a));
            ++loaded;
        } else {
            need(action == RUN && a == run && b >= 1 && b <= steps - run, plan, where, "RUN from step " + str(run),
                 "action " + str(action) + " of " + str(a) + ", " + str(b));
            run += b;
        }
    }
    need(loaded == segments && run == steps, plan, "schedule", "all segments loaded and all steps run",
         str(loaded) + " and " + str(run));
}

void read_plan(Package &package, const uint8_t *r, size_t i, uint64_t &events) {
    const uint64_t before = i == 0 ? ~uint64_t(0) : package.plans[i - 1].arena_bytes;
    const Plan p{be64(r),      be64(r + 48), be64(r + 32),   be32(r + 16),   be32(r + 20),  be32(r + 24),
                 be32(r + 40), be32(r + 44), be_f64(r + 56), be_f64(r + 64), be_f64(r + 72)};
    need(p.arena_bytes % PAGE == 0 && p.arena_bytes <= uint64_t(1) << 46, i, "arena",
         "a multiple of 4096, at most 2^46", str(p.arena_bytes));
    need(p.arena_bytes <= before, i, "arena", "at most that of the plan before", str(p.arena_bytes));
    need(be64(r + 8) == 0, i, "VRAM", "0", str(be64(r + 8)));
    need(p.context >= 1 && p.context <= MAX_CONTEXT, i, "context", "1 to 2^24", str(p.context));
    need(p.batch >= 1 && p.batch <= 4096, i, "batch", "1 to 4096", str(p.batch));
    need(p.head_batch >= 1 && p.head_batch <= p.batch, i, "head batch", "1 to " + str(p.batch), str(p.head_batch));
    need(be32(r + 28) == 0 && all_zero(r + 80, 48), i, "reserved bytes", "zeros", "others");
    need(p.schedule_first == events, i, "first event", str(events), str(p.schedule_first));
    events += p.schedule_count;
    need(events <= package.sections[SCHEDULE].size / 16, i, "events", "those that SCHEDULE has left",
         str(p.schedule_count));
    for (const double x : {p.decode_tokens_per_s, p.prefill_tokens_per_s, p.first_token_s})
        need(std::isfinite(x) && x >= 0, i, "predictions", "finite and at least 0", std::to_string(x));
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
        need(all_zero(r, 8), i / package.segments.size(), "placement " + str(i), "tier, device and reserved bytes 0",
             "others");
        package.placements.push_back(be64(r + 8));
    });
    package.offsets.reserve(package.sections[OFFSETS].size / 8);
    each_record(package, OFFSETS, 8, [&](const uint8_t *r, size_t) { package.offsets.push_back(be64(r)); });
    const std::vector<Life> lives = buffer_lives(package);
    const std::vector<uint8_t> schedule = read_section(package, SCHEDULE);
    for (size_t i = 0; i < package.plans.size(); ++i) {
        check_arena(package, i, lives);
        check_schedule(package, i, schedule);
    }
}

} // namespace n730
