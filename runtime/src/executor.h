// Runs a program: one array of calls, made once, walked by all threads for every batch of tokens.
#pragma once
#include "card_rows.h"
#include "device_cuda.h"
#include "expert_cache.h"
#include "expert_guess.h"
#include "kernels.h"
#include "package.h"
#include "reader.h"
#include "rows.h"
#include "shares.h"
#include "threads.h"

#include <deque>

namespace n730 {

class Executor {
  public:
    // `arena` holds plan `plan` of the package, which `reader` has loaded and goes on to read (nullptr: all is
    // in RAM, and no experts are read); all arguments outlive the executor. `serial_work`: steps of at most that much work (elements,
    // roughly) are left to one thread, as waiting for the others would cost more.
    Executor(const Package &package, size_t plan, uint8_t *arena, const KernelSet &kernels, ThreadPool &pool,
             Reader *reader = nullptr, int64_t serial_work = 4096);

    // From now on all steps run on the card, which outlives the executor (nullptr: on the CPU). If it fails, the CPU goes on, and
    // nothing is lost.
    void use(DeviceCuda *device);
    // From now on the card multiplies the rows that the plan gives it, as long as it does not fail; it outlives the executor.
    void use(CardRows *rows);

    // Who computes now: "gpu", "cpu" or, each a part of the rows, "split".
    const char *computes() const {
        return device_ != nullptr ? "gpu" : card_ != nullptr && !card_->failed() ? "split" : "cpu";
    }

    const Plan &plan() const { return plan_; }
    int64_t vocab() const { return package_.program.vocab; }
    // From the logits of one token to the next, in floats.
    int64_t logits_stride() const { return logits_stride_; }
    const ExpertCache &experts() const { return experts_; }
    // Experts that single tokens chose in a layer whose router had been asked beforehand, and how many of them it had named.
    uint64_t foretold() const { return foretold_; }
    uint64_t foretold_rightly() const { return foretold_rightly_; }

    // Runs the body for ids[0 … n), 1 ≤ n ≤ batch, at `position`; position + n ≤ context. Ids are below vocab. This
    // and whatever runs the body throws what went wrong with reading, and Interrupted if Ctrl-C ended a wait for it.
    void body(const int32_t *ids, int64_t n, int64_t position);
    // Logits of tokens first … first + n of the last body batch, n ≤ head_batch; valid until the next call.
    const float *head(int64_t first, int64_t n);
    // Both, without a stop between them: logits of the last `last` of ids[0 … n).
    const float *body_and_last(const int32_t *ids, int64_t n, int64_t position, int64_t last = 1);
    // Any number of tokens, batch by batch; logits of the last one. `between` is called after each batch but the
    // last with the tokens done so far; if it returns false, the result is nullptr.
    template <class Between> const float *forward(const int32_t *ids, int64_t n, int64_t position, Between between) {
        int64_t done = 0;
        for (; n - done > plan_.batch;) {
            body(ids + done, plan_.batch, position + done);
            done += plan_.batch;
            if (!between(done)) return nullptr;
        }
        return body_and_last(ids + done, n - done, position + done);
    }

  private:
    struct Operand {
        uint8_t *base = nullptr;
        int64_t stride = 0; // bytes a token
        bool body = false;
    };
    struct Call {
        n730_kernel kernel;
        n730_call call;
        Op op;
        Operand in[3];
        int64_t per_token, fixed; // work items: tokens × per_token + fixed
        int64_t work;             // elements a token, roughly
        int64_t cache_bytes;      // of the KV cache that the step touches
        int64_t column;           // LINEAR: where in a token of `out` it begins to write, bytes
        bool serial, barrier;     // of the batch sizes below
        bool meet;                // the barrier is one for all threads; else all work in front of it has to be done, by whomever
        bool dealt;               // each thread has a fixed range of its work items (steps of an expert)
        size_t mixture;           // EXPERT: which of the layers with experts this is, if it is the first of them
        uint32_t segment;         // EXPERT: where its weights are if they are not in RAM, or NONE
        const uint8_t *weights;   // EXPERT: that segment, once thread 0 has it
        uint64_t weight_at, bias_at; // in that segment; NOWHERE: in RAM
        size_t group_end;         // EXPERT: behind the COMBINE
        bool look;                // EXPERT: all must wait before they look at the gates
        bool whole;               // takes all tokens where an expert's steps take those that chose it
        bool rows;                // EMBED from pieces that are read for it
        bool positions;           // EMBED of positions, not of ids
        uint32_t wait, wait_end;  // STREAM segments that the step is the first to use
        int64_t card_tiles[2];    // LINEAR: its first work items, which the card computes, and those with what is brought for a batch
        uint32_t card_share;      // LINEAR: which CardShare that is, or NONE
        uint32_t card_begin, card_end; // the card's round that begins, that ends with this step, or NONE
        uint32_t released;        // how many of them no later step uses; 0: as many as before it
    };
    static constexpr uint64_t NOWHERE = ~uint64_t(0);
    struct Touch { // bytes of the arena that a step reads or writes: columns [from, to) of tokens `stride` apart
        const uint8_t *begin, *end;
        bool write, serial;
        int64_t stride, from, to; // stride 0: everything between begin and end
    };

    void make_call(size_t index, size_t plan, uint8_t *arena, const KernelSet &kernels);
    void plan_waits(const std::vector<Read> &reads);
    int bites(const Call &call, int64_t items) const;
    uint32_t parts(const Call &call, bool split) const;
    void arrange(int64_t body_tokens, int64_t head_tokens);
    bool conflicts(const Touch &touch) const;
    void remember(const Touch &touch);
    bool embed_rows(const Call &call, uint32_t tensor);
    size_t touches(const Call &call, int64_t tokens, Touch out[5]) const;
    template <class Work> bool on_card(Work work);
    void compute_again();
    void set_body(const int32_t *ids, int64_t n, int64_t position);
    void set_head(int64_t first, int64_t n);
    static int64_t chosen(const Call &expert); // tokens
    void find_experts();
    void expect_experts(size_t first);
    bool get_expert(Call &expert);
    bool finish_round(uint32_t round);
    int64_t of_card(const Call &call) const { return call.card_tiles[card_->crosses(call.call.tokens)]; }
    Shares &shares(size_t step) { return shares_[step % shares_.size()]; }
    void wait_for(size_t begin, size_t end, bool split);
    void run(size_t begin, size_t end);

    const Package &package_;
    const Plan &plan_;
    ThreadPool &pool_;
    Reader *const reader_;
    DeviceCuda *device_ = nullptr;
    std::vector<int32_t> past_; // ids of the tokens in the card's cache
    int64_t past_end_ = 0;      // behind the last of them
    CardRows *card_ = nullptr;
    RowReader rows_;
    ExpertCache experts_;
    ExpertGuess guess_;
    std::vector<std::vector<uint32_t>> chosen_; // experts that the last tokens chose, layer by layer; room is taken once
    const std::vector<uint32_t> *told_ = nullptr; // by the router of layer told_of_; null: it was not asked
    size_t told_of_ = 0;
    uint64_t foretold_ = 0, foretold_rightly_ = 0;
    std::vector<int32_t> row_order_; // tokens of a batch; room is taken once
    uint64_t passes_ = 0;            // over the body
    std::atomic<bool> broken_{false};
    const int64_t serial_work_;
    int64_t logits_stride_ = 0;
    float *logits_ = nullptr;
    std::vector<Call> calls_;
    std::deque<Shares> shares_; // taken in turn by the steps, that no more memory than this goes from core to core
    uint64_t first_id_ = 0;     // of the steps in this run
    size_t head_first_;
    std::vector<Touch> recent_; // since the last barrier; room is taken once
    int64_t arranged_body_ = 0, arranged_head_ = 0, position_ = 0;
};

} // namespace n730
