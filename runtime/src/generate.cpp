// The default command: a prompt in, text out as it comes.
#include "commands.h"
#include "conversation.h"
#include "decoder.h"
#include "progress.h"
#include "text.h"

namespace n730 {

namespace {

std::vector<int32_t> prompt_ids(const Model &model, const GenerateOptions &options) {
    if (options.tokens_file) return read_ids(*options.tokens_file, model.package.program.vocab);
    const std::string text = options.prompt ? *options.prompt : platform::read_all(*options.prompt_file);
    const std::string name = options.prompt ? "the prompt" : *options.prompt_file;
    if (!options.chat) return encode_text(model.tokenizer, text, true, name);
    require_utf8(text, name);
    Conversation conversation(read_chat(model.package));
    if (options.system) conversation.set_system(*options.system);
    conversation.add("user", text);
    return encode_text(model.tokenizer, conversation.render(true), false, name);
}

void check_length(const Model &model, int64_t prompt, int64_t count) {
    if (prompt == 0)
        throw Error("the prompt is empty and the tokenizer has no token to start from", "at least one token", "none",
                    "Give a --prompt.");
    const int64_t most = int64_t(model.plan().context) - (count > 0 ? 1 : 0);
    if (prompt > most)
        throw Error("the prompt does not fit the context of " + std::to_string(model.plan().context) + " tokens",
                    "at most " + std::to_string(most) + " tokens", std::to_string(prompt),
                    most > 0 ? "Shorten it, or build with a larger --context." : "Build with a larger --context.");
}

struct Timing {
    double prefill = 0, decode = 0;  // seconds
    int64_t prompt = 0, decoded = 0; // tokens
    uint64_t disk_bytes = 0;         // while decoding
};

void print_stats(const Model &model, const Timing &t) {
    const auto rate = [](int64_t tokens, double seconds) {
        return seconds > 0 ? format_number(static_cast<double>(tokens) / seconds) : std::string("0");
    };
    say("prefill " + std::to_string(t.prompt) + " tokens at " + rate(t.prompt, t.prefill) + "/s (predicted " +
        format_number(model.plan().prefill_tokens_per_s) + "), decode " + std::to_string(t.decoded) + " tokens at " +
        rate(t.decoded, t.decode) + "/s (predicted " + format_number(model.plan().decode_tokens_per_s) + ")");
    say("peak memory " + format_size(platform::peak_rss()) + " (planned " + format_size(model.plan().ram_bytes()) +
        "), " + std::to_string(model.pool.size()) + " threads, kernels: " + model.kernels.describe() + ", loaded in " +
        format_number(model.load_seconds) + " s");
    if (model.reader.reads() > 0)
        say("read " + format_number(static_cast<double>(t.disk_bytes) / 1e6 / std::max(t.decode, 1e-9)) +
            " MB/s from disk while decoding (counted on: " + format_number(model.plan().disk_bytes_per_s / 1e6) +
            "), waited for it " + format_number(model.reader.seconds_waited()) + " s");
}

} // namespace

int generate(const RunOptions &run, const GenerateOptions &options) {
    if (options.prompt) require_utf8(*options.prompt, "the prompt");
    Model model(run);
    check_bias(model, options.sampler);
    std::vector<int32_t> ids = prompt_ids(model, options);
    const int64_t prompt = static_cast<int64_t>(ids.size());
    check_length(model, prompt, options.count);
    model.load();

    PrinterOptions printing = options.printer;
    printing.continues = !options.chat;
    Printer printer(model.tokenizer, model.executor.vocab(), printing);
    Sampler sampler(model.executor.vocab(), options.sampler);
    for (const int32_t id : ids) sampler.accept(id, false);
    Timing timing;
    timing.prompt = prompt;
    double start = platform::seconds();
    uint64_t bytes = 0;
    Finish finish = Finish::INTERRUPTED;
    int64_t done = 0, made = 0;
    const auto stop = [&] {
        timing.decode = platform::seconds() - start;
        timing.decoded = static_cast<int64_t>(ids.size()) - prompt;
        timing.disk_bytes = model.reader.bytes_read() - bytes;
    };
    try {
        const float *logits = prefill(model, ids, 0, done);
        timing.prefill = platform::seconds() - start;
        start = platform::seconds(), bytes = model.reader.bytes_read();
        DecodeOptions decoding;
        decoding.count = options.count;
        if (logits != nullptr) finish = decode(model, decoding, sampler, logits, printer, ids, made);
        stop();
        if (finish == Finish::CONTEXT)
            say("the context of " + std::to_string(model.plan().context) + " tokens is full");
    } catch (const Interrupted &) { // in the middle of a token; what was printed stays
        stop();
    } catch (...) {
        stop();
        printer.end(finish);
        throw;
    }
    if (options.count > 0) printer.end(finish);
    if (options.stats) print_stats(model, timing);
    return platform::interrupted() ? EXIT_INTERRUPTED : 0;
}

} // namespace n730
