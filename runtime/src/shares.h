// The work items of one step, given to the threads that come for them. Each has a range of its own and takes it bite by bite
// from the front, so that it reads one stream of weights; then it takes from the ends of the ranges of others. So a thread
// that the system has put aside holds up the bite that it is at, and nothing else. Who computes an item changes no bit of it.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace n730 {

class Shares {
  public:
    static constexpr int MOST_BITES = 8; // in a range

    explicit Shares(int threads) : ranges_(static_cast<size_t>(threads)) {}

    // One object serves step after step, each with a larger `id` than the one before, which must be done by then. A thread that
    // comes late to an old step finds nothing left.

    // The next bite for `thread`, in the order of the items, of `bites` a range; −1: none is left.
    int take(int thread, uint64_t id, int bites) {
        const int threads = static_cast<int>(ranges_.size());
        for (int i = 0; i < threads; ++i) {
            const int owner = (thread + i) % threads;
            const int bite = take_from(ranges_[static_cast<size_t>(owner)].word, i == 0, id, bites);
            if (bite >= 0) return owner * bites + bite;
        }
        return -1;
    }
    // `parts` of the step's `total` are done. True: these were the last.
    bool add(uint64_t id, uint32_t parts, uint32_t total) {
        uint64_t seen = done_.word.load();
        for (;;) {
            const uint64_t next = (seen >> COUNT_BITS == id ? seen : id << COUNT_BITS) + parts;
            if (done_.word.compare_exchange_weak(seen, next)) return next == (id << COUNT_BITS | total);
        }
    }
    bool all_done(uint64_t id, uint32_t total) const { return done_.word.load() >= (id << COUNT_BITS | total); }

  private:
    static constexpr int COUNT_BITS = 16; // below the id
    struct alignas(64) Word {             // a cache line: threads shall not wait for each other's
        std::atomic<uint64_t> word{0};
    };

    // Of a range: how many bites are gone from the front (upper byte) and from the end.
    static int take_from(std::atomic<uint64_t> &word, bool own, uint64_t id, int bites) {
        uint64_t seen = word.load(std::memory_order_relaxed);
        for (;;) {
            if (seen >> COUNT_BITS > id) return -1;
            const uint64_t now = seen >> COUNT_BITS == id ? seen : id << COUNT_BITS;
            const int front = static_cast<int>(now >> 8 & 255), end = static_cast<int>(now & 255);
            if (front + end >= bites) return -1;
            if (word.compare_exchange_weak(seen, now + (own ? 256 : 1), std::memory_order_relaxed))
                return own ? front : bites - 1 - end;
        }
    }

    std::vector<Word> ranges_;
    Word done_;
};

} // namespace n730
