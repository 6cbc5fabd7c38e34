// The reader's threads against computing ones that check every byte: nothing comes early, late or damaged.
#include "reader.h"
#include "hash.h"
#include "platform.h"
#include "sampler.h"
#include "threads.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <doctest/doctest.h>
#include <unistd.h>

using namespace n730;

namespace {

// What the n-th read of weights does: bytes as they are, late, damaged or not at all.
class Disk : public MemorySource {
  public:
    explicit Disk(const std::vector<uint8_t> &bytes) : MemorySource(bytes.data(), bytes.size()) {}
    std::string read_weights(uint64_t offset, void *out, size_t n) const override {
        const int now = ++count;
        if (delay_us > 0) {
            const auto most = static_cast<uint64_t>(delay_us);
            std::this_thread::sleep_for(std::chrono::microseconds(Random(static_cast<uint64_t>(now)).next() % most));
        }
        if (now >= stall_from) std::this_thread::sleep_for(std::chrono::milliseconds(150));
        if (now == fail_at) return "it is broken";
        read(offset, out, n);
        if (now == damage_at) static_cast<uint8_t *>(out)[n / 2] ^= 1;
        return "";
    }
    mutable std::atomic<int> count{0};
    int delay_us = 0, fail_at = -1, damage_at = -1, stall_from = 1 << 30;
};

// Segments of one to three reads, two of them to stay in the arena; segment i is used by step i alone.
class Toy {
  public:
    explicit Toy(uint32_t slots) {
        constexpr uint32_t segments = 9;
        const uint64_t sizes[] = {3 * PIECE, PIECE + 4096, 4096};
        Plan plan{};
        plan.read_bytes = PIECE;
        std::vector<Read> reads;
        uint64_t at = 0;
        package.names = "x";
        package.tensors.push_back({0, 1, Format::F32, Layout::VECTOR, 1, 1, 0, 0, 4});
        for (uint32_t i = 0; i < segments; ++i) {
            const bool stays = i < 2;
            package.segments.push_back({at, sizes[i % 3], package.sums.size(), 0, 1});
            const uint64_t slot = stays ? i : 2 + (i - 2) % slots;
            package.placements.push_back({stays ? Tier::RAM : Tier::STREAM, slot * 3 * PIECE});
            if (!stays) reads.push_back({i, slots, i, i});
            for (uint64_t b = 0; b < sizes[i % 3]; ++b)
                bytes.push_back(static_cast<uint8_t>((b >> 12) * 7 + i * 31 + (b & 15)));
            for (uint64_t b = 0; b < sizes[i % 3]; b += PIECE)
                package.sums.push_back(xxh3(&bytes[at + b], std::min(PIECE, sizes[i % 3] - b)));
            at += sizes[i % 3];
        }
        // At the end of a pass the ring may begin anew in the middle: there the lead is shorter.
        const auto n = static_cast<uint32_t>(reads.size());
        for (uint32_t i = 0; i < n; ++i)
            for (uint32_t back = 1; back < reads[i].lead; ++back)
                if ((i + n - back) % n % slots == i % slots) reads[i].lead = back;
        package.reads.push_back(reads);
        package.plans.push_back(plan);
        arena.resize((2 + slots) * 3 * PIECE);
    }

    // True if the arena holds segment i, looked at here and there so that threads get ahead of each other.
    bool there(size_t i) const {
        const Segment &s = package.segments[i];
        return std::memcmp(&arena[package.placement(0, i).offset], &bytes[s.offset], s.size) == 0;
    }

    Package package;
    std::vector<uint8_t> bytes, arena;
};

// `passes` passes on `threads` threads without a barrier between them. What went wrong, or "".
std::string run(Toy &toy, Disk &disk, int readers, int threads, uint64_t passes, double slow_seconds = 10) {
    toy.package.source = &disk;
    Reader reader(toy.package, 0, toy.arena.data(), readers, threads, slow_seconds);
    try {
        uint64_t told = 0;
        reader.load([&](uint64_t n) { told += n; });
        if (told != toy.package.segments[0].size + toy.package.segments[1].size) return "progress is wrong";
        if (!toy.there(0) || !toy.there(1)) return "not loaded";
        std::atomic<bool> lost{false}, wrong{false};
        auto work = [&](int thread) {
            for (uint64_t pass = 0; pass < passes && !lost; ++pass)
                for (size_t i = 0; i < reader.reads(); ++i) {
                    if (!reader.wait(thread, pass, i)) {
                        lost = true;
                        return;
                    }
                    if (!toy.there(i + 2)) wrong = true;
                    reader.release(thread, pass * reader.reads() + i + 1);
                }
        };
        ThreadPool pool(threads);
        pool.run(work);
        if (wrong) return "wrong bytes";
        reader.rethrow();
        if (!lost && reader.bytes_read() < passes * reader.pass_bytes()) return "bytes are missing";
        return lost ? "lost" : "";
    } catch (const Error &error) {
        return error.what();
    }
}

} // namespace

TEST_CASE("every pass finds every segment, whatever the ring, the readers and the threads") {
    for (const uint32_t slots : {1u, 2u, 5u, 7u})
        for (const int readers : {1, 3})
            for (const int threads : {1, 3})
                for (const int delay : {0, 300}) {
                    Toy toy(slots);
                    Disk disk(toy.bytes);
                    disk.delay_us = delay;
                    CHECK(run(toy, disk, readers, threads, 6) == "");
                }
}

TEST_CASE("what fails is named, and nobody hangs") {
    for (const int at : {1, 4, 9, 30})
        for (const int readers : {1, 3}) {
            Toy toy(2);
            Disk broken(toy.bytes), damaged(toy.bytes);
            broken.fail_at = damaged.damage_at = at;
            const std::string error = run(toy, broken, readers, 3, 50), damage = run(toy, damaged, readers, 3, 50);
            CHECK(error.find("cannot read segment ") == 0);
            CHECK(error.find("(x) (found it is broken)") != std::string::npos);
            CHECK(damage.find("E_SEGMENT_CHECKSUM: segment ") == 0);
        }
}

TEST_CASE("a disk that stalls is spoken of, once") {
    Toy toy(2);
    Disk disk(toy.bytes);
    disk.stall_from = 5; // of 19: two to load, 17 to stream
    std::FILE *file = std::tmpfile();
    REQUIRE(file != nullptr);
    const int before = ::dup(2);
    ::dup2(::fileno(file), 2);
    const std::string result = run(toy, disk, 1, 2, 1, 0.04);
    ::dup2(before, 2);
    ::close(before);
    CHECK(result == "");
    std::rewind(file);
    char text[1000] = {};
    const size_t n = std::fread(text, 1, sizeof text - 1, file);
    std::fclose(file);
    CHECK(std::string(text, n).find("n730-exec: the disk is slow: nothing came for 0 s, still waiting for segment ") == 0);
    CHECK(std::count(text, text + n, '\n') == 1);
}

TEST_CASE("a reader that nobody waits for can be ended, at any time") {
    for (const int delay : {0, 2000}) {
        Toy toy(2);
        Disk disk(toy.bytes);
        disk.delay_us = delay;
        toy.package.source = &disk;
        Reader(toy.package, 0, toy.arena.data(), 3, 2);
        Reader reader(toy.package, 0, toy.arena.data(), 3, 2);
        reader.load(nullptr);
    }
}
