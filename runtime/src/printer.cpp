#include "printer.h"
#include "platform.h"
#include "progress.h"
#include "sampler.h"
#include "text.h"

#include <algorithm>
#include <numeric>

namespace n730 {

Printer::Printer(const Tokenizer &tokenizer, int64_t vocab, const PrinterOptions &options)
    : tokenizer_(tokenizer), vocab_(vocab), options_(options), stream_(tokenizer, options.continues),
      stop_(options.stops) {
    if (options.top > 0) order_.resize(static_cast<size_t>(vocab));
    all_.reserve(4096);
}

std::string Printer::scores(int32_t id, const float *logits) {
    const double total = log_total(logits, vocab_);
    JsonObject line;
    line.add("logprob", logits[id] - total);
    if (options_.top > 0) {
        std::iota(order_.begin(), order_.end(), 0);
        const auto end = order_.begin() + std::min(options_.top, vocab_);
        std::partial_sort(order_.begin(), end, order_.end(), [&](int32_t a, int32_t b) {
            return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
        });
        line.raw("top", json_array(std::vector<int32_t>(order_.begin(), end), [&](int32_t other) {
                     return JsonObject()
                         .add("id", uint64_t(other))
                         .add("text", std::string(tokenizer_.piece(other)))
                         .add("logprob", logits[other] - total)
                         .text();
                 }));
    }
    return line.text().substr(1);
}

bool Printer::token(int32_t id, const float *logits) {
    ++tokens_;
    std::string_view text;
    if (!tokenizer_.is_special(id)) text = stop_.push(stream_.push(id));
    if (options_.form == Form::IDS) {
        put((tokens_ == 1 ? "" : " ") + std::to_string(id));
    } else if (options_.form == Form::JSON) {
        const JsonObject line = JsonObject().add("id", uint64_t(id)).add("text", std::string(text));
        const std::string start = line.text();
        put(start.substr(0, start.size() - 1) + ", " + scores(id, logits) + "\n");
    } else {
        all_ += text;
        put(text);
    }
    put_flush();
    return stop_.found() == nullptr;
}

void Printer::end(Finish finish) {
    std::string rest(stop_.push(stream_.flush()));
    rest += stop_.flush();
    if (options_.form == Form::JSON) {
        const char *const names[] = {"eos", "stop", "length", "context", "interrupted"};
        JsonObject line;
        line.add("finish", std::string(names[size_t(finish)]));
        if (stop_.found() != nullptr) line.add("stop", *stop_.found());
        put(line.add("text", rest).add("tokens", tokens_).text() + "\n");
    } else if (options_.form == Form::IDS) {
        put(tokens_ > 0 ? "\n" : "");
    } else {
        all_ += rest;
        put(rest);
        if (platform::stdout_is_tty()) put("\n");
    }
    put_flush();
}

} // namespace n730
