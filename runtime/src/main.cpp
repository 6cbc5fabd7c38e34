// The command line.
#include "builtin_kernels.h"
#include "commands.h"
#include "progress.h"
#include "text.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <iostream>

namespace n730 {

namespace {

constexpr int EXIT_USAGE = 2;

// CLI11's own checks let NaN through and call a word "not in range".
template <class Good> CLI::Validator require(const std::string &expected, Good good) {
    return CLI::Validator(
        [=](std::string &text) { return good(text) ? "" : "expected " + expected + ", found " + text; }, "");
}

CLI::Validator whole(int64_t least, int64_t most) {
    const std::string expected = "a whole number from " + std::to_string(least) + " to " + std::to_string(most);
    return require(expected, [=](const std::string &text) {
        int64_t value = 0;
        const auto end = std::from_chars(text.data(), text.data() + text.size(), value);
        return end.ec == std::errc() && end.ptr == text.data() + text.size() && value >= least && value <= most;
    });
}

CLI::Validator number(double least, double most) {
    const std::string expected = "a number from " + format_number(least) + " to " + format_number(most);
    return require(expected, [=](const std::string &text) {
        char *end = nullptr;
        const double value = std::strtod(text.c_str(), &end);
        return !text.empty() && *end == '\0' && value >= least && value <= most;
    });
}

CLI::Validator size() {
    return require("a size like 512M or 1.5G", [](const std::string &text) {
        uint64_t bytes;
        return parse_size(text, bytes);
    });
}

CLI::Validator toml() {
    return require("a name that ends in .toml", [](const std::string &text) {
        return text.size() > 5 && text.compare(text.size() - 5, 5, ".toml") == 0;
    });
}

CLI::Validator any() { return CLI::Validator(""); }

constexpr int64_t MOST = 1 << 30;

// An option whose help shows `--name TYPE`.
template <class T> CLI::Option *add(CLI::App &app, const char *name, T &value, const char *type,
                                    const CLI::Validator &check, const char *help) {
    return app.add_option(name, value, help)->type_name(type)->check(check);
}

struct CommandLine {
    RunOptions run;
    GenerateOptions generate;
    ChatOptions chat;
    std::vector<std::string> biases;
    bool ids = false;
    BenchOptions bench;
    ScoreOptions score;
    ProbeOptions probe;
    std::string text_file, messages_file;
    std::string disk_bytes;
    std::string ram;
    std::string kernels = "auto";
    bool json = false;
};

void add_package(CLI::App &app, CommandLine &line) {
    add(app, "package", line.run.package, "PKG", any(), "the .n730 file")->required();
}

// In the order of KernelChoice.
std::vector<std::string> kernel_choices() {
    std::vector<std::string> names = {"auto", "builtin"};
    for (uint32_t isa = 0; isa <= uint32_t(Isa::AVX512); ++isa) names.push_back(isa_name(Isa(isa)));
    return names;
}

void add_run_options(CLI::App &app, CommandLine &line) {
    const CLI::Validator device = CLI::IsMember({"auto", "cpu", "cuda"}).description("");
    const CLI::Validator kernels = CLI::IsMember(kernel_choices()).description("");
    add(app, "--threads", line.run.threads, "N", whole(1, 256), "threads (default: physical cores)");
    add(app, "--ram", line.ram, "SIZE", size(), "memory for the whole process: the first plan that fits is taken");
    add(app, "--readers", line.run.readers, "N", whole(1, 64), "reads from disk at once (default: as the plan says)");
    add(app, "--device", line.run.device, "WHERE", device, "auto, cpu or cuda");
    app.add_flag("--trust", line.run.trust, "run the code that the package carries");
    add(app, "--kernels", line.kernels, "WHICH", kernels,
        "auto; builtin: never the package's; sse2, ssse3, avx, avx2, avx512: as on a CPU with no more");
}

// ID=BIAS. False if malformed.
bool parse_bias(const std::string &text, std::pair<int32_t, float> &bias) {
    const char *const begin = text.data(), *const end = begin + text.size();
    const auto id = std::from_chars(begin, end, bias.first);
    if (id.ec != std::errc() || bias.first < 0 || id.ptr == end || *id.ptr != '=') return false;
    char *rest = nullptr;
    bias.second = std::strtof(id.ptr + 1, &rest);
    return rest == end && rest != id.ptr + 1 && !std::isnan(bias.second);
}

// How the next token is chosen: the same for single texts and for conversations.
void add_sampler_options(CLI::App &app, CommandLine &line, SamplerOptions &s, PrinterOptions &printer) {
    const CLI::Validator text = require("some text", [](const std::string &given) { return !given.empty(); });
    const CLI::Validator bias = require("ID=BIAS like 42=-1.5", [](const std::string &given) {
        std::pair<int32_t, float> parsed;
        return parse_bias(given, parsed);
    });
    add(app, "--temperature", s.temperature, "X", number(0, 1e6), "0: always the likeliest token")
        ->capture_default_str();
    add(app, "--top-k", s.top_k, "N", whole(0, MOST), "of the N likeliest tokens only (0: all)")->capture_default_str();
    add(app, "--top-p", s.top_p, "X", number(0, 1), "of the likeliest tokens that together reach X")
        ->capture_default_str();
    add(app, "--min-p", s.min_p, "X", number(0, 1), "of tokens with at least X times the likeliest one's probability")
        ->capture_default_str();
    add(app, "--typical", s.typical, "X", number(0, 1), "of the tokens that together reach X, those first whose surprise is nearest to the expected")
        ->capture_default_str();
    add(app, "--repetition-penalty", s.repetition_penalty, "X", number(0.001, 1000),
        "divides positive logits of tokens in the text, prompt included, by X and multiplies others")
        ->capture_default_str();
    add(app, "--frequency-penalty", s.frequency_penalty, "X", number(-100, 100),
        "subtracted from the logit for each time that the token was generated")
        ->capture_default_str();
    add(app, "--presence-penalty", s.presence_penalty, "X", number(-100, 100),
        "subtracted from the logits of tokens that were generated")
        ->capture_default_str();
    add(app, "--logit-bias", line.biases, "ID=BIAS", bias, "added to the logit of a token; may be given again");
    add(app, "--seed", s.seed, "N", whole(0, INT64_MAX), "the same seed gives the same text")->capture_default_str();
    add(app, "--stop", printer.stops, "TEXT", text, "end before this text; may be given again");
}

void add_generate_options(CLI::App &app, CommandLine &line) {
    GenerateOptions &g = line.generate;
    auto *prompt = add(app, "--prompt", g.prompt, "TEXT", any(), "text to continue");
    auto *file = add(app, "--prompt-file", g.prompt_file, "FILE", any(), "the same from a file");
    auto *tokens = add(app, "--tokens", g.tokens_file, "FILE", any(), "the prompt as token ids in a file");
    file->excludes(prompt);
    tokens->excludes(prompt)->excludes(file);
    add(app, "-n", g.count, "N", whole(0, MOST), "tokens to generate at most (0: only read the prompt)")
        ->capture_default_str();
    add_sampler_options(app, line, g.sampler, g.printer);
    app.add_flag("--chat", g.chat, "the prompt is a user's message: the model's chat template is put around it")
        ->excludes(tokens);
    add(app, "--system", g.system, "TEXT", any(), "with --chat: a system message in front of it");
    auto *ids = app.add_flag("--ids", line.ids, "print token ids instead of text");
    app.add_flag("--json", line.json, "print a line of JSON a token: id, text, logprob by the model alone; then the finish")
        ->excludes(ids);
    add(app, "--top-logprobs", g.printer.top, "N", whole(0, MOST), "with --json: the N likeliest tokens beside each");
    app.add_flag("--stats", g.stats, "speed and memory on stderr at the end");
}

int dispatch(const CLI::App &app, CommandLine &line) {
    if (!line.ram.empty()) parse_size(line.ram, line.run.ram);
    for (const std::string &text : line.biases) {
        std::pair<int32_t, float> bias;
        parse_bias(text, bias);
        line.generate.sampler.bias.push_back(bias);
        line.chat.sampler.bias.push_back(bias);
    }
    const std::vector<std::string> kernels = kernel_choices();
    line.run.kernels = KernelChoice(std::find(kernels.begin(), kernels.end(), line.kernels) - kernels.begin());
    if (app.got_subcommand("bench")) return bench(line.run, line.bench);
    if (!line.disk_bytes.empty()) parse_size(line.disk_bytes, line.probe.disk_bytes);
    if (app.got_subcommand("probe")) return probe(line.probe);
    if (app.got_subcommand("score")) return score(line.run, line.score);
    if (app.got_subcommand("tokenize")) return tokenize(line.run.package, line.text_file);
    if (app.got_subcommand("render")) return render(line.run.package, line.messages_file);
    if (app.got_subcommand("info")) return info(line.run.package, line.run.ram, line.json);
    if (app.got_subcommand("verify")) return verify(line.run.package);
    if (app.got_subcommand("chat")) return talk(line.run, line.chat);
    if (line.run.package.empty()) throw CLI::RequiredError("package");
    if (!line.generate.prompt && !line.generate.prompt_file && !line.generate.tokens_file)
        throw CLI::RequiredError("--prompt, --prompt-file or --tokens");
    if (line.generate.system && !line.generate.chat) throw CLI::RequiredError("--chat, where --system is given,");
    if (line.generate.printer.top > 0 && !line.json)
        throw CLI::RequiredError("--json, where --top-logprobs is given,");
    line.generate.printer.form = line.json ? Form::JSON : line.ids ? Form::IDS : Form::TEXT;
    return generate(line.run, line.generate);
}

void build(CLI::App &app, CommandLine &line) {
    app.require_subcommand(0, 1);
    app.set_version_flag("--version", "n730-exec for packages of version 1.0");
    app.footer("Generated text goes to stdout, everything else to stderr.\n"
               "Exit status: 0 done, 1 error, 2 wrong command line, 130 ended by Ctrl-C after the current token.");
    add(app, "package", line.run.package, "PKG", any(), "the .n730 file to run");
    add_generate_options(app, line);
    add_run_options(app, line);

    auto *chat = app.add_subcommand("chat", "talk with the model, in the form of its chat template");
    add_package(*chat, line);
    add(*chat, "-n", line.chat.count, "N", whole(1, MOST), "tokens of an answer at most (default: as the context has room)");
    add(*chat, "--system", line.chat.system, "TEXT", any(), "the system message");
    add_sampler_options(*chat, line, line.chat.sampler, line.chat.printer);
    chat->add_flag("--stats", line.chat.stats, "what each answer took, on stderr");
    add_run_options(*chat, line);
    chat->footer("Answers go to stdout, everything else to stderr. What is computed already is not computed again.\n"
                 "Where a conversation takes more than three quarters of the context, its oldest exchanges are dropped\n"
                 "until it takes half at most; the system message stays.");

    auto *bench = app.add_subcommand("bench", "measure speed and memory beside the plan's predictions");
    add_package(*bench, line);
    add(*bench, "--prompt-tokens", line.bench.prompt_tokens, "N", whole(1, MOST), "tokens to prefill (default: 128)");
    add(*bench, "--gen-tokens", line.bench.gen_tokens, "N", whole(0, MOST), "tokens to decode (default: 64)");
    add(*bench, "--columns", line.bench.columns, "N", whole(1, MOST),
        "tokens of one pass while decoding, as when a draft is checked (default: 1)");
    bench->add_flag("--json", line.bench.json, "disk_bytes_per_s is the rate of reading while decoding");
    add_run_options(*bench, line);

    auto *score = app.add_subcommand("score", "perplexity of a text, in windows of the context");
    add_package(*score, line);
    auto *input = score->add_option_group("input")->require_option(1);
    add(*input, "--text", line.score.text_file, "FILE", any(), "a UTF-8 file, tokenized as a prompt is");
    add(*input, "--tokens", line.score.tokens_file, "FILE", any(), "token ids in a file");
    add(*score, "--logits", line.score.logits, "FILE", any(), "write float32 [tokens, vocab] to this .npy file");
    score->add_flag("--json", line.score.json, "nll is the sum over scored tokens, in nats");
    add_run_options(*score, line);

    auto *tokenize = app.add_subcommand("tokenize", "print the token ids of a text, without special tokens added");
    add_package(*tokenize, line);
    add(*tokenize, "--text", line.text_file, "FILE", any(), "a UTF-8 file")->required();

    auto *render = app.add_subcommand("render", "what the chat template makes of conversations");
    add_package(*render, line);
    add(*render, "--messages", line.messages_file, "FILE", any(),
        "one conversation a line, in JSON: a list of messages, or the template's variables; prints a line of JSON for each")
        ->required();

    auto *info = app.add_subcommand("info", "what is in a package, and which plan would be taken here");
    add_package(*info, line);
    add(*info, "--ram", line.ram, "SIZE", size(), "as if run with this --ram");
    info->add_flag("--json", line.json);

    auto *probe = app.add_subcommand("probe", "measure this PC and write a target file for n730c, in under a minute");
    add(*probe, "-o,--output", line.probe.output, "FILE.toml", toml(), "the file to write (default: stdout)");
    add(*probe, "--disk", line.probe.disk, "FOLDER", any(),
        "the disk to measure, by a file written here for the time being (default: this folder); or a large file");
    add(*probe, "--disk-bytes", line.disk_bytes, "SIZE", size(), "of that file at most (default: 1G)");

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
        if (error.get_exit_code() == 0) { // --help
            const int status = app.exit(error);
            return std::cout.flush() ? status : fail("cannot write the output. Give stdout a place to go.", 1);
        }
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
