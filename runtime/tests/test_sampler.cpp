// The sampler: ties, limits, seeds, and that it draws with the probabilities it promises.
#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <limits>

using n730::Sampler;
using n730::SamplerOptions;

namespace {

SamplerOptions with(double temperature, int64_t top_k = 0, double top_p = 1, uint64_t seed = 1) {
    SamplerOptions options;
    options.temperature = temperature;
    options.top_k = top_k;
    options.top_p = top_p;
    options.seed = seed;
    return options;
}

std::vector<int> draw(const std::vector<float> &logits, const SamplerOptions &options, int times) {
    Sampler sampler(static_cast<int64_t>(logits.size()), options);
    std::vector<int> counts(logits.size());
    for (int i = 0; i < times; ++i) ++counts[static_cast<size_t>(sampler.sample(logits.data()))];
    return counts;
}

constexpr float NaN = std::numeric_limits<float>::quiet_NaN();
constexpr float INF = std::numeric_limits<float>::infinity();

} // namespace

TEST_CASE("greedy takes the first of the largest, whatever else is there") {
    CHECK(Sampler(4, with(0)).sample(std::vector<float>{1, 3, 3, 2}.data()) == 1);
    CHECK(Sampler(4, with(0)).sample(std::vector<float>{NaN, -5, -4, NaN}.data()) == 2);
    CHECK(Sampler(3, with(0)).sample(std::vector<float>{-INF, 0, INF}.data()) == 2);
    CHECK(Sampler(2, with(0)).sample(std::vector<float>{NaN, NaN}.data()) == 0);
    CHECK(Sampler(3, with(1)).sample(std::vector<float>{0, INF, NaN}.data()) == 1);
    CHECK(Sampler(3, with(std::nan(""))).sample(std::vector<float>{0, 1, 0}.data()) == 1);
    CHECK(Sampler(2, with(1)).sample(std::vector<float>{NaN, NaN}.data()) == 0);
}

TEST_CASE("tokens come as often as softmax of logits / temperature says") {
    const std::vector<float> logits = {0, 1, 2, NaN, -INF};
    const int times = 40000;
    for (const double temperature : {0.5, 1.0, 2.0}) {
        const std::vector<int> counts = draw(logits, with(temperature), times);
        double total = 0;
        for (int i = 0; i < 3; ++i) total += std::exp(i / temperature);
        for (int i = 0; i < 3; ++i) {
            const double p = std::exp(i / temperature) / total;
            // Five standard deviations, for one fixed seed.
            CHECK(std::abs(counts[static_cast<size_t>(i)] - times * p) < 5 * std::sqrt(times * p * (1 - p)));
        }
        CHECK(counts[3] + counts[4] == 0);
    }
}

TEST_CASE("top-k keeps the k likeliest, ties by id") {
    const std::vector<int> counts = draw({1, 2, 2, 2, 0}, with(1, 2), 1000);
    CHECK(counts[1] > 400);
    CHECK(counts[2] > 400);
    CHECK(counts[1] + counts[2] == 1000);
    CHECK(draw({1, 2, 3}, with(1, 1), 100)[2] == 100);
    CHECK(draw({1, 1, 1}, with(1, 50), 300)[0] > 50); // more than there are: all
}

TEST_CASE("top-p keeps the fewest that reach p, at least one") {
    // Probabilities 0.5, 0.3, 0.15, 0.05.
    const std::vector<float> logits = {std::log(0.15f), std::log(0.5f), std::log(0.05f), std::log(0.3f)};
    CHECK(draw(logits, with(1, 0, 0.4), 500)[1] == 500);
    CHECK(draw(logits, with(1, 0, 0.0), 500)[1] == 500);
    const std::vector<int> two = draw(logits, with(1, 0, 0.75), 4000);
    CHECK(two[0] + two[2] == 0);
    CHECK(two[3] > 4000 * 0.3 / 0.8 - 200);
    const std::vector<int> three = draw(logits, with(1, 0, 0.9), 4000);
    CHECK(three[0] > 0);
    CHECK(three[2] == 0);
}

TEST_CASE("a long tail is cut where a full sort would cut it") {
    n730::Random random(3);
    std::vector<float> logits(5000);
    for (float &x : logits) x = static_cast<float>(random.uniform() * 4);
    std::vector<std::pair<float, size_t>> order;
    for (size_t i = 0; i < logits.size(); ++i) order.push_back({-logits[i], i});
    std::sort(order.begin(), order.end());
    double total = 0, reached = 0;
    for (const float x : logits) total += std::exp(x);
    size_t keep = 0;
    while (reached < 0.5 * total) reached += std::exp(-order[keep++].first);
    std::vector<bool> kept(logits.size());
    for (size_t i = 0; i < keep; ++i) kept[order[i].second] = true;
    const std::vector<int> counts = draw(logits, with(1, 0, 0.5), 3000);
    for (size_t i = 0; i < counts.size(); ++i)
        if (counts[i] > 0) CHECK(kept[i]);
}

TEST_CASE("the seed decides, the same on every machine") {
    std::vector<float> logits(1000);
    for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i % 37) / 8;
    const auto sequence = [&](uint64_t seed) {
        Sampler sampler(1000, with(1, 0, 0.95, seed));
        std::vector<int32_t> ids;
        for (int i = 0; i < 20; ++i) ids.push_back(sampler.sample(logits.data()));
        return ids;
    };
    CHECK(sequence(5) == sequence(5));
    CHECK(sequence(5) != sequence(6));
    n730::Random random(0); // the published sequence of splitmix64 from 0
    CHECK(random.next() == 0xE220A8397B1DCDAFu);
    CHECK(random.next() == 0x6E789E6AA1B965F4u);
}
