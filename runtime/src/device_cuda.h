// A program on a graphics card: weights, buffers and caches lie in its memory as the plan laid out the arena, and every
// step is a launch of the package's own CUDA kernels. The results are those of the CPU, to the bit (FORMAT.md, 4).
#pragma once
#include "cuda_kernels.h"

#include "../../templates/cuda/call.h"

namespace n730 {

class DeviceCuda {
  public:
    // nullptr: this package does not run on this machine's card with this plan, and `why` says so in one line.
    // The package outlives the device. Throws PackageError, CardFailed.
    static std::unique_ptr<DeviceCuda> open(const Package &package, size_t plan, bool trust, std::string &why);
    ~DeviceCuda();

    const Cuda &card() const { return *cuda_; }
    uint64_t vram_bytes() const { return bytes_; }
    // Brings the weights over from the arena in main memory. Throws CardFailed, as those below do.
    void load(const uint8_t *arena);
    // As Executor's; nothing is waited for but the logits, and so a failure of the body may show only there.
    void body(const int32_t *ids, int64_t n, int64_t position);
    const float *head(int64_t first, int64_t n);

  private:
    struct Operand {
        uint64_t offset = 0; // in the arena
        int64_t stride = 0;  // bytes a token
        bool used = false, body = false;
    };
    struct Launch {
        CudaFunction functions[LINEAR_VARIANTS] = {};
        bool by_columns = false;
        uint32_t threads = 0, items = 0, items_per_block = 0;
        size_t group_end = 0; // EXPERT: behind the COMBINE
        n730_cuda_call call{};
        Operand in[2];
    };

    DeviceCuda(const Package &package, size_t plan, std::unique_ptr<Cuda> cuda);
    void prepare(CudaModule module);
    void make_launch(size_t index, CudaModule module);
    void fetch_gates(const Launch &expert, int64_t tokens);
    int64_t count_chosen(const Launch &expert, int64_t tokens) const;
    void launch(size_t index, int64_t tokens, int64_t position, int64_t first);
    void run(size_t begin, size_t end, int64_t tokens, int64_t position, int64_t first);

    const Package &package_;
    const size_t plan_index_;
    const Plan &plan_;
    std::unique_ptr<Cuda> cuda_;
    uint64_t bytes_ = 0;
    CudaPointer arena_ = 0, ids_ = 0;
    CudaStream stream_ = nullptr;
    CudaEvent staged_[2] = {};
    uint8_t *staging_[2] = {};
    int32_t *pinned_ids_ = nullptr;
    float *logits_ = nullptr;
    uint8_t *gates_ = nullptr; // of one layer's experts, on the host
    uint64_t logits_offset_ = 0, logits_stride_ = 0;
    std::vector<Launch> launches_;
    int64_t position_ = 0;
};

} // namespace n730
