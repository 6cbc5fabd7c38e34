/* CUDA C++ under g++: a fiber a thread, blocks one after the other. Included before the kernels' own text (-include).
 *
 * Threads run in turn until they meet: at a block's barrier, or at a warp's barrier or shuffle. Fault, with block and thread: a
 * barrier that not all threads of the block reach, a shuffle or warp barrier that names a thread which is not at it or from one
 * that it does not name, one that reads from a thread which does not take part, and whatever never ends.
 * Out-of-bounds accesses are AddressSanitizer's to catch. */
#ifndef N730_CUDA_ON_CPU_H
#define N730_CUDA_ON_CPU_H
#define N730_EMULATED 1
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include "fiber.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static thread_local
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
    unsigned x, y, z;
};
struct uint2 {
    unsigned x, y;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct ushort2 {
    unsigned short x, y;
};
struct ushort4 {
    unsigned short x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emulator {

struct Fault : std::runtime_error {
    using std::runtime_error::runtime_error;
};

enum class State { RUNS, AT_BARRIER, AT_WARP, DONE };

struct Thread {
    std::unique_ptr<Fiber> fiber;
    State state = State::DONE;
    unsigned x = 0;
    unsigned mask = 0;        /* AT_WARP: who takes part */
    int source = 0;           /* lane to read from; −1: a barrier */
    uint64_t give = 0, take = 0;
};

struct Block {
    std::vector<Thread> threads;
    Thread *now = nullptr;
    dim3 index{}, size{}, grid{};
    void (*kernel)(const void *) = nullptr;
    const void *call = nullptr;
};

inline thread_local Block *block = nullptr;

inline std::string place(unsigned thread) {
    return " (block " + std::to_string(block->index.x) + ", " + std::to_string(block->index.y) + ", thread " + std::to_string(thread) + ")";
}
inline void wait(State state) {
    Thread &t = *block->now;
    t.state = state;
    t.fiber->suspend();
}
inline void thread_main() {
    block->now->fiber->arrived(nullptr);
    block->kernel(block->call);
    wait(State::DONE);
    __builtin_trap();
}

/* Exchange among the threads of one warp that wait; false if none does. */
inline bool meet(unsigned first, unsigned last) {
    auto &threads = block->threads;
    unsigned here = 0;
    for (unsigned i = first; i < last; i++) here |= unsigned(threads[i].state == State::AT_WARP) << (i - first);
    if (!here) return false;
    for (unsigned i = first; i < last; i++) {
        Thread &t = threads[i];
        if (t.state != State::AT_WARP) continue;
        if (t.mask & ~here) throw Fault("a shuffle or warp barrier names a thread that is not at it" + place(i));
        if (!(t.mask >> (i - first) & 1)) throw Fault("a thread at a shuffle or warp barrier that does not name it" + place(i));
        if (t.mask != threads[first + __builtin_ctz(t.mask)].mask) throw Fault("threads at one shuffle name different threads" + place(i));
        if ((t.source < 0) != (threads[first + __builtin_ctz(t.mask)].source < 0)) throw Fault("a shuffle meets a warp barrier" + place(i));
        if (t.source >= 0 && !(here >> t.source & 1)) throw Fault("a shuffle reads from a thread that is not at it" + place(i));
        if (t.source >= 0) t.take = threads[first + unsigned(t.source)].give;
    }
    for (unsigned i = first; i < last; i++)
        if (threads[i].state == State::AT_WARP) threads[i].state = State::RUNS;
    return true;
}

inline void run_block() {
    auto &threads = block->threads;
    const unsigned n = unsigned(threads.size());
    for (Thread &t : threads) {
        t.state = State::RUNS;
        t.fiber->start(thread_main);
    }
    for (;;) {
        for (unsigned first = 0; first < n; first += 32) {
            const unsigned last = first + 32 < n ? first + 32 : n;
            do {
                for (unsigned i = first; i < last; i++)
                    if (threads[i].state == State::RUNS) {
                        block->now = &threads[i];
                        threads[i].fiber->resume();
                    }
            } while (meet(first, last));
        }
        unsigned waiting = 0;
        for (Thread &t : threads) waiting += t.state == State::AT_BARRIER;
        if (waiting == 0) return;
        if (waiting < n) throw Fault("a barrier that " + std::to_string(n - waiting) + " of the block's threads do not reach" + place(0));
        for (Thread &t : threads) t.state = State::RUNS;
    }
}

/* Runs all blocks of a launch; throws Fault. */
inline void launch(void (*kernel)(const void *), const void *call, unsigned grid_x, unsigned grid_y, unsigned count) {
    constexpr size_t STACK = 64 << 10;
    static thread_local Block here;
    block = &here;
    here.size = {count, 1, 1};
    here.grid = {grid_x, grid_y, 1};
    here.kernel = kernel;
    here.call = call;
    while (here.threads.size() > count) here.threads.pop_back();
    while (here.threads.size() < count) {
        here.threads.emplace_back();
        here.threads.back().fiber = std::make_unique<Fiber>(STACK);
        here.threads.back().x = unsigned(here.threads.size()) - 1;
    }
    for (unsigned y = 0; y < grid_y; y++)
        for (unsigned x = 0; x < grid_x; x++) {
            here.index = {x, y, 0};
            run_block();
        }
}

template <class T>
T exchange(unsigned mask, T value, int source) {
    static_assert(sizeof(T) <= 8, "");
    Thread &t = *block->now;
    t.mask = mask;
    t.source = source;
    t.give = 0;
    memcpy(&t.give, &value, sizeof value);
    wait(State::AT_WARP);
    memcpy(&value, &block->now->take, sizeof value);
    return value;
}

} // namespace emulator

#define threadIdx (dim3{emulator::block->now->x, 0, 0})
#define blockIdx (emulator::block->index)
#define blockDim (emulator::block->size)
#define gridDim (emulator::block->grid)

static inline void __syncthreads() { emulator::wait(emulator::State::AT_BARRIER); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { emulator::exchange(mask, 0, -1); }
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T v, int with) {
    return emulator::exchange(mask, v, int(emulator::block->now->x & 31) ^ with);
}
template <class T>
static inline T __shfl_sync(unsigned mask, T v, int lane) {
    return emulator::exchange(mask, v, lane & 31);
}
template <class T>
static inline T __ldg(const T *p) { return *p; }
template <class To, class From>
static inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline float __uint_as_float(unsigned v) { return bits_as<float>(v); }
static inline unsigned __float_as_uint(float v) { return bits_as<unsigned>(v); }
static inline double __longlong_as_double(long long v) { return bits_as<double>(v); }
static inline int __float2int_rn(float v) { return int(std::nearbyint(v)); }
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const uint64_t both = uint64_t(b) << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) out |= unsigned(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return out;
}
static inline unsigned permute(unsigned a, unsigned b, unsigned selector) {
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned nibble = selector >> 4 * i & 15, byte = __byte_perm(a, b, nibble & 7) & 255;
        out |= (nibble < 8 ? byte : byte < 128 ? 0u : 255u) << 8 * i;
    }
    return out;
}
template <int AT>
static inline float4 load4(const float *p) { return *(const float4 *)(p + AT); }
template <int AT>
static inline float2 load2(const float *p) { return {p[AT], p[AT + 1]}; }
static inline void store4(float *p, float a, float b, float c, float d) { *(float4 *)p = {a, b, c, d}; }
static inline void store2(float *p, float a, float b) { p[0] = a, p[1] = b; }
static inline float half_to_float(unsigned short h) { return float(bits_as<_Float16>(h)); }
static inline void halves_to_floats(unsigned word, float &first, float &second) {
    const unsigned v = __byte_perm(word, 0, 0x2301);
    first = half_to_float((unsigned short)v);
    second = half_to_float((unsigned short)(v >> 16));
}
static inline unsigned short float_to_half(float f) { return bits_as<unsigned short>(_Float16(f)); }
#endif
