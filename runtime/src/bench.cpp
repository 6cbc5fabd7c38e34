// Measures speed and memory beside what the plan predicts.
#include "commands.h"
#include "progress.h"
#include "text.h"

#include <algorithm>

namespace n730 {

namespace {

constexpr int64_t PROMPT = 128, GENERATE = 64;
constexpr double DISK_BOUND = 0.05; // share of the time spent waiting for reads

// Lengths as asked; the defaults shrink to what a short context holds.
void choose_lengths(const BenchOptions &options, int64_t context, int64_t &prompt, int64_t &gen) {
    prompt = options.prompt_tokens.value_or(std::min(PROMPT, std::max<int64_t>(1, context * 2 / 3)));
    gen = options.gen_tokens.value_or(std::min(GENERATE, std::max<int64_t>(0, context - prompt)));
    if (prompt + gen > context)
        throw Error("the context is too short", "at most " + std::to_string(context) + " tokens",
                    std::to_string(prompt) + " + " + std::to_string(gen),
                    "Take fewer --prompt-tokens or --gen-tokens.");
}

} // namespace

int bench(const RunOptions &run, const BenchOptions &options) {
    Model model(run);
    int64_t prompt, gen;
    choose_lengths(options, model.plan().context, prompt, gen);
    const int64_t columns = options.columns;
    if (columns > static_cast<int64_t>(model.plan().head_batch))
        throw Error("too many columns", "at most " + std::to_string(model.plan().head_batch), std::to_string(columns),
                    "Take fewer --columns.");
    gen -= gen % columns;
    model.load();
    // Any ids do: what a token costs does not depend on which it is.
    Random random(1);
    std::vector<int32_t> ids(static_cast<size_t>(prompt + columns));
    for (int32_t &id : ids) id = static_cast<int32_t>(random.next() % static_cast<uint64_t>(model.executor.vocab()));
    const auto go_on = [](int64_t) { return !platform::interrupted(); };
    model.executor.body_and_last(ids.data(), 1, 0); // wakes threads and touches the buffers

    const double start = platform::seconds();
    if (model.executor.forward(ids.data(), prompt, 0, go_on) == nullptr) throw Interrupted();
    const double middle = platform::seconds();
    const ExpertCache &experts = model.executor.experts();
    const uint64_t bytes_before = model.reader.bytes_read() + experts.bytes_read();
    const uint64_t asked_before = experts.asked(), missed_before = experts.missed();
    const uint64_t told_before = model.executor.foretold(), right_before = model.executor.foretold_rightly();
    const double waited_before = model.reader.seconds_waited();
    const auto card_waited = [&] { return model.card_rows != nullptr ? model.card_rows->waited_seconds() : 0.0; };
    const double card_waited_before = card_waited();
    Progress progress("decoding", static_cast<uint64_t>(gen), "tokens");
    for (int64_t i = 0; i < gen; i += columns) {
        if (platform::interrupted()) throw Interrupted();
        model.executor.body_and_last(&ids[static_cast<size_t>(i % prompt)], columns, prompt + i, columns);
        progress.advance(static_cast<uint64_t>(columns));
    }
    const double end = platform::seconds();
    const double decode_seconds = end - middle;
    const uint64_t disk_bytes = model.reader.bytes_read() + experts.bytes_read() - bytes_before;
    const uint64_t asked = experts.asked() - asked_before, missed = experts.missed() - missed_before;
    const uint64_t told = model.executor.foretold() - told_before;
    const uint64_t right = model.executor.foretold_rightly() - right_before;
    const double hit_rate = asked > 0 ? 1.0 - static_cast<double>(missed) / static_cast<double>(asked) : 1.0;
    const double waited = model.reader.seconds_waited() - waited_before;
    const char *limit = waited > DISK_BOUND * decode_seconds ? "disk" : "compute";

    const auto per_second = [](uint64_t n, double seconds) {
        return seconds > 0 ? static_cast<double>(n) / seconds : 0.0;
    };
    const Plan &plan = model.plan();
    const double prefill_rate = per_second(static_cast<uint64_t>(prompt), middle - start);
    const double decode_rate = per_second(static_cast<uint64_t>(gen), decode_seconds);
    const double disk_rate = per_second(disk_bytes, decode_seconds);
    const double load_rate = per_second(model.loaded_bytes, model.load_seconds);
    if (options.json) {
        put(JsonObject(true)
                .add("prefill_tokens_per_s", prefill_rate)
                .add("decode_tokens_per_s", decode_rate)
                .add("peak_rss_bytes", platform::peak_rss())
                .add("planned_ram_bytes", plan.ram_bytes())
                .add("predicted_prefill_tokens_per_s", plan.prefill_tokens_per_s)
                .add("predicted_decode_tokens_per_s", plan.decode_tokens_per_s)
                .add("disk_bytes_per_token", plan.disk_bytes_per_token)
                .add("disk_bytes_per_s", disk_rate)
                .add("planned_disk_bytes_per_s", plan.disk_bytes_per_s)
                .add("disk_wait_seconds", waited)
                .add("expert_hit_rate", hit_rate)
                .add("device", std::string(model.executor.computes()))
                .add("card_wait_seconds", card_waited() - card_waited_before)
                .add("experts_foretold", told > 0 ? static_cast<double>(right) / static_cast<double>(told) : 0.0)
                .add("limit", std::string(limit))
                .add("load_seconds", model.load_seconds)
                .add("load_bytes_per_s", load_rate)
                .add("prompt_tokens", static_cast<uint64_t>(prompt))
                .add("gen_tokens", static_cast<uint64_t>(gen))
                .add("threads", static_cast<uint64_t>(model.pool.size()))
                .add("kernels", model.kernels.describe())
                .add("plan", static_cast<uint64_t>(model.plan_index))
                .text() +
            "\n");
    } else {
        put("prefill " + std::to_string(prompt) + " tokens at " + format_number(prefill_rate) + "/s (predicted " +
            format_number(plan.prefill_tokens_per_s) + ")\ndecode " + std::to_string(gen) + " tokens at " +
            format_number(decode_rate) + "/s (predicted " + format_number(plan.decode_tokens_per_s) +
            ")\npeak memory " + format_size(platform::peak_rss()) + " (planned " + format_size(plan.ram_bytes()) +
            ")\n" +
            (model.reader.reads() > 0
                 ? "read from disk " + format_size(static_cast<uint64_t>(disk_rate)) + "/s while decoding (counted on: " +
                       format_size(static_cast<uint64_t>(plan.disk_bytes_per_s)) + "/s), limit: " + limit + "\n"
                 : "") +
            (asked > 0 ? "experts found in memory: " + format_number(100 * hit_rate) + " %\n" : "") + "loaded in " + format_number(model.load_seconds) + " s, " +
            format_size(static_cast<uint64_t>(load_rate)) + "/s\n" + std::to_string(model.pool.size()) +
            " threads, computing: " + model.executor.computes() + ", kernels: " + model.kernels.describe() + "\n");
    }
    put_flush();
    return 0;
}

} // namespace n730
