// Any bytes through the reader and the validator; what they accept is run on the built-in kernels, tokenizer included.
// Checksums are not looked at: a fuzzer cannot guess them, and they protect against accidents only.
#include "executor.h"
#include "sampler.h"
#include "tokenizer.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

using namespace n730;

namespace {

constexpr uint64_t LARGEST_ARENA = 512 << 10;
constexpr size_t MOST_STEPS = 256;
constexpr int64_t MOST_TOKENS = 3;

struct Free {
    void operator()(uint8_t *memory) const { std::free(memory); }
};

void run(const Package &package, size_t plan) {
    const Plan &p = package.plans[plan];
    // From malloc, so that the sanitizer sees every byte beyond it.
    const std::unique_ptr<uint8_t, Free> arena(static_cast<uint8_t *>(std::aligned_alloc(PAGE, p.arena_bytes)));
    if (arena == nullptr) return;
    std::memset(arena.get(), 0, p.arena_bytes);
    uint8_t *tables = arena.get() + p.tokenizer_offset;
    read_section(package, TOKENIZER, tables);
    const Tokenizer tokenizer(tables, package.sections[TOKENIZER].size);
    std::vector<int32_t> ids;
    const std::string text = "Fuzz \xC3\xA9 <|x|>\n\xFF 12";
    tokenizer.encode(text.data(), text.size(), true, ids);
    for (int32_t &id : ids) {
        if (id < 0 || static_cast<uint32_t>(id) >= package.program.vocab) std::abort(); // EMBED relies on it
        tokenizer.piece(id);
    }
    ids.resize(MOST_TOKENS);
    const int64_t tokens = std::min<int64_t>({MOST_TOKENS, p.batch, p.context});
    const KernelSet kernels(package, KernelChoice::BUILTIN, false);
    ThreadPool pool(1);
    Reader reader(package, plan, arena.get(), 1, 1);
    reader.load(nullptr);
    Executor executor(package, plan, arena.get(), kernels, pool, &reader);
    executor.body(ids.data(), tokens, 0);
    executor.head(0, std::min<int64_t>(tokens, p.head_batch));
    executor.body_and_last(ids.data(), 1, int64_t(p.context) - 1);
}

// Changes a few fields within one section and leaves all sizes and offsets as they are: what the header says about
// the file stays true, so that most inputs get past the first checks.
void change_fields(uint8_t *data, size_t size, Random &random) {
    const uint64_t interesting[] = {0, 1, 2, 3, 4, 63, 64, 4096, 1u << 24, NONE, ~uint64_t(0)};
    for (uint64_t changes = 1 + random.next() % 3; changes > 0; --changes) {
        const uint8_t *entry = data + 32 + (random.next() % SECTION_COUNT) * 32;
        const uint64_t offset = be64(entry + 8), bytes = be64(entry + 16);
        if (bytes < 8 || !inside(offset, bytes, size)) continue;
        const size_t width = size_t(1) << random.next() % 4;
        uint8_t *field = data + offset + random.next() % (bytes / width) * width;
        const uint64_t now = be64(data + offset + (random.next() % (bytes / 8)) * 8);
        const uint64_t choices[] = {interesting[random.next() % 11], random.next(), uint64_t(field[width - 1]) + 1,
                                    uint64_t(field[width - 1]) - 1,  now,           uint64_t(1) << random.next() % 64};
        const uint64_t value = choices[random.next() % 6];
        for (size_t i = 0; i < width; ++i) field[i] = static_cast<uint8_t>(value >> 8 * (width - 1 - i));
    }
}

} // namespace

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed) {
    Random random(seed);
    if (size < HEADER_SIZE || random.next() % 16 == 0) return LLVMFuzzerMutate(data, size, most);
    change_fields(data, size, random);
    return size;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    try {
        const MemorySource source(data, size);
        ReadOptions options;
        options.check_hashes = false;
        const Package package = read_package(source, options);
        if (package.steps.size() <= MOST_STEPS)
            for (size_t plan = 0; plan < package.plans.size(); ++plan)
                if (package.plans[plan].arena_bytes <= LARGEST_ARENA) run(package, plan);
        verify_segments(package, nullptr);
    } catch (const PackageError &) {
    }
    return 0;
}
