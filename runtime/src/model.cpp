#include "model.h"
#include "progress.h"
#include "text.h"
#include "utf8.h"

#include <algorithm>
#include <numeric>

namespace n730 {

FileSource::FileSource(const std::string &path) {
    try {
        file_ = std::make_unique<platform::File>(path);
    } catch (const Error &error) {
        const std::string what = error.what();
        throw PackageError("E_OPEN", what.substr(0, what.size() - 1), "", "", "Check the path.");
    }
}

PlanChoice choose_plan(const Package &package, uint64_t ram, uint64_t free_ram, const CardFits &card_fits) {
    const uint64_t unlimited = ~uint64_t(0);
    const uint64_t limit = std::min(ram == 0 ? unlimited : ram, free_ram == 0 ? unlimited : free_ram);
    std::vector<size_t> order(package.plans.size());
    std::iota(order.begin(), order.end(), size_t(0));
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
        return package.plans[a].decode_tokens_per_s > package.plans[b].decode_tokens_per_s;
    });
    for (const size_t i : order) {
        const uint64_t need = package.plans[i].ram_bytes();
        if (need > limit || (package.plans[i].vram_bytes > 0 && !(card_fits && card_fits(i, limit - need)))) continue;
        if (limit == unlimited) return {i, "the fastest"};
        return {i, "the fastest that fits " + format_size(limit) + (ram != 0 && limit == ram ? " of --ram" : " of free memory")};
    }
    const std::string need = format_need(package.plans.back().ram_bytes());
    if (ram != 0 && limit == ram)
        return {{},
                "not enough memory by --ram (expected at least " + need + ", found " + format_size(ram) +
                    "). Raise --ram, or build with a smaller --ram or --context"};
    return {{},
            "not enough free memory (expected " + need + ", found " + format_size(free_ram) +
                "). Close other programs, or build with a smaller --ram or --context"};
}

Arena::Arena(uint64_t bytes) : data_(static_cast<uint8_t *>(platform::allocate(bytes))), bytes_(bytes) {
    if (data_ == nullptr)
        throw Error("the system gives no memory", format_size(bytes), "less",
                    "Close other programs, or build with a smaller --ram or --context.");
}

Arena::~Arena() { platform::release(data_, bytes_); }

// A plan with a card is taken if the card is there and has the memory; with --device cuda it gets another plan's whole
// program if that can be. What stands in the way is said in one line, and the CPU computes.
size_t Model::choose(const RunOptions &options) {
    std::string why;
    const CardFits card_fits = [&](size_t plan, uint64_t spare) {
        return options.device != "cpu" && open_card(options, plan, spare, why);
    };
    const PlanChoice choice = choose_plan(package, options.ram, platform::free_ram(), card_fits);
    if (!choice.plan) throw Error(choice.why);
    if (options.device == "cuda" && package.plans[*choice.plan].vram_bytes == 0)
        open_card(options, *choice.plan, ~uint64_t(0), why);
    if (gpu != nullptr)
        say("computing on " + gpu->card().describe() + " with " + format_size(gpu->vram_bytes()) + " of its memory");
    else if (card_rows != nullptr)
        say("computing on the CPU and " + card_rows->card().describe() + " with " + format_size(card_rows->vram_bytes()) +
            " of its memory");
    else if (!why.empty())
        say("the CPU computes: " + why);
    return *choice.plan;
}

// How much memory a driver takes for itself is known when it runs.
bool Model::open_card(const RunOptions &options, size_t plan, uint64_t spare, std::string &why) {
    if (card_failed) return false;
    if (options.kernels == KernelChoice::BUILTIN) {
        why = "the kernels for the graphics card are the package's own code, and --kernels builtin runs none of that";
        return false;
    }
    const uint64_t before = platform::rss();
    try {
        if (!package.cards[plan].empty())
            card_rows = CardRows::open(package, plan, options.trust, why);
        else
            gpu = DeviceCuda::open(package, plan, options.trust, why);
    } catch (const Error &error) { // the CPU does without
        why = error.what();
        card_failed = true;
    }
    if (card_rows == nullptr && gpu == nullptr) return false;
    const uint64_t after = platform::rss(), taken = (after > before ? after - before : 0) + (card_rows ? CardRows::STAGING : 0);
    if (taken <= spare) return true;
    why = "the graphics card's driver and its buffers take too much memory beside the plan (expected " + format_size(spare) +
          " at most, found " + format_need(taken) + ")";
    card_rows.reset();
    gpu.reset();
    return false;
}

void Model::load_card() {
    if (card_rows != nullptr) card_rows->load(arena.data());
    try {
        if (gpu != nullptr) gpu->load(arena.data());
    } catch (const CardFailed &failure) {
        say(std::string(failure.what()) + " The CPU goes on alone.");
        executor.use(static_cast<DeviceCuda *>(nullptr));
        gpu.reset();
    }
}

const uint8_t *Model::tables() {
    uint8_t *tables = arena.data() + plan().tokenizer_offset;
    read_section(package, TOKENIZER, tables);
    return tables;
}

void Model::load() {
    say_plan();
    const double start = platform::seconds();
    uint64_t total = 0;
    for (size_t i = 0; i < package.segments.size(); ++i)
        if (package.placement(plan_index, i).tier == Tier::RAM) total += package.segments[i].size;
    {
        Progress progress("loading", total, "");
        reader.load([&](uint64_t bytes) { progress.advance(bytes); });
    }
    load_card();
    loaded_bytes = total;
    load_seconds = platform::seconds() - start;
    if (untrusted_code_) say("running on built-in kernels; --trust would run the package's own code");
    if (!source.file().direct() && reader.reads() > 0)
        say("the file system does not allow direct reads: weights come through the page cache, which is slower");
}

void Model::say_plan() const {
    if (package.plans.size() == 1 && reader.reads() == 0) return; // nothing was chosen
    say("plan " + std::to_string(plan_index + 1) + " of " + std::to_string(package.plans.size()) + ": " +
        format_need(plan().ram_bytes()) + " of RAM, " + format_size(plan().disk_bytes_per_token) +
        " read from disk a token, predicted " + format_number(plan().decode_tokens_per_s) + " tokens/s");
}

Model::Model(const RunOptions &options)
    : source(options.package), package(read_package(source)), plan_index(choose(options)), arena(plan().arena_bytes),
      tokenizer(tables(), static_cast<size_t>(package.sections[TOKENIZER].size)),
      kernels(package, options.kernels, options.trust),
      pool(options.threads > 0 ? options.threads : platform::physical_cores()),
      reader(package, plan_index, arena.data(),
             // One more than reads at once: while it checks sums, the others read.
             options.readers > 0 ? options.readers : static_cast<int>(plan().reads_in_flight) + 1, pool.size()),
      executor(package, plan_index, arena.data(), kernels, pool, &reader),
      untrusted_code_(!options.trust && options.kernels == KernelChoice::AUTO && !package.images.empty()) {
    source.file().forget(); // the tables are in memory now
    if (gpu != nullptr) executor.use(gpu.get());
    if (card_rows != nullptr) executor.use(card_rows.get());
}

Model::~Model() { card_rows.reset(); } // before the arena, from which the card may read

std::vector<int32_t> encode_text(const Tokenizer &tokenizer, const std::string &text, bool add_special,
                                 const std::string &name) {
    require_utf8(text, name);
    std::vector<int32_t> ids;
    if (!tokenizer.encode(text.data(), text.size(), add_special, ids)) {
        if (text.size() > Tokenizer::kMaxText)
            throw Error(name + " is too long", "at most " + format_size(Tokenizer::kMaxText), format_size(text.size()),
                        "Cut it into parts.");
        throw Error("the package's normalizer makes too much of " + name, "at most 128 times its length", "more",
                    "Build the package again from the original model.");
    }
    return ids;
}

std::vector<int32_t> read_ids(const std::string &path, uint32_t vocab) {
    const std::string text = platform::read_all(path);
    std::vector<int32_t> ids;
    size_t at = 0;
    const auto space = [&](char c) {
        return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f' || c == '\v';
    };
    while (at < text.size()) {
        if (space(text[at])) {
            ++at;
            continue;
        }
        const size_t from = at;
        int64_t id = 0;
        while (at < text.size() && !space(text[at])) {
            const bool digit = text[at] >= '0' && text[at] <= '9';
            id = digit ? std::min<int64_t>(id * 10 + (text[at] - '0'), int64_t(1) << 40) : int64_t(1) << 40;
            ++at;
        }
        if (id >= vocab)
            throw Error("bad token id in " + path, "decimals below " + std::to_string(vocab),
                        text.substr(from, std::min<size_t>(at - from, 20)), "Correct the file.");
        ids.push_back(static_cast<int32_t>(id));
    }
    return ids;
}

chat::Program read_chat(const Package &package) {
    chat::Program program(read_section(package, CHAT));
    if (program.empty())
        throw Error("the package has no chat template", "", "",
                    "Give a --prompt without --chat, or build again from a model that has a template.");
    return program;
}

void require_utf8(const std::string &text, const std::string &name) {
    const size_t valid = utf8_valid_length(text);
    if (valid != text.size())
        throw Error(name + " is not UTF-8", "UTF-8", "an invalid byte at offset " + std::to_string(valid),
                    "Convert it to UTF-8.");
}

} // namespace n730
