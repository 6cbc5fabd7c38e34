// The rows of matrices that a plan gives to a graphics card (FORMAT.md, SCHEDULE: the graphics card): they lie in its memory, and
// are multiplied there while the CPU multiplies the others; for batches of tokens further rows are brought there. The results are those
// of the CPU, to the bit.
#pragma once
#include "cuda_kernels.h"

#include "../../templates/cuda/call.h"
#include "n730_call.h"

#include <exception>

namespace n730 {

class CardRows {
  public:
    static constexpr uint64_t STAGING = uint64_t(4) << 20; // bytes of pinned memory that weights pass through, in two halves

    // nullptr: this machine's card does not run this plan, and `why` says so in one line. The package outlives the
    // object. Throws PackageError, CardFailed.
    static std::unique_ptr<CardRows> open(const Package &package, size_t plan, bool trust, std::string &why);
    ~CardRows();

    const Cuda &card() const { return *cuda_; }
    uint64_t vram_bytes() const { return layout_.bytes; }
    const std::vector<CardLayout::Round> &rounds() const { return layout_.rounds; }
    const CardShare &share(size_t i) const { return package_.cards[plan_index_][i]; }

    // Brings the rows over: from the arena in main memory, which outlives the object, and those that are in VRAM only from the file.
    // Throws Error, Interrupted.
    void load(uint8_t *arena);
    // Whether the card also computes CardShare::crossing of a step with so many tokens. The same from load() on.
    bool crosses(int64_t tokens) const { return crosses_ && tokens >= package_.plans[plan_index_].card_batch; }
    // None of these throws: once the card has failed, which is said in one line if the CPU can go on, nothing more is asked of it.
    // One thread hands a round to the card, goes on, and later waits for the round, false if it failed, and takes its results.
    void begin(size_t round, const n730_call &first);
    bool finish(size_t round);
    void take(size_t round, size_t share, const n730_call &call) const; // the results of one of its steps
    bool failed() const { return failure_ != nullptr; }
    std::exception_ptr failure() const { return failure_; }
    bool needed() const { return !segments_.empty(); } // the CPU does not have all weights
    double waited_seconds() const { return waited_; } // by finish()

  private:
    struct Functions {
        CudaFunction by_columns[LINEAR_VARIANTS] = {};
    };

    CardRows(const Package &package, size_t plan, std::unique_ptr<Cuda> cuda);
    const Tensor &weight(size_t i) const { return package_.tensors[package_.steps[share(i).step].weight]; }
    void prepare(CudaModule module);
    void bring_from(const uint8_t *arena);
    void bring_from_file();
    uint8_t *next_half();
    void copy(size_t share, bool bias, uint64_t at, const uint8_t *half, uint64_t n);
    void pin(uint8_t *arena);
    void ask(const CardLayout::Round &round, const n730_call &first);
    void launch(const CardLayout::Round &round, uint32_t share, const n730_call &first, uint64_t weight, uint32_t begin, uint32_t end);
    void bring_next();
    template <class Work> void guarded(Work work);
    template <class Fn> void each_tensor(Fn fn) const;

    const Package &package_;
    const size_t plan_index_;
    const CardLayout layout_;
    std::unique_ptr<Cuda> cuda_;
    CudaPointer vram_ = 0;
    CudaStream stream_ = nullptr, bringing_ = nullptr;
    CudaEvent done_ = nullptr;
    CudaEvent arrived_[2] = {nullptr, nullptr}, used_[2] = {nullptr, nullptr}; // of the places for what is brought
    const uint8_t *arena_ = nullptr;
    uint8_t *pinned_ = nullptr; // the part of the arena from which rows are brought
    bool crosses_ = false;
    std::vector<uint32_t> crossing_;         // shares of which rows are brought, in order
    uint64_t brought_ = 0, multiplied_ = 0; // of them, counted through the batches
    uint8_t *staging_ = nullptr; // pinned
    CudaEvent emptied_[2] = {nullptr, nullptr}; // of its halves: the card has what was there
    uint64_t halves_ = 0; // filled so far
    uint8_t *in_ = nullptr, *result_ = nullptr; // pinned
    std::vector<Functions> functions_;          // by share
    std::vector<uint32_t> segments_; // that are in VRAM only
    std::exception_ptr failure_;
    double waited_ = 0;
};

} // namespace n730
