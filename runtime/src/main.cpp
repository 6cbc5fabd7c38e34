// The command line.
#include "commands.h"
#include "progress.h"
#include "text.h"

#include <CLI/CLI.hpp>
#include <algorithm>

namespace n730 {

namespace {

constexpr int EXIT_USAGE = 2;

const CLI::Validator SIZE(
    [](std::string &text) {
        uint64_t bytes;
        return parse_size(text, bytes) ? std::string() : "expected a size like 512M or 1.5G, found " + text;
    },
    "SIZE");

struct CommandLine {
    RunOptions run;
    GenerateOptions generate;
    BenchOptions bench;
    ScoreOptions score;
    std::string text_file;
    std::string ram;
    std::string kernels = "auto";
    bool json = false;
};

void add_package(CLI::App &app, CommandLine &line) { app.add_option("package", line.run.package, "the .n730 file")->required(); }

void add_run_options(CLI::App &app, CommandLine &line) {
    app.add_option("--threads", line.run.threads, "threads (default: physical cores)")->check(CLI::Range(1, 256));
    app.add_option("--ram", line.ram, "memory for weights, caches and buffers: the first plan that fits is taken")->check(SIZE);
    app.add_option("--device", line.run.device, "auto, cpu or cuda")->check(CLI::IsMember({"auto", "cpu", "cuda"}));
    app.add_flag("--trust", line.run.trust, "run the code that the package carries");
    app.add_option("--kernels", line.kernels, "auto; builtin: never the package's code; sse2: built-in baseline")
        ->check(CLI::IsMember({"auto", "builtin", "sse2"}));
}

void add_generate_options(CLI::App &app, CommandLine &line) {
    GenerateOptions &g = line.generate;
    auto *prompt = app.add_option("--prompt", g.prompt, "text to continue");
    auto *file = app.add_option("--prompt-file", g.prompt_file, "the same from a file")->excludes(prompt);
    app.add_option("--tokens", g.tokens_file, "the prompt as token ids in a file")->excludes(prompt)->excludes(file);
    app.add_option("-n", g.count, "tokens to generate at most (0: only read the prompt)")->capture_default_str()->check(CLI::NonNegativeNumber);
    app.add_option("--temperature", g.sampler.temperature, "0: always the likeliest token")->capture_default_str()->check(CLI::Range(0.0, 1e6));
    app.add_option("--top-k", g.sampler.top_k, "of the K likeliest tokens only (0: all)")->capture_default_str()->check(CLI::NonNegativeNumber);
    app.add_option("--top-p", g.sampler.top_p, "of the likeliest tokens that together reach P")->capture_default_str()->check(CLI::Range(0.0, 1.0));
    app.add_option("--seed", g.sampler.seed, "the same seed gives the same text")->capture_default_str();
    app.add_flag("--ids", g.ids, "print token ids instead of text");
    app.add_flag("--stats", g.stats, "speed and memory on stderr at the end");
}

int dispatch(const CLI::App &app, CommandLine &line) {
    if (!line.ram.empty()) parse_size(line.ram, line.run.ram);
    if (line.kernels == "builtin") line.run.kernels = KernelChoice::BUILTIN;
    if (line.kernels == "sse2") line.run.kernels = KernelChoice::SSE2;
    if (app.got_subcommand("bench")) return bench(line.run, line.bench);
    if (app.got_subcommand("score")) return score(line.run, line.score);
    if (app.got_subcommand("tokenize")) return tokenize(line.run.package, line.text_file);
    if (app.got_subcommand("info")) return info(line.run.package, line.run.ram, line.json);
    if (app.got_subcommand("verify")) return verify(line.run.package);
    if (line.run.package.empty()) throw CLI::RequiredError("package");
    if (!line.generate.prompt && !line.generate.prompt_file && !line.generate.tokens_file)
        throw CLI::RequiredError("--prompt, --prompt-file or --tokens");
    return generate(line.run, line.generate);
}

void build(CLI::App &app, CommandLine &line) {
    app.require_subcommand(0, 1);
    app.footer("Generated text goes to stdout, everything else to stderr. Exit status: 0 done, 1 error, 2 wrong command line,\n"
               "130 ended by Ctrl-C after the current token.");
    app.add_option("package", line.run.package, "the .n730 file to run");
    add_generate_options(app, line);
    add_run_options(app, line);

    auto *bench = app.add_subcommand("bench", "measure speed and memory beside the plan's predictions");
    add_package(*bench, line);
    bench->add_option("--prompt-tokens", line.bench.prompt_tokens, "tokens to prefill (default: 128)")->check(CLI::PositiveNumber);
    bench->add_option("--gen-tokens", line.bench.gen_tokens, "tokens to decode (default: 64)")->check(CLI::NonNegativeNumber);
    bench->add_flag("--json", line.bench.json, "disk_bytes_per_s is the rate at which the weights were loaded");
    add_run_options(*bench, line);

    auto *score = app.add_subcommand("score", "perplexity of a text, in windows of the context");
    add_package(*score, line);
    auto *input = score->add_option_group("input")->require_option(1);
    input->add_option("--text", line.score.text_file, "a UTF-8 file, tokenized as a prompt is");
    input->add_option("--tokens", line.score.tokens_file, "token ids in a file");
    score->add_option("--logits", line.score.logits, "write float32 [tokens, vocab] to this .npy file");
    score->add_flag("--json", line.score.json, "nll is the sum over scored tokens, in nats");
    add_run_options(*score, line);

    auto *tokenize = app.add_subcommand("tokenize", "print the token ids of a text, without special tokens added");
    add_package(*tokenize, line);
    tokenize->add_option("--text", line.text_file, "a UTF-8 file")->required();

    auto *info = app.add_subcommand("info", "what is in a package, and which plan would be taken here");
    add_package(*info, line);
    info->add_option("--ram", line.ram, "as if run with this --ram")->check(SIZE);
    info->add_flag("--json", line.json);

    add_package(*app.add_subcommand("verify", "check every byte of a package"), line);
}

int fail(const std::string &what, int status) {
    std::string line = what;
    for (char &c : line)
        if (static_cast<unsigned char>(c) < 0x20) c = ' ';
    say("error: " + line);
    return status;
}

int run(std::vector<std::string> arguments) {
    CommandLine line;
    CLI::App app("Runs a .n730 package made by n730c.", "n730-exec");
    try {
        build(app, line);
        arguments.erase(arguments.begin());
        std::reverse(arguments.begin(), arguments.end()); // as CLI11 wants them
        app.parse(arguments);
        platform::catch_interrupt();
        return dispatch(app, line);
    } catch (const CLI::ParseError &error) {
        if (error.get_exit_code() == 0) return app.exit(error); // --help
        std::string what = error.what();
        while (!what.empty() && (what.back() == '.' || what.back() == '\n' || what.back() == ' ')) what.pop_back();
        return fail(what + ". Run n730-exec --help.", EXIT_USAGE);
    } catch (const Interrupted &) {
        return EXIT_INTERRUPTED;
    } catch (const std::bad_alloc &) {
        return fail("out of memory. Close other programs and try again.", 1);
    } catch (const std::exception &error) {
        return fail(error.what(), 1);
    }
}

} // namespace
} // namespace n730

int main(int argc, char **argv) { return n730::run(n730::platform::start(argc, argv)); }
