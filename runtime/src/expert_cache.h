// Experts that are not kept in RAM: each is read when a token chooses it, into a place of a cache that the plan gives.
// The experts of a layer that are chosen and not there are read at once, while the first of them compute.
#pragma once
#include "package.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

namespace n730 {

class ExpertCache {
  public:
    // All arguments outlive it. Nothing is started where the plan has no such experts.
    ExpertCache(const Package &package, size_t plan, uint8_t *arena);
    ~ExpertCache();
    ExpertCache(const ExpertCache &) = delete;
    ExpertCache &operator=(const ExpertCache &) = delete;

    bool has(size_t segment) const { return !where_.empty() && where_[segment] != RESIDENT; }
    // The experts (segments) that the next steps will ask for, in this order. One thread calls this, `guess` and `get`.
    void expect(const std::vector<uint32_t> &segments);
    // Those that may be asked for behind them, likeliest first: they are read when nothing else is to be.
    void guess(const std::vector<uint32_t> &segments);
    // Where the segment lies, once it is there; until the next call of `get`. Throws what went wrong with reading it.
    const uint8_t *get(uint32_t segment);

    uint64_t asked() const { return asked_; }   // calls of `get`
    uint64_t missed() const { return missed_; } // of these for segments that nobody had kept
    uint64_t bytes_read() const { return bytes_read_; }

  private:
    static constexpr uint32_t RESIDENT = NONE - 1; // not an expert of the cache

    struct Place {
        uint32_t segment = NONE;
        bool loading = false, expected = false;
        uint64_t used = 0; // the later the greater
    };

    void work();
    // With mutex_ held; false: no place can be given up now. `urgent`: one that is expected can, the last of them.
    bool start(uint32_t segment, bool urgent);
    void feed();                  // with mutex_ held: starts what is expected, as far as there are places

    const Package &package_;
    uint8_t *const base_;
    uint64_t place_bytes_ = 0;
    std::vector<uint32_t> where_; // place by segment; NONE: nowhere
    std::vector<Place> places_;
    std::vector<uint32_t> expected_, guessed_; // not begun yet; room is taken once
    std::vector<uint32_t> to_read_;            // places
    uint32_t held_ = NONE;          // the place whose weights are in use
    uint64_t clock_ = 0;
    std::atomic<uint64_t> asked_{0}, missed_{0}, bytes_read_{0};
    bool stopped_ = false;
    std::exception_ptr failure_;
    std::mutex mutex_; // of everything above that changes
    std::condition_variable work_, arrived_;
    std::vector<std::thread> workers_;
};

} // namespace n730
