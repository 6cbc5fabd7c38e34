// What n730-exec can be told to do. Each returns the exit status; errors are thrown.
#pragma once
#include "model.h"
#include "printer.h"
#include "sampler.h"

#include <optional>

namespace n730 {

constexpr int EXIT_INTERRUPTED = 130; // as shells say it of a program that Ctrl-C ended

struct GenerateOptions {
    std::optional<std::string> prompt, prompt_file, tokens_file; // one of them
    int64_t count = 128;                                         // tokens to generate at most
    SamplerOptions sampler;
    PrinterOptions printer;
    bool chat = false;                 // the prompt is a user's message
    std::optional<std::string> system; // with chat: the system message
    bool stats = false;                // to stderr, at the end
};
int generate(const RunOptions &run, const GenerateOptions &options);

struct ChatOptions {
    int64_t count = 1 << 30; // tokens of an answer at most
    SamplerOptions sampler;
    PrinterOptions printer;
    std::optional<std::string> system;
    bool stats = false; // of each answer, to stderr
};
int talk(const RunOptions &run, const ChatOptions &options);

struct BenchOptions {
    std::optional<int64_t> prompt_tokens, gen_tokens; // default: 128 and 64, less in a short context
    int64_t columns = 1;                              // tokens of one pass while decoding, each with its logits
    bool json = false;
};
int bench(const RunOptions &run, const BenchOptions &options);

struct ScoreOptions {
    std::optional<std::string> text_file, tokens_file; // one of them
    std::optional<std::string> logits;                 // .npy to write
    bool json = false;
};
int score(const RunOptions &run, const ScoreOptions &options);

struct ProbeOptions {
    std::optional<std::string> output;       // FILE.toml; none: stdout
    std::string disk = ".";                  // folder to write a test file in, or a file to read
    uint64_t disk_bytes = uint64_t(1) << 30; // of the test file, at most
};
int probe(const ProbeOptions &options);

// Each line of `messages`, JSON, through the chat template; a line of JSON with "text" or "error" for each.
int render(const std::string &package, const std::string &messages);
int tokenize(const std::string &package, const std::string &text_file);
int info(const std::string &package, uint64_t ram, bool json);
int verify(const std::string &package);

} // namespace n730
