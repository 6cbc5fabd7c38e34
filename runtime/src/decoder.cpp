#include "decoder.h"
#include "progress.h"
#include "status.h"

namespace n730 {

namespace {

// Watches the reader as long as it lives.
class Watch {
  public:
    template <class Fn> Watch(Reader &reader, Fn watcher) : reader_(reader) { reader.watch(watcher); }
    ~Watch() { reader_.watch(nullptr); }
    Watch(const Watch &) = delete;
    Watch &operator=(const Watch &) = delete;

  private:
    Reader &reader_;
};

} // namespace

const float *prefill(Model &model, const std::vector<int32_t> &ids, int64_t from, int64_t &done) {
    const int64_t n = static_cast<int64_t>(ids.size()) - from;
    const uint64_t batches = ceil_div(static_cast<uint64_t>(n), model.plan().batch);
    const bool by_bytes = model.reader.reads() > 0; // a single pass may take minutes
    const uint64_t before = model.reader.bytes_read();
    Progress progress("reading the prompt", by_bytes ? batches * model.reader.pass_bytes() : static_cast<uint64_t>(n),
                      by_bytes ? "" : "tokens");
    const Watch watch(model.reader, [&] {
        if (by_bytes) progress.reach(model.reader.bytes_read() - before);
    });
    done = from;
    const float *logits = model.executor.forward(ids.data() + from, n, from, [&](int64_t computed) {
        done = from + computed;
        if (!by_bytes) progress.reach(static_cast<uint64_t>(computed));
        return !platform::interrupted();
    });
    if (logits != nullptr) done = from + n;
    return logits;
}

void check_bias(const Model &model, const SamplerOptions &options) {
    for (const auto &[id, bias] : options.bias)
        if (id >= model.executor.vocab())
            throw Error("--logit-bias names a token that the model does not have",
                        "ids below " + std::to_string(model.executor.vocab()), std::to_string(id), "Correct the id.");
}

Finish decode(Model &model, const DecodeOptions &options, Sampler &sampler, const float *logits, Printer &printer,
              std::vector<int32_t> &ids, int64_t &made) {
    Status status(model.reader, model.plan().disk_bytes_per_s);
    const Watch watch(model.reader, [&] { status.draw(); });
    const int64_t context = model.plan().context;
    for (made = 0; made < options.count;) {
        if (platform::interrupted()) return Finish::INTERRUPTED;
        const int32_t id = sampler.sample(logits);
        if (model.tokenizer.is_eos(id) || id == options.also_eos) return Finish::EOS;
        sampler.accept(id, true);
        status.clear();
        const bool goes_on = printer.token(id, logits);
        status.token();
        ++made;
        if (!goes_on) return Finish::STOP;
        if (made == options.count) break;
        if (static_cast<int64_t>(ids.size()) == context) return Finish::CONTEXT;
        status.draw();
        const int64_t position = static_cast<int64_t>(ids.size());
        logits = model.executor.body_and_last(&id, 1, position);
        ids.push_back(id);
    }
    return Finish::LENGTH;
}

} // namespace n730
