// A package made ready to run: plan chosen, arena filled, kernels picked, threads started.
// (Construction brings everything but the weights, so that a bad prompt is refused before the long read.)
#pragma once
#include "chat_program.h"
#include "executor.h"
#include "platform.h"
#include "tokenizer.h"

#include <functional>
#include <memory>
#include <optional>

namespace n730 {

// A package in a file.
class FileSource : public Source {
  public:
    explicit FileSource(const std::string &path); // throws PackageError E_OPEN
    uint64_t size() const override { return file_->size(); }
    bool read(uint64_t offset, void *out, size_t n) const override { return file_->read(offset, out, n); }
    std::string read_weights(uint64_t offset, void *out, size_t n) const override {
        return file_->read_direct(offset, out, n);
    }
    const platform::File &file() const { return *file_; }

  private:
    std::unique_ptr<platform::File> file_;
};

struct RunOptions {
    std::string package;
    uint64_t ram = 0; // bytes that the process may take; 0: what is free
    int threads = 0;  // 0: one a physical core
    int readers = 0;  // reads at once; 0: as many as the plan says
    std::string device = "auto";
    bool trust = false;
    KernelChoice kernels = KernelChoice::AUTO;
};

// Whether a plan that wants a graphics card may be taken; `spare`: bytes of RAM that are left for the driver.
using CardFits = std::function<bool(size_t plan, uint64_t spare)>;

struct PlanChoice {
    std::optional<size_t> plan; // none: nothing fits
    std::string why;            // in words, either way
};
// Of the plans that fit `ram` (if not 0) and what is really free (if known, not 0) the one that is predicted to be fastest, of
// equals the first. Without `card_fits` none with VRAM.
PlanChoice choose_plan(const Package &package, uint64_t ram, uint64_t free_ram, const CardFits &card_fits = {});

// One planned piece of memory.
class Arena {
  public:
    explicit Arena(uint64_t bytes); // throws Error
    ~Arena();
    Arena(const Arena &) = delete;
    Arena &operator=(const Arena &) = delete;
    uint8_t *data() const { return data_; }

  private:
    uint8_t *data_;
    uint64_t bytes_;
};

// Ids of a text. Throws Error if it is not UTF-8 or too long; `name` says whose text it is.
std::vector<int32_t> encode_text(const Tokenizer &tokenizer, const std::string &text, bool add_special,
                                 const std::string &name);
// Ids in a file of decimals, each below `vocab`. Throws Error.
std::vector<int32_t> read_ids(const std::string &path, uint32_t vocab);

class Model {
  public:
    explicit Model(const RunOptions &options); // throws Error, Interrupted
    ~Model();

    const Plan &plan() const { return package.plans[plan_index]; }
    // Reads the weights that stay in the arena, and begins with those that do not. Throws Error, Interrupted.
    void load();

    FileSource source;
    Package package;
    std::unique_ptr<DeviceCuda> gpu;      // computes everything, if there
    std::unique_ptr<CardRows> card_rows;  // or the rows that the plan gives it
    bool card_failed = false;             // when it was opened: no other plan asks it again
    size_t plan_index;
    double load_seconds = 0; // what load() took
    uint64_t loaded_bytes = 0;
    Arena arena;
    Tokenizer tokenizer;
    KernelSet kernels;
    ThreadPool pool;
    Reader reader;
    Executor executor;

  private:
    const bool untrusted_code_; // there is some, and it is left aside
    size_t choose(const RunOptions &options);
    bool open_card(const RunOptions &options, size_t plan, uint64_t spare, std::string &why);
    void load_card();
    void say_plan() const;
    const uint8_t *tables();
};

// The program of the chat template. Throws Error if the model has none.
chat::Program read_chat(const Package &package);

// Throws Error naming the offset of the first byte that is not UTF-8.
void require_utf8(const std::string &text, const std::string &name);

} // namespace n730
