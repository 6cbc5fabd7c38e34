#include "session.h"
#include "progress.h"

#include <algorithm>

namespace n730 {

Session::Session(Model &model, const ChatOptions &options)
    : model_(model), printing_(options.printer), sampler_(model.executor.vocab(), options.sampler),
      conversation_(read_chat(model.package)) {
    if (options.system) conversation_.set_system(*options.system);
    check_bias(model, options.sampler);
    decoding_.count = options.count;
    // Many models end an answer with what their template puts there and not with a token of the generation config.
    printing_.continues = false;
    const std::string end = conversation_.answer_end();
    if (end.empty()) return;
    const std::vector<int32_t> ids = encode(end);
    if (!ids.empty() && model.tokenizer.is_special(ids[0]))
        decoding_.also_eos = ids[0];
    else
        printing_.stops.push_back(end);
}

std::vector<int32_t> Session::encode(const std::string &text) const {
    return encode_text(model_.tokenizer, text, false, "the conversation");
}

// The tokens of the conversation. Where its text goes on behind what is in the cache, those there stay as they are, even
// if the model chose other tokens for its answer than the tokenizer would.
std::vector<int32_t> Session::prompt() {
    const std::string text = conversation_.render(true);
    TokenStream stream(model_.tokenizer);
    std::string before;
    for (const int32_t id : cached_) before += stream.push(id);
    before += stream.flush();
    if (!cached_.empty() && text.size() > before.size() && text.compare(0, before.size(), before) == 0) {
        const std::vector<int32_t> rest = encode(text.substr(before.size()));
        if (!rest.empty() && model_.tokenizer.is_special(rest[0])) { // nothing grows together with what stands before it
            std::vector<int32_t> ids = cached_;
            ids.insert(ids.end(), rest.begin(), rest.end());
            return ids;
        }
    }
    return encode(text);
}

// How many of the first ids need not be computed: at least one does, for its logits. Where a window's cache is used in
// turn, what a token sees must not have been written over.
int64_t Session::reusable(const std::vector<int32_t> &ids) const {
    const auto end = std::mismatch(ids.begin(), ids.end() - 1, cached_.begin(), cached_.end()).first;
    const int64_t same = end - ids.begin();
    for (const Cache &cache : model_.package.caches) {
        const int64_t rows = static_cast<int64_t>(cache.positions(model_.plan().context, model_.plan().batch));
        if (cache.window != 0 && same - int64_t(cache.window) + 1 < highest_ - rows && highest_ > rows) return 0;
    }
    return same;
}

void Session::answer() {
    const int64_t context = model_.plan().context;
    std::vector<int32_t> ids;
    size_t dropped = 0;
    const std::vector<Message> before = conversation_.messages();
    try {
        ids = prompt();
        if (static_cast<int64_t>(ids.size()) > context - context / 4)
            while (static_cast<int64_t>(ids.size()) > context / 2 && conversation_.drop_oldest()) {
                ++dropped;
                ids = prompt();
            }
        if (static_cast<int64_t>(ids.size()) >= context)
            throw Error("the message does not fit the context", "less than " + std::to_string(context) + " tokens",
                        std::to_string(ids.size()), "Shorten it, or build with a larger --context.");
    } catch (const Error &error) {
        conversation_.restore(before); // nothing was dropped for a message that cannot be answered
        conversation_.remove_last();
        throw Refused{error.what()};
    }
    if (dropped > 0)
        say("the context of " + std::to_string(context) + " tokens is full: the oldest " +
            (dropped == 1 ? "exchange was" : std::to_string(dropped) + " exchanges were") + " dropped");

    kept = reusable(ids);
    if (kept == 0) highest_ = 0;
    computed = static_cast<int64_t>(ids.size()) - kept;
    made = 0;
    sampler_.forget();
    for (const int32_t id : ids) sampler_.accept(id, false);
    Printer printer(model_.tokenizer, model_.executor.vocab(), printing_);
    Finish finish = Finish::INTERRUPTED;
    const auto remember = [&](int64_t done) {
        highest_ = std::max(highest_, done);
        cached_.assign(ids.begin(), ids.begin() + done);
    };
    cached_.resize(static_cast<size_t>(kept)); // what is behind is about to be written over
    int64_t done = kept;
    const double start = platform::seconds();
    const float *logits = prefill(model_, ids, kept, done);
    prefill_seconds = platform::seconds() - start;
    remember(done);
    if (logits != nullptr) {
        finish = decode(model_, decoding_, sampler_, logits, printer, ids, made);
        remember(static_cast<int64_t>(ids.size()));
    }
    decode_seconds = platform::seconds() - start - prefill_seconds;
    printer.end(finish);
    if (printing_.form == Form::TEXT && !platform::stdout_is_tty()) put("\n"), put_flush();
    if (finish == Finish::CONTEXT) say("the context of " + std::to_string(context) + " tokens is full");
    if (made == 0 && finish == Finish::INTERRUPTED)
        conversation_.remove_last();
    else
        conversation_.add("assistant", printer.text());
}

} // namespace n730
