#include "card_rows.h"
#include "platform.h"
#include "progress.h"

#include <algorithm>
#include <cstring>

namespace n730 {

namespace {
constexpr uint64_t STAGING = uint64_t(4) << 20; // bytes of pinned memory that weights pass through: whole pieces
} // namespace

std::unique_ptr<CardRows> CardRows::open(const Package &package, size_t plan, bool trust, std::string &why) {
    std::unique_ptr<Cuda> cuda = Cuda::open(why);
    if (cuda == nullptr) return nullptr;
    const Image *image = choose_image(package, *cuda, trust, why);
    if (image == nullptr) return nullptr;
    std::unique_ptr<CardRows> rows(new CardRows(package, plan, std::move(cuda)));
    const uint64_t free = rows->cuda_->free_vram();
    rows->vram_ = rows->cuda_->allocate(rows->layout_.bytes);
    if (rows->vram_ == 0) {
        why = too_little_vram(rows->layout_.bytes, free);
        return nullptr;
    }
    rows->prepare(load_image(package, *image, *rows->cuda_));
    return rows;
}

CardRows::CardRows(const Package &package, size_t plan, std::unique_ptr<Cuda> cuda)
    : package_(package), plan_index_(plan), layout_(card_layout(package, plan)), cuda_(std::move(cuda)) {
    for (uint32_t i = 0; i < package.segments.size(); ++i)
        if (package.placement(plan, i).tier == Tier::VRAM) segments_.push_back(i);
}

CardRows::~CardRows() {
    if (stream_ != nullptr) cuda_->destroy(stream_);
    if (done_ != nullptr) cuda_->destroy(done_);
    for (uint8_t *memory : {staging_, in_, result_})
        if (memory != nullptr) cuda_->release_pinned(memory);
    if (vram_ != 0) cuda_->release(vram_);
}

void CardRows::prepare(CudaModule module) {
    stream_ = cuda_->stream();
    done_ = cuda_->event();
    in_ = static_cast<uint8_t *>(cuda_->allocate_pinned(layout_.result - layout_.in));
    result_ = static_cast<uint8_t *>(cuda_->allocate_pinned(layout_.bytes - layout_.result));
    for (const CardShare &share : package_.cards[plan_index_]) {
        const Tensor &weight = package_.tensors[package_.steps[share.step].weight];
        Functions functions;
        for (int v = 0; v < LINEAR_VARIANTS; ++v) functions.by_columns[v] = linear_kernel(*cuda_, module, weight, v);
        functions_.push_back(functions);
    }
}

// fn(share, whether it is the bias, the tensor, how many of its bytes the card has) for all that the card has.
template <class Fn> void CardRows::each_tensor(Fn fn) const {
    for (size_t i = 0; i < layout_.shares.size(); ++i) {
        const Step &step = package_.steps[share(i).step];
        const Tensor &weight = package_.tensors[step.weight];
        fn(i, false, weight, share(i).tiles * matrix_bytes(weight.format, TILE_ROWS, weight.cols));
        if (step.bias != NONE) fn(i, true, package_.tensors[step.bias], uint64_t(4) * weight.rows);
    }
}

template <class Work> void CardRows::guarded(Work work) {
    if (failed()) return;
    try {
        work();
    } catch (const CardFailed &failure) {
        failure_ = std::make_exception_ptr(failure.without_cpu());
        if (!needed()) say(std::string(failure.what()) + " The CPU goes on alone.");
    }
}

void CardRows::load(const uint8_t *arena) {
    guarded([&] { staging_ = static_cast<uint8_t *>(cuda_->allocate_pinned(STAGING)); });
    if (needed()) guarded([&] { bring_from_file(); });
    guarded([&] { bring_from(arena); });
    if (needed() && failed()) std::rethrow_exception(failure_);
}

// Bytes that begin `at` bytes into the tensor, through the staging memory, in which they may be already.
void CardRows::copy(size_t i, bool bias, uint64_t at, const uint8_t *bytes, uint64_t n) {
    const uint64_t to = vram_ + (bias ? layout_.shares[i].bias : layout_.shares[i].weight) + at;
    for (uint64_t done = 0; done < n; done += STAGING) {
        const uint64_t part = std::min(STAGING, n - done);
        const bool staged = bytes >= staging_ && bytes < staging_ + STAGING;
        if (!staged) std::memcpy(staging_, bytes + done, size_t(part));
        cuda_->copy_to_device(to + done, staged ? bytes + done : staging_, part, stream_);
        cuda_->wait(stream_);
    }
}

void CardRows::bring_from(const uint8_t *arena) {
    each_tensor([&](size_t i, bool bias, const Tensor &t, uint64_t bytes) {
        const Placement &place = package_.placement(plan_index_, t.segment);
        if (place.tier == Tier::RAM) copy(i, bias, 0, arena + place.offset + t.offset, bytes);
    });
}

void CardRows::bring_from_file() {
    for (const uint32_t segment : segments_)
        for (uint64_t at = 0; at < package_.segments[segment].size; at += STAGING) {
            const uint64_t end = at + std::min(STAGING, package_.segments[segment].size - at);
            read_weights(package_, segment, at, staging_, size_t(end - at));
            each_tensor([&](size_t i, bool bias, const Tensor &t, uint64_t bytes) {
                const uint64_t from = std::max(at, t.offset), to = std::min(end, t.offset + bytes);
                if (t.segment == segment && from < to) copy(i, bias, from - t.offset, staging_ + (from - at), to - from);
            });
            if (platform::interrupted()) throw Interrupted();
        }
}

void CardRows::begin(size_t round, const n730_call &first) {
    guarded([&] { ask(layout_.rounds[round], first); });
}

void CardRows::ask(const CardLayout::Round &round, const n730_call &first) {
    const uint64_t in_bytes = uint64_t(first.tokens * first.in_stride[0]);
    std::memcpy(in_, first.in[0], size_t(in_bytes));
    cuda_->copy_to_device(vram_ + layout_.in, in_, in_bytes, stream_);
    const int variant = linear_variant(first.tokens);
    const auto at = [&](uint64_t offset) { return reinterpret_cast<unsigned char *>(vram_ + offset); };
    for (uint32_t i = round.share; i < round.share_end; ++i) {
        n730_cuda_call call{};
        call.in[0] = at(layout_.in);
        call.in_stride[0] = first.in_stride[0];
        call.out = at(layout_.result + layout_.shares[i].column);
        call.out_stride = int64_t(round.result_token_bytes);
        call.weight = at(layout_.shares[i].weight);
        if (package_.steps[share(i).step].bias != NONE) call.bias = at(layout_.shares[i].bias);
        call.tokens = int(first.tokens);
        call.context = 1;
        call.end = int(share(i).tiles);
        cuda_->launch(functions_[i].by_columns[variant], uint32_t(ceil_div(uint64_t(first.tokens), LINEAR_COLUMNS[variant])),
                      uint32_t(ceil_div(share(i).tiles, LINEAR_TILES)), LINEAR_THREADS, &call, stream_);
    }
    cuda_->copy_to_host(result_, vram_ + layout_.result, round.result_token_bytes * uint64_t(first.tokens), stream_);
    cuda_->record(done_, stream_);
}

bool CardRows::finish(size_t) {
    const double start = platform::seconds();
    guarded([&] { cuda_->wait(done_); });
    waited_ += platform::seconds() - start;
    return !failed();
}

void CardRows::take(size_t round, size_t i, const n730_call &call) const {
    const CardLayout::Round &r = layout_.rounds[round];
    const size_t bytes = sizeof(float) * size_t(std::min<uint64_t>(TILE_ROWS * uint64_t(share(i).tiles), uint64_t(call.rows)));
    for (int64_t t = 0; t < call.tokens; ++t)
        std::memcpy(static_cast<uint8_t *>(call.out) + t * call.out_stride,
                    result_ + uint64_t(t) * r.result_token_bytes + layout_.shares[i].column, bytes);
}

} // namespace n730
