#include "card_rows.h"
#include "platform.h"
#include "progress.h"

#include <algorithm>
#include <cstring>

namespace n730 {

namespace {
constexpr uint64_t HALF = CardRows::STAGING / 2; // whole pieces of a segment

uint64_t tile_bytes(const Tensor &weight) { return matrix_bytes(weight.format, TILE_ROWS, weight.cols); }
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
    for (CudaStream stream : {bringing_, stream_}) {
        if (stream == nullptr) continue;
        try {
            cuda_->wait(stream);
        } catch (const Error &) { // said before
        }
        cuda_->destroy(stream);
    }
    for (CudaEvent event : {done_, arrived_[0], arrived_[1], used_[0], used_[1], emptied_[0], emptied_[1]})
        if (event != nullptr) cuda_->destroy(event);
    if (pinned_ != nullptr) cuda_->unpin(pinned_);
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
        if (share.crossing > 0) crossing_.push_back(static_cast<uint32_t>(functions_.size()));
        const Tensor &weight = package_.tensors[package_.steps[share.step].weight];
        Functions functions;
        for (int v = 0; v < LINEAR_VARIANTS; ++v) functions.by_columns[v] = linear_kernel(*cuda_, module, weight, v);
        functions_.push_back(functions);
    }
    if (crossing_.empty()) return;
    bringing_ = cuda_->stream();
    for (CudaEvent *event : {&arrived_[0], &arrived_[1], &used_[0], &used_[1]}) *event = cuda_->event();
}

// fn(share, whether it is the bias, the tensor, how many of its bytes the card has) for all that the card has.
template <class Fn> void CardRows::each_tensor(Fn fn) const {
    for (size_t i = 0; i < layout_.shares.size(); ++i) {
        const Step &step = package_.steps[share(i).step];
        const Tensor &weight = package_.tensors[step.weight];
        fn(i, false, weight, share(i).tiles * tile_bytes(weight));
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

void CardRows::load(uint8_t *arena) {
    guarded([&] {
        staging_ = static_cast<uint8_t *>(cuda_->allocate_pinned(STAGING));
        for (CudaEvent &event : emptied_) event = cuda_->event();
    });
    if (needed()) guarded([&] { bring_from_file(); });
    guarded([&] {
        bring_from(arena);
        cuda_->wait(stream_);
    });
    if (needed() && failed()) std::rethrow_exception(failure_);
    if (!failed() && !crossing_.empty()) pin(arena);
}

// All segments from which rows are brought for batches. Without that the CPU has these rows.
void CardRows::pin(uint8_t *arena) {
    uint64_t begin = ~uint64_t(0), end = 0;
    for (const uint32_t i : crossing_) {
        const uint32_t segment = weight(i).segment;
        const uint64_t at = package_.placement(plan_index_, segment).offset;
        begin = std::min(begin, at);
        end = std::max(end, at + package_.segments[segment].size);
    }
    try {
        cuda_->pin(arena + begin, end - begin);
    } catch (const Error &error) {
        say(std::string(error.what()) + " Prompts are computed without bringing weights to the card.");
        return;
    }
    arena_ = arena;
    pinned_ = arena + begin;
    crosses_ = true;
}

// One is filled while the other is copied: the half that comes next, once the card has what was there.
uint8_t *CardRows::next_half() {
    const uint64_t turn = halves_ % 2;
    if (halves_++ >= 2) cuda_->wait(emptied_[turn]);
    return staging_ + turn * HALF;
}

// Bytes of the half that is filled, which begin `at` bytes into the tensor.
void CardRows::copy(size_t i, bool bias, uint64_t at, const uint8_t *half, uint64_t n) {
    cuda_->copy_to_device(vram_ + (bias ? layout_.shares[i].bias : layout_.shares[i].weight) + at, half, n, stream_);
}

void CardRows::bring_from(const uint8_t *arena) {
    each_tensor([&](size_t i, bool bias, const Tensor &t, uint64_t bytes) {
        const Placement &place = package_.placement(plan_index_, t.segment);
        if (place.tier != Tier::RAM) return;
        for (uint64_t at = 0; at < bytes; at += HALF) {
            const uint64_t n = std::min(HALF, bytes - at);
            uint8_t *half = next_half();
            std::memcpy(half, arena + place.offset + t.offset + at, size_t(n));
            copy(i, bias, at, half, n);
            cuda_->record(emptied_[(halves_ - 1) % 2], stream_);
        }
    });
}

void CardRows::bring_from_file() {
    for (const uint32_t segment : segments_)
        for (uint64_t at = 0; at < package_.segments[segment].size; at += HALF) {
            const uint64_t end = at + std::min(HALF, package_.segments[segment].size - at);
            uint8_t *half = next_half();
            read_weights(package_, segment, at, half, size_t(end - at));
            each_tensor([&](size_t i, bool bias, const Tensor &t, uint64_t bytes) {
                const uint64_t from = std::max(at, t.offset), to = std::min(end, t.offset + bytes);
                if (t.segment == segment && from < to) copy(i, bias, from - t.offset, half + (from - at), to - from);
            });
            cuda_->record(emptied_[(halves_ - 1) % 2], stream_);
            if (platform::interrupted()) throw Interrupted();
        }
}

void CardRows::begin(size_t round, const n730_call &first) {
    guarded([&] { ask(layout_.rounds[round], first); });
}

void CardRows::launch(const CardLayout::Round &round, uint32_t i, const n730_call &first, uint64_t weight, uint32_t begin, uint32_t end) {
    const auto at = [&](uint64_t offset) { return reinterpret_cast<unsigned char *>(vram_ + offset); };
    const bool batch = crosses(first.tokens);
    const int variant = linear_variant(first.tokens);
    n730_cuda_call call{};
    call.in[0] = at(layout_.in);
    call.in_stride[0] = first.in_stride[0];
    call.out = at(layout_.result + layout_.shares[i].column[batch]);
    call.out_stride = int64_t(round.result_token_bytes[batch]);
    call.weight = at(weight);
    if (package_.steps[share(i).step].bias != NONE) call.bias = at(layout_.shares[i].bias);
    call.tokens = int(first.tokens);
    call.context = 1;
    call.begin = int(begin);
    call.end = int(end);
    cuda_->launch(functions_[i].by_columns[variant], uint32_t(ceil_div(uint64_t(first.tokens), LINEAR_COLUMNS[variant])),
                  uint32_t(ceil_div(end - begin, LINEAR_TILES)), LINEAR_THREADS, &call, stream_);
}

// Brings the rows that come next to one of two places in turn: while those in the other are multiplied.
void CardRows::bring_next() {
    const uint64_t turn = brought_ % 2;
    const uint32_t i = crossing_[size_t(brought_ % crossing_.size())];
    const uint64_t tile = tile_bytes(weight(i));
    const uint64_t from = package_.placement(plan_index_, weight(i).segment).offset + weight(i).offset + share(i).tiles * tile;
    if (brought_ >= 2) cuda_->wait(bringing_, used_[turn]);
    cuda_->copy_to_device(vram_ + layout_.place[turn], arena_ + from, share(i).crossing * tile, bringing_);
    cuda_->record(arrived_[turn], bringing_);
    ++brought_;
}

void CardRows::ask(const CardLayout::Round &round, const n730_call &first) {
    const bool batch = crosses(first.tokens);
    const uint64_t result_bytes = round.result_token_bytes[batch] * uint64_t(first.tokens);
    if (result_bytes == 0) return; // a round of batches only
    const uint64_t in_bytes = uint64_t(first.tokens * first.in_stride[0]);
    std::memcpy(in_, first.in[0], size_t(in_bytes));
    cuda_->copy_to_device(vram_ + layout_.in, in_, in_bytes, stream_);
    for (uint32_t i = round.share; i < round.share_end; ++i)
        if (share(i).tiles > 0) launch(round, i, first, layout_.shares[i].weight, 0, share(i).tiles);
    for (uint32_t i = round.share; batch && i < round.share_end; ++i) {
        if (share(i).crossing == 0) continue;
        const uint64_t before = share(i).tiles * tile_bytes(weight(i)); // tiles that are elsewhere
        while (brought_ < multiplied_ + 2) bring_next();
        const uint64_t turn = multiplied_++ % 2;
        cuda_->wait(stream_, arrived_[turn]);
        launch(round, i, first, layout_.place[turn] - before, share(i).tiles, share(i).all());
        cuda_->record(used_[turn], stream_);
        bring_next(); // what its place is for then; early, so that it arrives while the CPU is at steps of its own
    }
    cuda_->copy_to_host(result_, vram_ + layout_.result, result_bytes, stream_);
    cuda_->record(done_, stream_);
}

bool CardRows::finish(size_t) {
    const double start = platform::seconds();
    guarded([&] { cuda_->wait(done_); });
    waited_ += platform::seconds() - start;
    return !failed();
}

void CardRows::take(size_t round, size_t i, const n730_call &call) const {
    const bool batch = crosses(call.tokens);
    const uint64_t rows = TILE_ROWS * uint64_t(batch ? share(i).all() : share(i).tiles);
    const size_t bytes = sizeof(float) * size_t(std::min<uint64_t>(rows, uint64_t(call.rows)));
    const uint64_t stride = layout_.rounds[round].result_token_bytes[batch];
    for (int64_t t = 0; t < call.tokens; ++t)
        std::memcpy(static_cast<uint8_t *>(call.out) + t * call.out_stride,
                    result_ + uint64_t(t) * stride + layout_.shares[i].column[batch], bytes);
}

} // namespace n730
