// What the sampler chooses among: reads from stdin, native byte order: i32 vocab, i32 prompt tokens, i32 generated tokens,
// i32 biases, 8 × f64 (temperature, top_k, top_p, min_p, typical, repetition, frequency, presence), the tokens as i32, the biases as i32 + f32,
// the logits as f32. Answers a line: the token chosen, then id:probability of each that could have been.
#include "sampler.h"

#include <cstdio>
#include <cstdlib>

namespace {

template <class T> T read() {
    T value{};
    if (std::fread(&value, sizeof value, 1, stdin) != 1) std::exit(0);
    return value;
}

} // namespace

int main() {
    for (;;) {
        const int32_t vocab = read<int32_t>(), prompt = read<int32_t>(), generated = read<int32_t>(), biases = read<int32_t>();
        n730::SamplerOptions options;
        options.temperature = read<double>();
        options.top_k = static_cast<int64_t>(read<double>());
        options.top_p = read<double>();
        options.min_p = read<double>();
        options.typical = read<double>();
        options.repetition_penalty = read<double>();
        options.frequency_penalty = read<double>();
        options.presence_penalty = read<double>();
        std::vector<int32_t> tokens;
        for (int32_t i = 0; i < prompt + generated; ++i) tokens.push_back(read<int32_t>());
        for (int32_t i = 0; i < biases; ++i) {
            const int32_t id = read<int32_t>();
            options.bias.push_back({id, read<float>()});
        }
        std::vector<float> logits;
        for (int32_t i = 0; i < vocab; ++i) logits.push_back(read<float>());
        n730::Sampler sampler(vocab, options);
        for (int32_t i = 0; i < prompt + generated; ++i) sampler.accept(tokens[size_t(i)], i >= prompt);
        std::printf("%d", sampler.sample(logits.data()));
        for (size_t i = 0; i < sampler.kept(); ++i) std::printf(" %d:%.9g", sampler.kept_id(i), sampler.kept_probability(i));
        std::printf("\n");
        std::fflush(stdout);
    }
}
