#include "expert_guess.h"

#include <algorithm>

namespace n730 {

namespace {

constexpr size_t LINE = 16; // floats in 64 bytes, which is what kernels write at most beyond a vector's end

size_t whole_lines(uint32_t width) { return (width + LINE - 1) / LINE * LINE; }

// The last step before `end` that writes the buffer; `end` if there is none.
size_t writer(const Package &package, uint32_t buffer, size_t end) {
    for (size_t i = end; i-- > 0;)
        if (package.steps[i].out == buffer) return i;
    return end;
}

// Behind the last of the groups that begin with step `first`: those of one layer.
size_t groups_end(const Package &package, size_t first) {
    const uint32_t gates = package.steps[first].in[1];
    size_t i = first;
    while (package.steps[i].op == Op::EXPERT && package.steps[i].in[1] == gates) i += 1 + static_cast<size_t>(package.steps[i].p[1]);
    return i;
}

// Whether a step from `begin` on reads the buffer: then its bytes serve nothing else before.
bool is_read(const Package &package, uint32_t buffer, size_t begin) {
    return std::any_of(package.steps.begin() + static_cast<std::ptrdiff_t>(begin), package.steps.end(),
                       [&](const Step &s) { return std::count(s.in, s.in + 3, buffer) > 0; });
}

} // namespace

ExpertGuess::Router ExpertGuess::find(size_t first) const {
    Router router{};
    const size_t route = writer(package_, package_.steps[first].in[1], first);
    if (route == first || package_.steps[route].op != Op::ROUTE) return router;
    const size_t linear = writer(package_, package_.steps[route].in[0], route);
    if (linear == route || package_.steps[linear].op != Op::LINEAR) return router;
    const size_t norm = writer(package_, package_.steps[linear].in[0], linear);
    const size_t steps[] = {norm, linear, route};
    const Step &n = package_.steps[norm], &l = package_.steps[linear];
    if (norm == linear || (n.op != Op::RMS_NORM && n.op != Op::LAYER_NORM)) return router;
    // Cut into blocks of rows, it would be several steps.
    if (l.p[0] != 0 || package_.tensors[l.weight].rows != package_.buffers[l.out].width) return router;
    for (int i = 0; i < 3; ++i) {
        const Step &step = package_.steps[steps[i]];
        n730_call &call = router.calls[i];
        call.tokens = 1;
        call.cols = package_.buffers[step.in[0]].width;
        call.top_k = step.p[0];
        call.normalized = 0;
        std::copy(std::begin(step.f), std::end(step.f), call.f);
        router.kernels[i] = kernels_.of(step);
        for (const bool bias : {false, true}) {
            const uint32_t id = bias ? step.bias : step.weight;
            if (id == NONE) continue;
            const Tensor &tensor = package_.tensors[id];
            const Placement &place = package_.placement(plan_, tensor.segment);
            if (place.tier != Tier::RAM) return router;
            (bias ? call.bias : call.weight) = arena_ + place.offset + tensor.offset;
            if (bias) continue;
            call.rows = tensor.rows;
            call.heads = call.cols / tensor.cols;
            call.cols = tensor.cols;
        }
    }
    router.width = package_.buffers[n.in[0]].width;
    const size_t end = groups_end(package_, first);
    router.kept = writer(package_, n.in[0], end) <= norm && is_read(package_, n.in[0], end);
    router.source = arena_ + package_.buffer_offset(plan_, n.in[0]);
    return router;
}

void ExpertGuess::add(size_t first, std::vector<uint32_t> segments) {
    Router router = find(first);
    router.segments = std::move(segments);
    const size_t logits = whole_lines(static_cast<uint32_t>(router.segments.size()));
    room_.resize(std::max(room_.size(), whole_lines(router.width) + 2 * logits + LINE));
    order_.reserve(router.segments.size());
    found_.reserve(router.segments.size());
    routers_.push_back(std::move(router));
}

const std::vector<uint32_t> &ExpertGuess::behind(size_t layer) {
    found_.clear();
    if (layer + 1 >= routers_.size()) return found_;
    const Router &here = routers_[layer], &next = routers_[layer + 1];
    if (here.source == nullptr || !here.kept || next.source == nullptr || here.width != next.width) return found_;
    const auto at = reinterpret_cast<uintptr_t>(room_.data());
    float *normed = room_.data() + (LINE - at / sizeof(float) % LINE) % LINE;
    float *logits = normed + whole_lines(next.width);
    float *gates = logits + whole_lines(static_cast<uint32_t>(next.segments.size()));
    const void *from[] = {here.source, normed, logits};
    void *to[] = {normed, logits, gates};
    for (int i = 0; i < 3; ++i) {
        n730_call call = next.calls[i];
        call.in[0] = from[i];
        call.out = to[i];
        next.kernels[i](&call, 0, i == 1 ? static_cast<int64_t>(ceil_div(static_cast<uint64_t>(call.rows), TILE_ROWS)) : 1);
    }
    order_.clear();
    for (uint32_t i = 0; i < next.segments.size(); ++i)
        if (gates[i] > 0.0f && next.segments[i] != NONE) order_.push_back(i); // so no NaN is compared
    std::sort(order_.begin(), order_.end(),
              [&](uint32_t a, uint32_t b) { return gates[a] != gates[b] ? gates[a] > gates[b] : a < b; });
    for (const uint32_t i : order_) found_.push_back(next.segments[i]);
    return found_;
}

} // namespace n730
