// The default command: a prompt in, text out as it comes.
#include "commands.h"
#include "progress.h"
#include "status.h"
#include "text.h"
#include "tokenizer_decode.h"

namespace n730 {

namespace {

std::vector<int32_t> prompt_ids(const Model &model, const GenerateOptions &options) {
    if (options.tokens_file) return read_ids(*options.tokens_file, model.package.program.vocab);
    const std::string text = options.prompt ? *options.prompt : platform::read_all(*options.prompt_file);
    return encode_text(model.tokenizer, text, true, options.prompt ? "the prompt" : *options.prompt_file);
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

// Prints tokens as ids, or as text that is never cut within a character.
class Printer {
  public:
    Printer(const Tokenizer &tokenizer, bool ids) : tokenizer_(tokenizer), ids_(ids), stream_(tokenizer, true) {}
    void token(int32_t id) {
        if (ids_) {
            put((first_ ? "" : " ") + std::to_string(id));
            first_ = false;
        } else if (!tokenizer_.is_special(id)) {
            put(stream_.push(id));
        }
        put_flush();
    }
    void end() {
        put(ids_ ? (first_ ? "" : "\n") : stream_.flush());
        if (!ids_ && platform::stdout_is_tty()) put("\n");
        put_flush();
    }

  private:
    const Tokenizer &tokenizer_;
    const bool ids_;
    bool first_ = true;
    TokenStream stream_; // the text goes on behind the prompt
};

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

const float *prefill(Model &model, const std::vector<int32_t> &ids) {
    const uint64_t batches = ceil_div(ids.size(), model.plan().batch);
    const bool by_bytes = model.reader.reads() > 0; // a single pass may take minutes
    Progress progress("reading the prompt", by_bytes ? batches * model.reader.pass_bytes() : ids.size(),
                      by_bytes ? "" : "tokens");
    if (by_bytes) model.reader.watch([&] { progress.reach(model.reader.bytes_read()); });
    const float *logits =
        model.executor.forward(ids.data(), static_cast<int64_t>(ids.size()), 0, [&](int64_t done) {
            if (!by_bytes) progress.reach(static_cast<uint64_t>(done));
            return !platform::interrupted();
        });
    model.reader.watch(nullptr);
    return logits;
}

// Samples and prints until the text ends; `logits` are those of the prompt's last token.
void decode(Model &model, const GenerateOptions &options, const float *logits, Printer &printer, Timing &timing) {
    Sampler sampler(model.executor.vocab(), options.sampler);
    Status status(model.reader, model.plan().disk_bytes_per_s);
    model.reader.watch([&] { status.draw(); });
    const int64_t context = model.plan().context;
    for (int64_t made = 0; logits != nullptr && made < options.count && !platform::interrupted();) {
        const int32_t id = sampler.sample(logits);
        if (model.tokenizer.is_eos(id)) break;
        status.clear();
        printer.token(id);
        status.token();
        if (++made == options.count) break;
        if (timing.prompt + made == context) {
            say("the context of " + std::to_string(context) + " tokens is full");
            break;
        }
        status.draw();
        logits = model.executor.body_and_last(&id, 1, timing.prompt + made - 1);
        ++timing.decoded;
    }
}

} // namespace

int generate(const RunOptions &run, const GenerateOptions &options) {
    if (options.prompt) require_utf8(*options.prompt, "the prompt");
    Model model(run);
    const std::vector<int32_t> ids = prompt_ids(model, options);
    const int64_t prompt = static_cast<int64_t>(ids.size());
    check_length(model, prompt, options.count);
    model.load();

    Printer printer(model.tokenizer, options.ids);
    Timing timing;
    timing.prompt = prompt;
    double start = platform::seconds();
    uint64_t bytes = 0;
    const auto stop = [&] {
        model.reader.watch(nullptr);
        timing.decode = platform::seconds() - start;
        timing.disk_bytes = model.reader.bytes_read() - bytes;
    };
    try {
        const float *logits = prefill(model, ids);
        timing.prefill = platform::seconds() - start;
        start = platform::seconds(), bytes = model.reader.bytes_read();
        decode(model, options, logits, printer, timing);
        stop();
    } catch (const Interrupted &) { // in the middle of a token; what was printed stays
        stop();
    } catch (...) {
        stop();
        printer.end();
        throw;
    }
    if (options.count > 0) printer.end();
    if (options.stats) print_stats(model, timing);
    return platform::interrupted() ? EXIT_INTERRUPTED : 0;
}

} // namespace n730
