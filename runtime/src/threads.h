// A pool of threads that walk through the same work together.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace n730 {

// Threads that wait until something is so: by spinning for a few microseconds, since it is usually that close, then asleep.
class Waiting {
  public:
    // `ready` must read what it looks at with sequential consistency.
    template <class Ready> void until(Ready ready) {
        if (spin([](void *r) { return (*static_cast<Ready *>(r))(); }, &ready)) return;
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, ready);
        sleepers_.fetch_sub(1);
    }
    // To be called behind a change that may make somebody ready. Whoever counted itself among the sleepers before this
    // load is woken; whoever does so after it sees the change (all are sequentially consistent).
    void changed() {
        if (sleepers_.load() == 0) return;
        const std::lock_guard<std::mutex> lock(mutex_);
        wake_.notify_all();
    }

  private:
    static bool spin(bool (*ready)(void *), void *context); // false: it took too long

    alignas(64) std::atomic<int> sleepers_{0};
    std::mutex mutex_;
    std::condition_variable wake_;
};

// All threads of a group wait for each other.
class Barrier {
  public:
    explicit Barrier(int threads) : threads_(threads) {}
    void wait();

  private:
    const int threads_;
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> generation_{0};
    Waiting waiting_;
};

class ThreadPool {
  public:
    explicit ThreadPool(int threads); // the caller of run is one of them
    ~ThreadPool();
    ThreadPool(const ThreadPool &) = delete;
    ThreadPool &operator=(const ThreadPool &) = delete;

    int size() const { return threads_; }
    // Calls fn(context, thread) once on every thread and returns when all have ended. `fn` must not throw.
    void run(void (*fn)(void *context, int thread), void *context);
    template <class Fn> void run(Fn &fn) {
        run([](void *f, int thread) { (*static_cast<Fn *>(f))(thread); }, &fn);
    }
    // Between the threads of a run.
    void barrier() { barrier_.wait(); }
    Waiting &waiting() { return waiting_; }
    // The part [begin, end) of `items` that belongs to one thread.
    void range(int64_t items, int thread, int64_t &begin, int64_t &end) const {
        begin = items * thread / threads_;
        end = items * (thread + 1) / threads_;
    }

  private:
    const int threads_;
    Barrier barrier_;
    Waiting waiting_;
    void (*fn_)(void *, int) = nullptr; // nullptr: end
    void *context_ = nullptr;
    std::vector<std::thread> workers_;
};

} // namespace n730
