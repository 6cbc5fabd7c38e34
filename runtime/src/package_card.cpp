// What a plan gives to the graphics card: its CARD entries, and where they lie in VRAM.
#include "package.h"

#include <algorithm>

namespace n730 {

namespace {

constexpr uint64_t ALIGN = 256; // bytes; what cuMemAlloc gives is aligned to it

std::string str(uint64_t n) { return std::to_string(n); }

// The first step of the round of each LINEAR step outside experts, NONE for others.
std::vector<uint32_t> rounds_of(const Package &package) {
    std::vector<uint32_t> rounds(package.steps.size(), NONE);
    uint64_t expert_end = 0;
    for (uint32_t i = 0; i < rounds.size(); ++i) {
        const Step &step = package.steps[i];
        if (step.op == Op::EXPERT) expert_end = uint64_t(i) + 1 + static_cast<uint32_t>(step.p[1]);
        if (step.op != Op::LINEAR || i < expert_end) continue;
        const bool goes_on = i > 0 && rounds[i - 1] != NONE && i != package.program.head_first &&
                             package.steps[i - 1].in[0] == step.in[0];
        rounds[i] = goes_on ? rounds[i - 1] : i;
    }
    return rounds;
}

} // namespace

CardLayout card_layout(const Package &package, size_t plan) {
    const Plan &p = package.plans[plan];
    const std::vector<uint32_t> rounds = rounds_of(package);
    CardLayout layout;
    const auto take = [&](uint64_t bytes) {
        const uint64_t at = layout.bytes;
        layout.bytes += round_up(bytes, ALIGN);
        return at;
    };
    for (const CardShare &share : package.cards[plan]) {
        const Step &step = package.steps[share.step];
        const Tensor &weight = package.tensors[step.weight];
        const uint32_t first = rounds[share.step], index = static_cast<uint32_t>(layout.shares.size());
        if (layout.rounds.empty() || layout.rounds.back().first != first) {
            uint32_t last = share.step;
            while (last + 1 < rounds.size() && rounds[last + 1] == first) ++last;
            layout.rounds.push_back({first, last, index, index, {0, 0}});
        }
        CardLayout::Round &round = layout.rounds.back();
        CardLayout::Share s{};
        const uint64_t tile = matrix_bytes(weight.format, TILE_ROWS, weight.cols);
        s.weight = take(share.tiles * tile);
        layout.place_bytes = std::max(layout.place_bytes, share.crossing * tile);
        s.bias = step.bias == NONE ? 0 : take(uint64_t(4) * weight.rows);
        for (const bool batch : {false, true}) {
            s.column[batch] = round.result_token_bytes[batch];
            round.result_token_bytes[batch] += uint64_t(4) * TILE_ROWS * (batch ? share.all() : share.tiles);
        }
        ++round.share_end;
        layout.shares.push_back(s);
    }
    uint64_t in = 0, result = 0;
    for (const CardLayout::Round &round : layout.rounds) {
        const uint64_t tokens = round.first < package.program.head_first ? p.batch : p.head_batch;
        in = std::max(in, tokens * package.buffers[package.steps[round.first].in[0]].token_bytes());
        result = std::max(result, tokens * round.result_token_bytes[true]);
    }
    for (uint64_t &place : layout.place) place = take(layout.place_bytes);
    layout.in = take(in);
    layout.result = take(result);
    return layout;
}

void check_cards(const Package &package, size_t plan) {
    const Plan &p = package.plans[plan];
    const auto need = [&](bool good, const std::string &what, const std::string &expected, const std::string &found) {
        if (!good) throw PackageError("E_PLAN", "plan " + str(plan) + ": " + what, expected, found);
    };
    const auto in = [&](Tier tier, uint32_t tensor) {
        return tensor != NONE && package.placement(plan, package.tensors[tensor].segment).tier == tier;
    };
    const auto reachable = [&](uint32_t tensor) {
        return tensor == NONE || in(Tier::RAM, tensor) || in(Tier::VRAM, tensor);
    };
    const bool crossing = std::any_of(package.cards[plan].begin(), package.cards[plan].end(),
                                      [](const CardShare &share) { return share.crossing > 0; });
    need(crossing == (p.card_batch > 0), "card batch", crossing ? "1 or more" : "0", str(p.card_batch));
    if (package.cards[plan].empty()) {
        for (size_t i = 0; i < package.segments.size(); ++i)
            need(package.placement(plan, i).tier != Tier::VRAM, "tier of segment " + str(i), "no VRAM without CARD", "2");
        if (p.vram_bytes == 0) return;
        const uint64_t whole = p.arena_bytes + sizeof(int32_t) * uint64_t(p.batch);
        need(p.vram_bytes == whole, "VRAM bytes", "0 or " + str(whole), str(p.vram_bytes));
        for (const Buffer &b : package.buffers)
            need(b.kind != BufferKind::Q16, "VRAM bytes", "0, with Q16 buffers", str(p.vram_bytes));
        for (size_t i = 0; i < package.segments.size(); ++i)
            need(package.placement(plan, i).tier == Tier::RAM, "tier of segment " + str(i), "0, as VRAM holds all",
                 "another");
        return;
    }
    const std::vector<uint32_t> rounds = rounds_of(package);
    std::vector<bool> whole(rounds.size()); // steps of which the card has all
    uint64_t next = 0;
    for (const CardShare &share : package.cards[plan]) {
        need(share.step >= next && share.step < rounds.size() && rounds[share.step] != NONE, "CARD",
             "a LINEAR step outside experts, from " + str(next) + " on", str(share.step));
        next = uint64_t(share.step) + 1;
        const Step &step = package.steps[share.step];
        const uint64_t tiles = ceil_div(package.tensors[step.weight].rows, TILE_ROWS);
        const std::string what = "CARD of step " + str(share.step);
        const uint64_t both = uint64_t(share.tiles) + share.crossing;
        need(both >= 1 && both <= tiles, what, "1 to " + str(tiles) + " tiles", str(both));
        need(package.buffers[step.in[0]].kind != BufferKind::Q16, what, "one that reads no Q16 buffer", "one that does");
        need(reachable(step.weight) && reachable(step.bias), what, "weight and bias in RAM or VRAM", "another tier");
        const bool crosses = share.step < package.program.head_first && !in(Tier::VRAM, step.weight) && !in(Tier::VRAM, step.bias);
        need(crosses || share.crossing == 0, what, "c = 0 in the head and of what is in VRAM", str(share.crossing));
        whole[share.step] = share.tiles == tiles;
    }
    for (size_t i = 0; i < whole.size(); ++i) {
        const Step &step = package.steps[i];
        need(whole[i] || (!in(Tier::VRAM, step.weight) && !in(Tier::VRAM, step.bias)), "step " + str(i) + ", which uses VRAM",
             "all its tiles on the card", "others");
    }
    const uint64_t bytes = card_layout(package, plan).bytes;
    need(p.vram_bytes == bytes, "VRAM bytes", str(bytes), str(p.vram_bytes));
}

} // namespace n730
