// The pool: every item once, barriers that hold, many runs in a row, and idle times long enough to sleep.
#include "shares.h"
#include "threads.h"

#include <chrono>
#include <doctest/doctest.h>

using n730::Shares;
using n730::ThreadPool;

TEST_CASE("ranges cover all items once, in order") {
    for (const int threads : {1, 2, 3, 7}) {
        const ThreadPool pool(threads);
        for (const int64_t items : {0, 1, 2, 3, 6, 7, 8, 100, 12345}) {
            int64_t next = 0;
            for (int t = 0; t < threads; ++t) {
                int64_t begin, end;
                pool.range(items, t, begin, end);
                CHECK(begin == next);
                CHECK(end - begin <= items / threads + 1);
                next = end;
            }
            CHECK(next == items);
        }
    }
}

TEST_CASE("what one thread writes before a barrier, the others read after it") {
    for (const int threads : {1, 2, 3, 5}) {
        ThreadPool pool(threads);
        std::vector<int> values(static_cast<size_t>(threads)); // no atomics: the barrier must order these
        std::atomic<int> wrong{0};
        auto work = [&](int thread) {
            for (int round = 1; round <= 200; ++round) {
                values[static_cast<size_t>(thread)] = round;
                pool.barrier();
                for (const int value : values) wrong += value != round;
                pool.barrier();
            }
        };
        for (int run = 0; run < 20; ++run) pool.run(work);
        CHECK(wrong == 0);
    }
}

TEST_CASE("sleeping threads wake") {
    ThreadPool pool(4);
    std::atomic<int> calls{0};
    auto work = [&](int thread) {
        if (thread == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5)); // longer than the others spin
        pool.barrier();
        ++calls;
    };
    for (int run = 0; run < 5; ++run) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        pool.run(work);
    }
    CHECK(calls == 20);
}

TEST_CASE("a thread takes its own range from the front, then what others have left from the end") {
    Shares shares(3);
    CHECK(shares.take(2, 1, 4) == 8);
    for (const int bite : {4, 5, 6, 7, 11, 10, 9, 3, 2, 1, 0, -1}) CHECK(shares.take(1, 1, 4) == bite);
    CHECK(shares.take(0, 1, 4) == -1); // came late
    CHECK(shares.take(0, 2, 1) == 0);  // the next step begins anew, with bites of its own
    CHECK(shares.take(1, 1, 4) == -1); // still at the one before
    CHECK(!shares.add(2, 2, 3));
    CHECK(!shares.all_done(2, 3));
    CHECK(shares.add(2, 1, 3));
    CHECK(shares.all_done(2, 3));
    CHECK(shares.all_done(1, 12));
    CHECK(!shares.all_done(3, 3));
}

TEST_CASE("all work is done once, and whoever waits for it sees it, also while one thread is away") {
    constexpr int THREADS = 3, EACH = Shares::MOST_BITES, TOTAL = THREADS * EACH;
    ThreadPool pool(THREADS);
    Shares shares(THREADS);
    std::vector<int> times(TOTAL); // no atomics: waiting must order these
    std::atomic<int> lasts{0}, wrong{0};
    auto work = [&](int thread) {
        for (int step = 1; step <= 200; ++step) {
            const auto id = static_cast<uint64_t>(step);
            if (thread == 1 && step % 16 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
            uint32_t done = 0;
            for (int bite; (bite = shares.take(thread, id, EACH)) >= 0; ++done) wrong += ++times[static_cast<size_t>(bite)] != step;
            if (done > 0 && shares.add(id, done, TOTAL)) {
                ++lasts;
                pool.waiting().changed();
            }
            pool.waiting().until([&] { return shares.all_done(id, TOTAL); });
        }
    };
    pool.run(work);
    CHECK(wrong == 0);
    CHECK(lasts == 200);
    for (const int n : times) CHECK(n == 200);
}
