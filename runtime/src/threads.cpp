#include "threads.h"
#include "error.h"
#include "platform.h"

#include <system_error>

namespace n730 {

namespace {
// Long enough for one thread's small steps, short enough to leave the core to others when one of ours waits for it.
constexpr double SPIN_SECONDS = 50e-6;
constexpr int SPINS_A_LOOK = 64; // between two looks at the clock
} // namespace

bool Waiting::spin(bool (*ready)(void *), void *context) {
    double deadline = 0;
    for (;;) {
        for (int i = 0; i < SPINS_A_LOOK; ++i) {
            if (ready(context)) return true;
            platform::cpu_pause();
        }
        const double now = platform::seconds();
        if (deadline == 0) deadline = now + SPIN_SECONDS;
        else if (now > deadline) return false;
    }
}

void Barrier::wait() {
    if (threads_ == 1) return;
    const uint32_t generation = generation_.load();
    if (arrived_.fetch_add(1) + 1 == threads_) {
        arrived_.store(0, std::memory_order_relaxed);
        generation_.store(generation + 1);
        waiting_.changed();
        return;
    }
    waiting_.until([&] { return generation_.load() != generation; });
}

ThreadPool::ThreadPool(int threads) : threads_(threads), barrier_(threads) {
    workers_.reserve(static_cast<size_t>(threads - 1));
    try {
        for (int i = 1; i < threads; ++i)
            workers_.emplace_back([this, i] {
                for (;;) {
                    barrier_.wait();
                    if (fn_ == nullptr) return;
                    fn_(context_, i);
                    barrier_.wait();
                }
            });
    } catch (const std::system_error &) {
        // The threads that did start wait for a barrier that cannot fill: they have to go with the process.
        for (std::thread &worker : workers_) worker.detach();
        throw Error("cannot start " + std::to_string(threads) + " threads", "", "", "Take fewer with --threads.");
    }
}

ThreadPool::~ThreadPool() {
    fn_ = nullptr;
    barrier_.wait();
    for (std::thread &worker : workers_) worker.join();
}

void ThreadPool::run(void (*fn)(void *, int), void *context) {
    fn_ = fn;
    context_ = context;
    barrier_.wait();
    fn(context, 0);
    barrier_.wait();
}

} // namespace n730
