// The default command: a prompt in, text out as it comes.
#include "commands.h"
#include "progress.h"
#include "text.h"
#include "utf8.h"

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
    Printer(const Tokenizer &tokenizer, bool ids) : tokenizer_(tokenizer), ids_(ids) {}
    void token(int32_t id) {
        if (ids_) {
            put((first_ ? "" : " ") + std::to_string(id));
            first_ = false;
        } else if (!tokenizer_.is_special(id)) {
            put(stream_.push(tokenizer_.piece(id)));
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
    Utf8Stream stream_;
};

struct Timing {
    double prefill = 0, decode = 0;  // seconds
    int64_t prompt = 0, decoded = 0; // tokens
};

void print_stats(const Model &model, const Timing &t) {
    const auto rate = [](int64_t tokens, double seconds) {
        return seconds > 0 ? format_number(static_cast<double>(tokens) / seconds) : std::string("0");
    };
    say("prefill " + std::to_string(t.prompt) + " tokens at " + rate(t.prompt, t.prefill) + "/s (predicted " +
        format_number(model.plan().prefill_tokens_per_s) + "), decode " + std::to_string(t.decoded) + " tokens at " +
        rate(t.decoded, t.decode) + "/s (predicted " + format_number(model.plan().decode_tokens_per_s) + ")");
    say("peak memory " + format_size(platform::peak_rss()) + " (planned " + format_size(model.plan().arena_bytes) +
        "), " + std::to_string(model.pool.size()) + " threads, kernels: " + model.kernels.describe() + ", loaded in " +
        format_number(model.load_seconds) + " s");
}

const float *prefill(Model &model, const std::vector<int32_t> &ids) {
    Progress progress("reading the prompt", ids.size(), "tokens");
    int64_t before = 0;
    return model.executor.forward(ids.data(), static_cast<int64_t>(ids.size()), 0, [&](int64_t done) {
        progress.advance(static_cast<uint64_t>(done - before));
        before = done;
        return !platform::interrupted();
    });
}

} // namespace

int generate(const RunOptions &run, const GenerateOptions &options) {
    if (options.prompt) require_utf8(*options.prompt, "the prompt");
    Model model(run);
    const std::vector<int32_t> ids = prompt_ids(model, options);
    const int64_t prompt = static_cast<int64_t>(ids.size()), context = model.plan().context;
    check_length(model, prompt, options.count);
    model.load();

    Sampler sampler(model.executor.vocab(), options.sampler);
    Printer printer(model.tokenizer, options.ids);
    Timing timing;
    timing.prompt = prompt;
    double start = platform::seconds();
    const float *logits = prefill(model, ids);
    timing.prefill = platform::seconds() - start;

    start = platform::seconds();
    for (int64_t made = 0; logits != nullptr && made < options.count && !platform::interrupted();) {
        const int32_t id = sampler.sample(logits);
        if (model.tokenizer.is_eos(id)) break;
        printer.token(id);
        if (++made == options.count) break;
        if (prompt + made == context) {
            say("the context of " + std::to_string(context) + " tokens is full");
            break;
        }
        logits = model.executor.body_and_last(&id, 1, prompt + made - 1);
        ++timing.decoded;
    }
    timing.decode = platform::seconds() - start;
    if (options.count > 0) printer.end();
    if (options.stats) print_stats(model, timing);
    return platform::interrupted() ? EXIT_INTERRUPTED : 0;
}

} // namespace n730
