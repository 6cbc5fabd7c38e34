// Reading a prompt and generating from it, for every command that does.
#pragma once
#include "model.h"
#include "printer.h"
#include "sampler.h"

namespace n730 {

// Computes ids[from …], with those before them in the cache; logits of the last. `done`: how many of all ids are in
// the cache then. nullptr: the user pressed Ctrl-C before the last batch. Throws Error, Interrupted.
const float *prefill(Model &model, const std::vector<int32_t> &ids, int64_t from, int64_t &done);

// Throws Error for a biased token that the model does not have.
void check_bias(const Model &model, const SamplerOptions &options);

struct DecodeOptions {
    int64_t count = 0;       // tokens to generate at most
    int32_t also_eos = -1;   // a token that ends the text beside those of the tokenizer
};

// Samples and prints until the text ends; `logits` are those of the last of `ids`, all of which are in the cache. What
// is computed beyond them is appended; `made` counts the tokens that were printed.
Finish decode(Model &model, const DecodeOptions &options, Sampler &sampler, const float *logits, Printer &printer,
              std::vector<int32_t> &ids, int64_t &made);

} // namespace n730
