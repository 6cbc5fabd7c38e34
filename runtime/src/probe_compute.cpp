// CPU and memory: read bandwidth, the built-in kernels on data in cache, and what a step costs beside its work.
#include "builtin_kernels.h"
#include "error.h"
#include "platform.h"
#include "probe.h"
#include "progress.h"
#include "shares.h"
#include "text.h"
#include "threads.h"

#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace n730 {

namespace {

constexpr uint64_t MIB = uint64_t(1) << 20;
constexpr uint64_t READ_BYTES = 256 * MIB; // far beyond any cache of these PCs
constexpr uint64_t TRAFFIC_BYTES = 128 * MIB;
constexpr uint64_t LEAST_MARGIN = 256 * MIB;
constexpr int ROUNDS = 9;
constexpr double ROUND_SECONDS = 0.02;
// A matrix that fits the 256 KiB of a Haswell core's second cache in every format.
constexpr int64_t ROWS = 64, COLS = 1024;
constexpr int STEPS_A_ROUND = 2000;
constexpr double LEAST_STEP = 1e-9; // one thread waits for nobody; a target wants more than zero

std::string cpu_name() {
#if defined(__x86_64__)
    unsigned words[12] = {};
    for (unsigned i = 0; i < 3; ++i)
        if (!__get_cpuid(0x80000002u + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2], &words[4 * i + 3]))
            return "unknown CPU";
    char text[sizeof words + 1] = {};
    std::memcpy(text, words, sizeof words);
    std::string name;
    for (const char *c = text; *c != '\0'; ++c) // runs of blanks become one
        if (*c > ' ' && *c < 0x7F) name += *c;
        else if (!name.empty() && name.back() != ' ') name += ' ';
    while (!name.empty() && name.back() == ' ') name.pop_back();
    return name.empty() ? "unknown CPU" : name;
#else
    return "unknown CPU";
#endif
}

// Reads `n` bytes (a multiple of 128); the value only keeps the compiler from leaving it out.
uint64_t read_plain(const uint8_t *from, uint64_t n) {
    uint64_t sums[4] = {};
    for (uint64_t i = 0; i < n; i += 32) {
        uint64_t words[4];
        std::memcpy(words, from + i, 32);
        for (int j = 0; j < 4; ++j) sums[j] ^= words[j];
    }
    return sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) uint64_t read_avx2(const uint8_t *from, uint64_t n, uint64_t ahead) {
    __m256i sums[4] = {};
    for (uint64_t i = 0; i < n; i += 128) {
        _mm_prefetch(reinterpret_cast<const char *>(from + i + ahead), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char *>(from + i + ahead + 64), _MM_HINT_T0);
        for (int j = 0; j < 4; ++j) {
            const void *at = from + i + 32 * static_cast<uint64_t>(j);
            sums[j] = _mm256_xor_si256(sums[j], _mm256_load_si256(static_cast<const __m256i *>(at)));
        }
    }
    const __m256i sum = _mm256_xor_si256(_mm256_xor_si256(sums[0], sums[1]), _mm256_xor_si256(sums[2], sums[3]));
    return static_cast<uint64_t>(_mm256_extract_epi64(sum, 0)) ^ static_cast<uint64_t>(_mm256_extract_epi64(sum, 3));
}
#endif

uint64_t read_all_of(const uint8_t *from, uint64_t n, Isa isa, uint64_t ahead) {
#if defined(__x86_64__)
    if (isa >= Isa::AVX2) return read_avx2(from, n, ahead);
#endif
    (void)isa, (void)ahead;
    return read_plain(from, n);
}

// With the prefetch distance that suits this PC best, as the kernels have theirs chosen.
double ram_bandwidth(ThreadPool &pool, Isa isa, uint64_t bytes, Progress &progress) {
    const Pages memory(bytes);
    std::memset(memory.data(), 1, bytes); // untouched pages are all the same page of zeros
    std::vector<uint64_t> sums(static_cast<size_t>(pool.size()));
    uint64_t ahead = 0;
    auto work = [&](int thread) {
        int64_t begin, end;
        pool.range(static_cast<int64_t>(bytes / 4096), thread, begin, end);
        const auto first = static_cast<uint64_t>(begin) * 4096, size = static_cast<uint64_t>(end - begin) * 4096;
        sums[static_cast<size_t>(thread)] ^= read_all_of(memory.data() + first, size, isa, ahead);
    };
    constexpr uint64_t AHEAD[] = {1024, 3072, 8192};
    std::vector<double> rates[std::size(AHEAD)];
    volatile uint64_t kept = 0;
    for (int round = 0; round < ROUNDS; ++round) {
        for (size_t i = 0; i < std::size(AHEAD); ++i) { // in turn: a busy period hits all of them
            stop_if_interrupted();
            ahead = AHEAD[i];
            const double start = platform::seconds();
            uint64_t passes = 0;
            do pool.run(work), ++passes;
            while (platform::seconds() - start < ROUND_SECONDS);
            rates[i].push_back(static_cast<double>(passes * bytes) / (platform::seconds() - start));
        }
        for (const uint64_t sum : sums) kept = kept ^ sum;
        progress.advance(1);
    }
    double best = 0;
    for (const std::vector<double> &of : rates) best = std::max(best, median(of));
    return best;
}

// Weights a second of one core while all are at work, each on a matrix of its own.
double kernel_rate(ThreadPool &pool, Isa isa, Format format, Progress &progress) {
    const n730_kernel kernel = builtin_kernel(static_cast<uint16_t>(Op::LINEAR), static_cast<uint8_t>(format), isa);
    const uint64_t weights = round_up(matrix_bytes(format, ROWS, COLS), 64);
    const uint64_t vector = round_up(COLS * 4, 64), out = round_up(ROWS * 4, 64);
    const uint64_t each = round_up(weights + vector + out, 4096);
    const Pages memory(each * static_cast<uint64_t>(pool.size()));
    // Whatever these bytes are taken for, they are ordinary numbers: none so small that a CPU would trip over it.
    std::memset(memory.data(), 0x3C, each * static_cast<uint64_t>(pool.size()));
    std::vector<double> rates(static_cast<size_t>(pool.size())), medians;
    auto work = [&](int thread) {
        uint8_t *base = memory.data() + each * static_cast<uint64_t>(thread);
        n730_call call = {};
        call.weight = base;
        call.in[0] = base + weights;
        call.in_stride[0] = static_cast<int64_t>(vector);
        call.out = base + weights + vector;
        call.out_stride = static_cast<int64_t>(out);
        call.rows = ROWS, call.cols = COLS, call.tokens = 1;
        const double start = platform::seconds();
        double now;
        int64_t products = 0;
        do {
            for (int i = 0; i < 16; ++i) kernel(&call, 0, ROWS / TILE_ROWS);
            products += 16;
            now = platform::seconds();
        } while (now - start < ROUND_SECONDS);
        rates[static_cast<size_t>(thread)] = static_cast<double>(products * ROWS * COLS) / (now - start);
    };
    for (int round = 0; round < ROUNDS; ++round) {
        stop_if_interrupted();
        pool.run(work);
        double sum = 0;
        for (const double rate : rates) sum += rate;
        medians.push_back(sum / pool.size());
        progress.advance(1);
    }
    return median(medians);
}

// Handing out a step's work and waiting for all of it, as the executor does.
double step_cost(ThreadPool &pool, Progress &progress) {
    std::vector<double> costs;
    std::vector<int64_t> items(static_cast<size_t>(pool.size()) * 8); // a cache line each
    Shares shares(pool.size());
    uint64_t first = 1;
    auto work = [&](int thread) {
        for (uint64_t id = first; id < first + STEPS_A_ROUND; ++id) {
            const auto total = static_cast<uint32_t>(pool.size());
            uint32_t parts = 0;
            for (; shares.take(thread, id, 1) >= 0; ++parts) ++items[static_cast<size_t>(thread) * 8];
            if (parts > 0 && shares.add(id, parts, total)) pool.waiting().changed();
            pool.waiting().until([&] { return shares.all_done(id, total); });
        }
    };
    for (int round = 0; round < ROUNDS; ++round) {
        stop_if_interrupted();
        const double start = platform::seconds();
        pool.run(work);
        first += STEPS_A_ROUND;
        costs.push_back((platform::seconds() - start) / STEPS_A_ROUND);
        progress.advance(1);
    }
    return std::max(LEAST_STEP, median(costs));
}

} // namespace

RamTraffic::RamTraffic() : isa_(cpu_isa()), memory_(TRAFFIC_BYTES) {
    std::memset(memory_.data(), 1, TRAFFIC_BYTES);
    const auto cores = static_cast<uint64_t>(platform::physical_cores());
    const uint64_t each = TRAFFIC_BYTES / cores / 4096 * 4096;
    for (uint64_t i = 0; i < cores; ++i)
        threads_.emplace_back([this, i, each] {
            while (!stopped_.load(std::memory_order_relaxed))
                kept_.fetch_xor(read_all_of(memory_.data() + i * each, each, isa_, 3072));
        });
}

RamTraffic::~RamTraffic() {
    stopped_ = true;
    for (std::thread &thread : threads_) thread.join();
}

ComputeNumbers probe_compute() {
    ComputeNumbers out;
    out.cores = platform::physical_cores();
    out.isa = cpu_isa();
    out.cpu = cpu_name();
    out.free_bytes = platform::free_ram();
    out.margin_bytes = std::max(LEAST_MARGIN, out.free_bytes / 16);
    if (out.free_bytes < out.margin_bytes + 64 * MIB)
        throw Error("too little memory is free to measure", format_size(LEAST_MARGIN + 64 * MIB),
                    format_size(out.free_bytes), "Close other programs.");
    out.ram_bytes = (out.free_bytes - out.margin_bytes) / MIB * MIB;
    out.ram_read_bytes = std::min(READ_BYTES, out.ram_bytes / 2) / 4096 * 4096;
    ThreadPool pool(out.cores);
    Progress progress("measuring CPU and memory", ROUNDS * (2 + LAST_FORMAT), "rounds"); // F32 is not measured
    out.ram_bytes_per_s = ram_bandwidth(pool, out.isa, out.ram_read_bytes, progress);
    for (uint8_t format = static_cast<uint8_t>(Format::F16); format <= LAST_FORMAT; ++format)
        out.rates[format] = kernel_rate(pool, out.isa, static_cast<Format>(format), progress);
    out.step_seconds = step_cost(pool, progress);
    return out;
}

} // namespace n730
