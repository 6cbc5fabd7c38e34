// The cache of experts against a disk that is late: what is asked for is there, whole, until the next is asked for.
#include "expert_cache.h"
#include "hash.h"
#include "sampler.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <doctest/doctest.h>

using namespace n730;

namespace {

constexpr uint32_t EXPERTS = 24, LAYERS = 3; // segments; each layer has a third of them
constexpr uint64_t SIZE = PAGE;

class LateDisk : public MemorySource {
  public:
    explicit LateDisk(const std::vector<uint8_t> &bytes) : MemorySource(bytes.data(), bytes.size()) {}
    std::string read_weights(uint64_t offset, void *out, size_t n) const override {
        const int now = ++count;
        std::this_thread::sleep_for(std::chrono::microseconds(Random(static_cast<uint64_t>(now)).next() % 300));
        if (now == fail_at) return "it is broken";
        read(offset, out, n);
        return "";
    }
    mutable std::atomic<int> count{0};
    int fail_at = -1;
};

// Every byte of expert i is i.
struct Toy {
    explicit Toy(uint32_t places) : bytes(EXPERTS * SIZE), disk(bytes), arena(places * SIZE) {
        for (uint32_t i = 0; i < EXPERTS; ++i) {
            std::fill_n(bytes.data() + i * SIZE, SIZE, static_cast<uint8_t>(i));
            package.segments.push_back({i * SIZE, SIZE, i, i, 1});
            package.sums.push_back(xxh3(bytes.data() + i * SIZE, SIZE));
            package.tensors.push_back({0, 0, Format::INT8, Layout::MATRIX, 1, 1, i, 0, 1});
            package.placements.push_back({Tier::EXPERT, 0});
        }
        package.source = &disk;
        package.plans.emplace_back();
        package.plans[0].reads_in_flight = 3;
        package.plans[0].expert_places = places;
    }
    std::vector<uint8_t> bytes;
    LateDisk disk;
    std::vector<uint8_t> arena;
    Package package;
};

std::vector<uint32_t> some(Random &random, uint32_t layer) {
    std::vector<uint32_t> all;
    for (uint32_t i = layer * EXPERTS / LAYERS; i < (layer + 1) * EXPERTS / LAYERS; ++i)
        if (random.next() % 3 == 0) all.push_back(i);
    return all;
}

} // namespace

TEST_CASE("an expert is there from when it is asked for until the next one is") {
    for (const uint32_t places : {1u, 2u, 3u, 5u, 8u, 23u, 24u}) {
        CAPTURE(places);
        Toy toy(places);
        ExpertCache cache(toy.package, 0, toy.arena.data());
        Random random(places);
        for (uint32_t turn = 0; turn < 60; ++turn) {
            const std::vector<uint32_t> wanted = some(random, turn % LAYERS);
            cache.expect(wanted);
            cache.guess(some(random, (turn + 1) % LAYERS));
            for (const uint32_t expert : wanted) {
                const uint8_t *at = cache.get(expert);
                bool whole = true;
                for (int look = 0; look < 3; ++look) {
                    whole = whole && std::all_of(at, at + SIZE, [&](uint8_t byte) { return byte == expert; });
                    std::this_thread::sleep_for(std::chrono::microseconds(random.next() % 50));
                }
                REQUIRE(whole);
            }
        }
        CHECK(cache.asked() >= cache.missed());
        if (places == EXPERTS) CHECK(toy.disk.count <= int(EXPERTS));
    }
}

TEST_CASE("a plan whose experts are in RAM starts nothing") {
    Toy toy(1);
    for (Placement &place : toy.package.placements) place.tier = Tier::RAM;
    toy.package.plans[0].expert_places = 0;
    const ExpertCache cache(toy.package, 0, toy.arena.data());
    CHECK(!cache.has(0));
}

TEST_CASE("what goes wrong with a read of an expert is told, and ends") {
    for (const int fail_at : {1, 2, 7}) {
        Toy toy(2);
        toy.disk.fail_at = fail_at;
        ExpertCache cache(toy.package, 0, toy.arena.data());
        const auto all = [&] {
            for (uint32_t turn = 0; turn < 20; ++turn) {
                cache.expect({0, 3, 5, 6});
                cache.guess({8, 9});
                for (const uint32_t expert : {0u, 3u, 5u, 6u}) cache.get(expert);
            }
        };
        CHECK_THROWS_AS(all(), Error);
    }
}
