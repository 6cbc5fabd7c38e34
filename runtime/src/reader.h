// The threads that bring weights into the arena: what stays there first, then the STREAM segments, pass after pass, as
// far ahead of the computation as the ring has room. Nothing here allocates or locks once all are under way, unless
// somebody sleeps.
#pragma once
#include "package.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

namespace n730 {

class Reader {
  public:
    // `readers`: reads at once. `threads`: those that will compute. All arguments outlive it. After `slow_seconds`
    // without a read that ended, whoever waits says so, once.
    Reader(const Package &package, size_t plan, uint8_t *arena, int readers, int threads, double slow_seconds = 10);
    ~Reader();
    Reader(const Reader &) = delete;
    Reader &operator=(const Reader &) = delete;

    // Starts the threads and returns when all RAM segments are there. Throws Error, PackageError, and what `advance`
    // throws, which is told of bytes several times a second.
    void load(const Advance &advance);

    // For thread `thread` of those that compute: until STREAM segment number `read` is there for pass `pass` (both
    // from 0). False: it never will be, since reading failed or the user pressed Ctrl-C.
    bool wait(int thread, uint64_t pass, size_t read) {
        const uint64_t want = (pass + 1) * streams_[read].parts;
        return done_[read].load(std::memory_order_acquire) >= want || wait_slowly(thread, read, want);
    }
    // Thread `thread` needs none of the first `count` reads any more, counted through the passes.
    void release(int thread, uint64_t count);

    // Whether Ctrl-C ends a wait at once, and with it all computing; otherwise a pass that has begun is finished.
    void finish_passes(bool finish) { finish_passes_ = finish; }

    void fail(std::exception_ptr failure); // ends all reading and waiting
    void rethrow() const;                  // what went wrong first, if anything did

    size_t reads() const { return streams_.size(); } // a pass
    uint64_t pass_bytes() const { return pass_bytes_; }
    uint64_t bytes_read() const { return bytes_read_.load(std::memory_order_relaxed); } // of STREAM segments
    double seconds_waited() const { return waited_; }                                   // by thread 0
    // Called by thread 0 after it released something, and now and then while it waits.
    void watch(std::function<void()> watcher) { watcher_ = std::move(watcher); }

  private:
    struct Item { // a segment to be read
        uint32_t segment, lead, parts;
        uint8_t *place;
    };
    struct Part { // one read: bytes [at, at + size) of an item
        uint32_t item, size;
        uint64_t at;
    };
    struct alignas(64) Progress {
        std::atomic<uint64_t> released{0};
    };

    void add(std::vector<Item> &items, std::vector<Part> &parts, uint32_t segment, uint32_t lead, uint8_t *place);
    void work();
    void read(const Item &item, const Part &part);
    uint64_t released() const;
    bool wait_for_room(uint64_t released);
    bool wait_slowly(int thread, size_t read, uint64_t want);
    void look_for_progress(const std::string &what, uint64_t &bytes, double &since);
    template <class Done> bool sleep_until(int thread, uint32_t segment, Done done);

    const Package &package_;
    const uint32_t read_bytes_;
    const int readers_;
    const double slow_seconds_;
    std::vector<Item> loads_, streams_;
    std::vector<Part> load_parts_, stream_parts_; // the latter of one pass
    uint64_t load_bytes_ = 0, pass_bytes_ = 0;

    alignas(64) std::atomic<uint64_t> next_load_{0};
    std::atomic<uint64_t> next_stream_{0};            // counted through the passes
    std::unique_ptr<std::atomic<uint64_t>[]> done_;   // parts of each stream, counted through the passes
    std::atomic<uint64_t> loaded_{0}, bytes_read_{0}; // bytes
    std::vector<Progress> progress_;                  // reads released, by computing thread
    std::atomic<int> readers_asleep_{0}, waiters_{0};
    std::atomic<bool> stopped_{false};

    mutable std::mutex mutex_;
    std::condition_variable room_, arrived_;
    std::exception_ptr failure_; // under mutex_
    std::function<void()> watcher_;
    bool said_slow_ = false;
    std::atomic<bool> finish_passes_{false};
    double waited_ = 0;
    std::vector<std::thread> workers_;
};

} // namespace n730
