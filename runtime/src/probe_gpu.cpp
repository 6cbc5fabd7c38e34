// Measures a graphics card: copies both ways, what a launch costs, its memory, and a product, with kernels that come along as PTX.
#include "cuda_kernels.h"
#include "platform.h"
#include "probe.h"
#include "progress.h"
#include "text.h"

#include "../../templates/cuda/call.h"

namespace n730 {

namespace {

// PTX of templates/cuda/read.h and linear.h: python -m tests.cuda.probe_kernels writes it.
constexpr char PTX[] =
#include "probe_kernels.inc"
    ;

constexpr uint64_t MIB = uint64_t(1) << 20, COPY_BYTES = 16 * MIB, READ_BYTES = 256 * MIB;
constexpr uint64_t PINNED = 8 * MIB; // that a run pins for weights on their way, and a little more
constexpr uint32_t THREADS = 256; // of a block that reads
constexpr uint32_t READ_BLOCKS = 32; // of a multiprocessor, some after the others
constexpr int ROUNDS = 9, LAUNCHES = 100;
constexpr double WARM_SECONDS = 0.2, MOST_SECONDS = 0.5; // of one measurement; at least one round
// The product: INT4, as many tiles as fill the card, which fit the second cache of Kepler and Pascal; all tokens are the same.
constexpr uint32_t COLS = 512, TILES = 32, MOST_TILES = 1024; // of a multiprocessor; altogether
constexpr uint64_t VECTOR_AT = 8 * MIB, OUT_AT = 9 * MIB; // behind the weights
constexpr Tensor MATRIX{0, 0, Format::INT4, Layout::MATRIX, 1u << 20, COLS, 0, 0, 0}; // as tests/cuda/probe_kernels.py has it

// What the kernels of a format take at least for a weight, for one token and for eight: picoseconds of a GT 730, counted on their
// instructions (benchmarks/cuda/results.md).
struct Floors {
    Format format;
    double one, eight;
};
constexpr Floors FLOORS[] = {
    {Format::F16, 31.28, 85.70},  {Format::BF16, 28.40, 82.81}, {Format::INT8, 8.89, 36.09}, {Format::INT4, 7.86, 35.01},
    {Format::INT2, 7.69, 34.83},  {Format::INT6, 12.16, 39.49}, {Format::INT5, 12.21, 39.53}, {Format::NL4, 12.26, 39.58},
    {Format::INT3, 12.23, 39.54}, {Format::NL2, 10.57, 37.87},
};
constexpr Floors MEASURED = FLOORS[3];
static_assert(MEASURED.format == Format::INT4 && std::size(FLOORS) == LAST_FORMAT, "every format but F32");

// A card with memory, a stream and the kernels, for as long as it is measured.
class Bench {
  public:
    explicit Bench(const Cuda &cuda) : cuda_(cuda), blocks_(READ_BLOCKS * uint32_t(std::max(1, cuda.multiprocessors()))) {
        for (bytes_ = READ_BYTES; memory_ == 0 && bytes_ >= COPY_BYTES; bytes_ /= 2)
            memory_ = cuda_.allocate(bytes_ + blocks_ * THREADS * sizeof(uint32_t));
        bytes_ *= 2; // what was asked for last
        if (memory_ == 0) throw CardFailed("cuMemAlloc", format_size(cuda_.free_vram()) + " free");
        pinned_ = cuda_.allocate_pinned(COPY_BYTES);
        stream_ = cuda_.stream();
        module_ = cuda_.load(PTX);
        read_ = cuda_.function(module_, "read_vram");
    }
    ~Bench() {
        if (stream_ != nullptr) cuda_.destroy(stream_);
        if (pinned_ != nullptr) cuda_.release_pinned(pinned_);
        if (memory_ != 0) cuda_.release(memory_);
    }
    Bench(const Bench &) = delete;
    Bench &operator=(const Bench &) = delete;

    uint64_t bytes() const { return bytes_; }
    void warm() { // clocks and links of an idle card are slow
        const double start = platform::seconds();
        do {
            read(bytes_);
            cuda_.wait(stream_);
        } while (platform::seconds() - start < WARM_SECONDS);
    }
    double read_seconds(uint64_t bytes, int launches = 1) {
        return timed([&] {
            for (int i = 0; i < launches; ++i) read(bytes);
        });
    }
    double copy_seconds(bool to_device, uint64_t bytes) {
        return timed([&] {
            if (to_device)
                cuda_.copy_to_device(memory_, pinned_, bytes, stream_);
            else
                cuda_.copy_to_host(pinned_, memory_, bytes, stream_);
        });
    }
    // Weights times tokens a second, a variant's columns of tokens a block; `empty`: seconds of a launch that does nothing.
    double product_rate(int variant, double empty) {
        const uint32_t columns = LINEAR_COLUMNS[variant];
        const CudaFunction function = linear_kernel(cuda_, module_, MATRIX, variant);
        const uint32_t tiles = std::min(MOST_TILES, TILES * uint32_t(std::max(1, cuda_.multiprocessors())));
        const uint32_t blocks = columns == 1 ? 16 : 4; // of tokens
        n730_cuda_call call = at(0);
        call.in[0] = reinterpret_cast<const unsigned char *>(memory_ + VECTOR_AT);
        call.weight = reinterpret_cast<const unsigned char *>(memory_);
        call.out = reinterpret_cast<unsigned char *>(memory_ + OUT_AT);
        call.tokens = int(blocks * columns);
        call.end = int(tiles);
        const double seconds =
            timed([&] { cuda_.launch(function, blocks, tiles / LINEAR_TILES, LINEAR_THREADS, &call, stream_); });
        const double work = double(blocks * columns) * tiles * TILE_ROWS * COLS;
        return work / std::max(seconds - empty, seconds / 2);
    }

  private:
    n730_cuda_call at(uint64_t bytes) const {
        n730_cuda_call call{};
        call.in[0] = reinterpret_cast<const unsigned char *>(memory_);
        call.out = reinterpret_cast<unsigned char *>(memory_ + bytes_);
        call.tokens = call.context = 1;
        call.end = int(bytes / 16);
        return call;
    }
    void read(uint64_t bytes) {
        const n730_cuda_call call = at(bytes);
        cuda_.launch(read_, 1, blocks_, THREADS, &call, stream_);
    }
    // Seconds of `work` until the stream is done; the middle one of some rounds.
    template <class Work> double timed(Work work) {
        std::vector<double> seconds;
        const double begin = platform::seconds();
        do {
            stop_if_interrupted();
            const double start = platform::seconds();
            work();
            cuda_.wait(stream_);
            seconds.push_back(platform::seconds() - start);
        } while (seconds.size() < ROUNDS && platform::seconds() - begin < MOST_SECONDS);
        return median(seconds);
    }

    const Cuda &cuda_;
    const uint32_t blocks_;
    uint64_t bytes_ = 0;
    CudaPointer memory_ = 0;
    void *pinned_ = nullptr;
    CudaStream stream_ = nullptr;
    CudaModule module_ = nullptr;
    CudaFunction read_ = nullptr;
};

GpuNumbers measure(const Cuda &cuda) {
    GpuNumbers n;
    const uint64_t free = cuda.free_vram();
    n.card = cuda.describe();
    n.arch = "sm_" + std::to_string(10 * cuda.major() + cuda.minor());
    n.vram_bytes = (free - std::min(free, cuda.vram() / 16)) / MIB * MIB; // the screen and other programs want some
    if (n.vram_bytes == 0) throw CardFailed("too little of its memory is free", format_size(free));
    Bench bench(cuda);
    bench.warm();
    n.read_bytes = bench.bytes();
    n.vram_bytes_per_s = double(n.read_bytes) / bench.read_seconds(n.read_bytes);
    n.to_device = double(COPY_BYTES) / bench.copy_seconds(true, COPY_BYTES);
    n.to_host = double(COPY_BYTES) / bench.copy_seconds(false, COPY_BYTES);
    n.copy_s = bench.copy_seconds(true, 4096);
    n.launch_s = bench.read_seconds(0, LAUNCHES) / LAUNCHES;
    const double empty = bench.read_seconds(0);
    const double one = bench.product_rate(linear_variant(1), empty), eight = bench.product_rate(linear_variant(8), empty);
    for (const Floors &floors : FLOORS) {
        n.rates[size_t(floors.format)] = one * MEASURED.one / floors.one;
        n.batch_rates[size_t(floors.format)] = eight * MEASURED.eight / floors.eight;
    }
    return n;
}

} // namespace

std::optional<GpuNumbers> probe_gpu(std::string &why) {
    try {
        const uint64_t before = platform::rss();
        const std::unique_ptr<Cuda> cuda = Cuda::open(why);
        if (cuda == nullptr) return {};
        GpuNumbers n = measure(*cuda);
        const uint64_t after = platform::rss();
        n.driver_ram_bytes = (after > before ? after - before : 0) + PINNED;
        return n;
    } catch (const CardFailed &failure) {
        why = failure.what();
        return {};
    }
}

} // namespace n730
