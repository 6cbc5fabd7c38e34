// Negative log-likelihood of a text, window by window of the context, and the logits themselves.
#include "commands.h"
#include "npy.h"
#include "progress.h"
#include "text.h"

#include <algorithm>
#include <cmath>

namespace n730 {

namespace {

// −ln softmax(logits)[target], in double precision.
double negative_log_likelihood(const float *logits, int64_t vocab, int32_t target) {
    const double most = *std::max_element(logits, logits + vocab);
    double sum = 0;
    for (int64_t i = 0; i < vocab; ++i) sum += std::exp(logits[i] - most);
    return std::log(sum) + most - logits[target];
}

class Scorer {
  public:
    Scorer(Model &model, const std::vector<int32_t> &ids, NpyWriter *logits)
        : model_(model), ids_(ids), logits_(logits), progress_("scoring", ids.size(), "tokens"),
          nll_(model.plan().head_batch) {}

    void run() {
        const size_t context = model_.plan().context, batch = model_.plan().batch;
        for (size_t start = 0; start < ids_.size(); start += context) {
            const size_t end = std::min(ids_.size(), start + context);
            for (size_t at = start; at < end; at += batch) {
                if (platform::interrupted()) throw Interrupted();
                const size_t n = std::min(batch, end - at);
                model_.executor.body(ids_.data() + at, static_cast<int64_t>(n), static_cast<int64_t>(at - start));
                // The last token of a window predicts nothing that is scored.
                score_batch(at, logits_ != nullptr || at + n < end ? n : n - 1, end);
                progress_.advance(n);
            }
        }
    }

    double nll = 0; // nats, summed
    size_t scored = 0;

  private:
    void score_batch(size_t at, size_t n, size_t window_end) {
        const int64_t vocab = model_.executor.vocab(), stride = model_.executor.logits_stride();
        for (size_t i = 0; i < n; i += model_.plan().head_batch) {
            const size_t m = std::min<size_t>(model_.plan().head_batch, n - i);
            const float *logits = model_.executor.head(static_cast<int64_t>(i), static_cast<int64_t>(m));
            const size_t first = at + i;
            const size_t predict = std::min(m, window_end - 1 - first); // tokens with a next one in the window
            auto work = [&](int thread) {
                int64_t from, to;
                model_.pool.range(static_cast<int64_t>(predict), thread, from, to);
                for (int64_t j = from; j < to; ++j)
                    nll_[static_cast<size_t>(j)] =
                        negative_log_likelihood(logits + j * stride, vocab, ids_[first + static_cast<size_t>(j) + 1]);
            };
            if (predict > 0) model_.pool.run(work);
            for (size_t j = 0; j < predict; ++j) nll += nll_[j];
            scored += predict;
            if (logits_ == nullptr) continue;
            for (size_t j = 0; j < m; ++j) logits_->row(logits + static_cast<int64_t>(j) * stride);
        }
    }

    Model &model_;
    const std::vector<int32_t> &ids_;
    NpyWriter *logits_;
    Progress progress_;
    std::vector<double> nll_; // of one head batch
};

} // namespace

int score(const RunOptions &run, const ScoreOptions &options) {
    Model model(run);
    const std::vector<int32_t> ids =
        options.tokens_file
            ? read_ids(*options.tokens_file, model.package.program.vocab)
            : encode_text(model.tokenizer, platform::read_all(*options.text_file), true, *options.text_file);
    if (ids.size() < 2)
        throw Error("there is nothing to score", "at least 2 tokens", std::to_string(ids.size()),
                    "Give a longer text.");
    if (model.plan().context < 2)
        throw Error("this package cannot be scored: no token has another before it", "a context of at least 2 tokens",
                    std::to_string(model.plan().context), "Build it with a larger --context.");
    model.load();
    std::unique_ptr<NpyWriter> logits;
    if (options.logits)
        logits = std::make_unique<NpyWriter>(*options.logits, static_cast<int64_t>(ids.size()), model.executor.vocab());
    double nll = 0;
    size_t scored = 0;
    {
        Scorer scorer(model, ids, logits.get());
        scorer.run();
        nll = scorer.nll, scored = scorer.scored;
    }
    if (logits) logits->finish();
    const double perplexity = std::exp(nll / static_cast<double>(scored));
    if (options.json)
        put(JsonObject(true)
                .add("tokens", uint64_t(ids.size()))
                .add("scored_tokens", uint64_t(scored))
                .add("nll", nll)
                .add("perplexity", perplexity)
                .add("context", uint64_t(model.plan().context))
                .text() +
            "\n");
    else
        put("perplexity " + format_number(perplexity) + " over " + std::to_string(scored) + " of " +
            std::to_string(ids.size()) + " tokens, in windows of " + std::to_string(model.plan().context) + "\n");
    put_flush();
    return 0;
}

} // namespace n730
