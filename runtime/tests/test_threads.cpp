// The pool: every item once, barriers that hold, many runs in a row, and idle times long enough to sleep.
#include "threads.h"

#include <chrono>
#include <doctest/doctest.h>

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
