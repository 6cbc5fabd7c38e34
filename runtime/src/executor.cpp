#include "executor.h"
#include "platform.h"
#include "progress.h"

#include <algorithm>
#include <numeric>

namespace n730 {

namespace {
constexpr size_t MOST_RECENT = 64; // touches kept between two barriers; beyond it a barrier is cheaper than looking
constexpr size_t MOST_STEPS = 64;  // from one barrier to the next
}

Executor::Executor(const Package &package, size_t plan, uint8_t *arena, const KernelSet &kernels, ThreadPool &pool,
                   Reader *reader, int64_t serial_work)
    : package_(package), plan_(package.plans[plan]), pool_(pool), reader_(reader), rows_(package, plan, arena),
      experts_(package, plan, arena), guess_(package, plan, arena, kernels), serial_work_(serial_work), head_first_(package.program.head_first) {
    calls_.resize(package.steps.size());
    row_order_.reserve(plan_.batch);
    recent_.reserve(MOST_RECENT + 5);
    for (size_t i = 0; i < calls_.size(); ++i) make_call(i, plan, arena, kernels);
    plan_waits(package.reads[plan]);
    find_experts();
    while (shares_.size() < MOST_STEPS) shares_.emplace_back(pool.size());
    logits_ = reinterpret_cast<float *>(arena + package.buffer_offset(plan, package.program.logits));
    logits_stride_ = static_cast<int64_t>(package.buffers[package.program.logits].token_bytes() / sizeof(float));
}

void Executor::use(DeviceCuda *device) {
    device_ = device;
    past_.resize(device != nullptr ? plan_.context : 0);
}

void Executor::use(CardRows *rows) {
    card_ = rows;
    for (uint32_t r = 0; r < rows->rounds().size(); ++r) {
        const CardLayout::Round &round = rows->rounds()[r];
        calls_[round.first].card_begin = calls_[round.last].card_end = r;
        for (uint32_t i = round.share; i < round.share_end; ++i) {
            calls_[rows->share(i).step].card_share = i;
            calls_[rows->share(i).step].card_tiles[0] = rows->share(i).tiles;
            calls_[rows->share(i).step].card_tiles[1] = rows->share(i).all();
        }
    }
}

void Executor::plan_waits(const std::vector<Read> &reads) {
    for (uint32_t i = 0; i < reads.size(); ++i) {
        Call &first = calls_[reads[i].first];
        if (first.wait == first.wait_end) first.wait = i;
        first.wait_end = i + 1;
        calls_[reads[i].last].released = i + 1;
    }
}

void Executor::make_call(size_t index, size_t plan, uint8_t *arena, const KernelSet &kernels) {
    const Step &step = package_.steps[index];
    Call &c = calls_[index];
    c = Call{};
    c.segment = c.card_share = c.card_begin = c.card_end = NONE;
    c.weight_at = c.bias_at = NOWHERE;
    c.kernel = kernels.of(step);
    c.op = step.op;
    const auto buffer = [&](uint32_t id) {
        const Buffer &b = package_.buffers[id];
        return Operand{arena + package_.buffer_offset(plan, id), static_cast<int64_t>(b.token_bytes()),
                       b.scope == Scope::BODY};
    };
    const auto tensor = [&](uint32_t id) -> const uint8_t * {
        if (id == NONE) return nullptr;
        const Tensor &t = package_.tensors[id];
        return arena + package_.placement(plan, t.segment).offset + t.offset;
    };
    n730_call &call = c.call;
    for (int i = 0; i < 3; ++i) {
        if (step.in[i] == NONE) continue;
        c.in[i] = buffer(step.in[i]);
        call.in[i] = c.in[i].base;
        call.in_stride[i] = c.in[i].stride;
    }
    if (step.out != NONE) {
        const Operand out = buffer(step.out);
        call.out = out.base;
        call.out_stride = out.stride;
    }
    call.weight = tensor(step.weight);
    call.bias = tensor(step.bias);
    const int64_t width = step.in[0] != NONE ? package_.buffers[step.in[0]].width : package_.buffers[step.out].width;
    call.cols = width;
    if (step.weight != NONE) {
        call.rows = package_.tensors[step.weight].rows;
        call.cols = package_.tensors[step.weight].cols;
    }
    std::copy(std::begin(step.f), std::end(step.f), call.f);
    c.per_token = 1;
    c.work = width;
    const auto by_blocks = [&] { c.per_token = static_cast<int64_t>(ceil_div(static_cast<uint64_t>(width), 256)); };
    const auto use_cache = [&] {
        const size_t id = static_cast<size_t>(step.p[0]);
        const Cache &cache = package_.caches[id];
        uint8_t *base = arena + package_.cache_offset(plan, id);
        call.context = static_cast<int64_t>(cache.positions(plan_.context, plan_.batch));
        call.window = cache.window;
        call.kv_heads = cache.kv_heads;
        call.head_dim = cache.head_dim;
        c.cache_bytes = static_cast<int64_t>(cache.bytes(plan_.context, plan_.batch));
        call.k_cache = base;
        call.v_cache = base + cache.row_bytes() * cache.kv_heads * static_cast<uint64_t>(call.context);
    };
    switch (step.op) {
    case Op::EMBED:
        c.rows = rows_.has(step.weight);
        c.positions = step.p[0] != 0;
        break;
    case Op::RMS_NORM:
    case Op::LAYER_NORM:
        call.heads = width / call.cols;
        break;
    case Op::ROPE_TABLE:
        break;
    case Op::LINEAR:
        call.wide = package_.buffers[step.in[0]].kind == BufferKind::Q16;
        c.column = int64_t(step.p[0]) * int64_t(sizeof(float));
        call.out = static_cast<uint8_t *>(call.out) + c.column;
        c.per_token = 0;
        c.fixed = static_cast<int64_t>(ceil_div(static_cast<uint64_t>(call.rows), TILE_ROWS));
        c.work = call.rows * call.cols / 8;
        break;
    case Op::ROPE:
        call.heads = step.p[0];
        call.head_dim = step.p[1];
        call.rotary_dim = step.p[2];
        c.per_token = call.heads;
        break;
    case Op::KV_STORE:
        use_cache();
        call.heads = call.kv_heads;
        c.per_token = call.kv_heads;
        break;
    case Op::ATTENTION:
        use_cache();
        call.heads = step.p[1];
        c.per_token = call.heads;
        c.work = width * 64; // as if 64 positions were there: one thread alone only where heads are tiny
        break;
    case Op::SILU_MUL:
    case Op::SILU:
    case Op::UNARY:
        c.work = width * 4; // exp
        by_blocks();
        break;
    case Op::QUANTIZE:
        call.wide = package_.buffers[step.out].kind == BufferKind::Q16;
        by_blocks();
        break;
    case Op::ADD:
    case Op::MUL:
    case Op::ZERO:
    case Op::GATE:
        by_blocks();
        break;
    case Op::ROUTE:
        call.top_k = step.p[0];
        call.normalized = step.p[1];
        c.work = width * call.top_k;
        break;
    case Op::EXPERT:
        call.expert = step.p[0];
        c.whole = true;
        c.group_end = index + 1 + static_cast<size_t>(step.p[1]);
        break;
    case Op::COMBINE:
        call.expert = step.p[0];
        c.whole = true;
        by_blocks();
        c.fixed = c.per_token;
        c.per_token = 0;
        break;
    }
}

// Bites a thread. Only matrices take long enough for more than one; heads that share keys stay together.
int Executor::bites(const Call &c, int64_t items) const {
    if (c.op != Op::LINEAR || pool_.size() == 1) return 1;
    return static_cast<int>(std::clamp<int64_t>(items / pool_.size(), 1, Shares::MOST_BITES));
}

// What has to be done of a step: its bites, and what thread 0 alone does.
uint32_t Executor::parts(const Call &c, bool split) const {
    const bool card = split && c.card_end != NONE;
    const int64_t items = c.fixed + c.per_token * c.call.tokens - (split ? of_card(c) : 0);
    return static_cast<uint32_t>(c.serial ? 1 : items <= 0 ? 0 : bites(c, items) * pool_.size()) + card;
}

// Until steps [begin, end) are done, all of which give out their work.
void Executor::wait_for(size_t begin, size_t end, bool split) {
    for (size_t i = begin; i < end; ++i) {
        const uint32_t total = parts(calls_[i], split);
        if (total == 0) continue;
        pool_.waiting().until([&] { return shares(i).all_done(first_id_ + i, total); });
    }
}

// The bytes that a step touches in the arena, weights aside: nobody writes those.
size_t Executor::touches(const Call &c, int64_t tokens, Touch out[5]) const {
    size_t n = 0;
    for (int i = 0; i < 3; ++i) {
        if (c.in[i].base == nullptr) continue;
        // A head step may read any token of a body buffer.
        const int64_t span = c.in[i].stride * (c.in[i].body ? plan_.batch : tokens);
        out[n++] = {c.in[i].base, c.in[i].base + span, false, c.serial, 0, 0, 0};
    }
    if (c.call.out != nullptr) {
        const auto *base = static_cast<const uint8_t *>(c.call.out) - c.column;
        const int64_t stride = c.op == Op::LINEAR ? c.call.out_stride : 0;
        out[n++] = {base,   base + c.call.out_stride * tokens, true, c.serial,
                    stride, c.column,                          c.column + c.call.rows * int64_t(sizeof(float))};
    }
    if (c.call.k_cache != nullptr) {
        const auto *base = static_cast<const uint8_t *>(c.call.k_cache);
        out[n++] = {base, base + c.cache_bytes, c.op == Op::KV_STORE, c.serial, 0, 0, 0};
    }
    return n;
}

bool Executor::conflicts(const Touch &t) const {
    return std::any_of(recent_.begin(), recent_.end(), [&](const Touch &other) {
        // Blocks of rows of one matrix write columns of the same tokens.
        const bool beside = t.stride > 0 && t.stride == other.stride && t.begin == other.begin &&
                            (t.to <= other.from || other.to <= t.from);
        return (t.write || other.write) && !(t.serial && other.serial) && t.begin < other.end &&
               other.begin < t.end && !beside;
    });
}

// Blocks of rows come by the dozen: each reads what the one before read, and writes on where that ended.
void Executor::remember(const Touch &t) {
    for (Touch &other : recent_) {
        if (t.begin != other.begin || t.end != other.end || t.write != other.write || t.serial != other.serial ||
            t.stride != other.stride)
            continue;
        if (t.stride == 0) return;
        if (t.from != other.to) continue;
        other.to = t.to;
        return;
    }
    recent_.push_back(t);
}

// Decides which steps one thread does alone and before which steps all must wait: only where a step touches what
// another thread may still be at. Depends on nothing but the numbers of tokens.
void Executor::arrange(int64_t body_tokens, int64_t head_tokens) {
    if (body_tokens == arranged_body_ && head_tokens == arranged_head_) return;
    arranged_body_ = body_tokens;
    arranged_head_ = head_tokens;
    recent_.clear();
    Touch now[5];
    size_t last = 0;                // barrier
    size_t group_end = 0;           // of the expert whose steps these are, or were
    const uint8_t *gates = nullptr; // that said whether they run
    for (size_t i = 0; i < calls_.size(); ++i) {
        Call &c = calls_[i];
        const int64_t tokens = i < head_first_ ? body_tokens : head_tokens;
        c.serial = c.rows || c.fixed + c.per_token * tokens == 1 || c.work * tokens <= serial_work_;
        const size_t n = touches(c, tokens, now);
        c.barrier = recent_.size() >= MOST_RECENT || i - last >= MOST_STEPS || i == head_first_ ||
                    std::any_of(now, now + n, [&](const Touch &t) { return conflicts(t); });
        // An expert's steps may be left out, and the barriers among them: one stands in front of each that runs, and
        // one behind the last, where all threads meet, as nobody could wait for steps that do not run. All see the same
        // gates, since nobody writes them from the first expert on.
        c.dealt = i < group_end || c.op == Op::EXPERT;
        c.meet = c.dealt || (i == group_end && i > 0);
        if (c.op == Op::EXPERT) {
            c.look = i != group_end || group_end == 0 || gates != c.in[1].base;
            c.barrier = !c.look || c.segment != NONE; // thread 0 brings the weights
            gates = c.in[1].base;
            group_end = c.group_end;
            recent_.clear();
        } else if (i == group_end && i > 0) {
            c.barrier = true;
        }
        if (c.barrier) recent_.clear(), last = i;
        for (size_t j = 0; j < n; ++j) remember(now[j]);
    }
}

void Executor::set_body(const int32_t *ids, int64_t n, int64_t position) {
    position_ = position;
    for (size_t i = 0; i < head_first_; ++i) {
        calls_[i].call.tokens = n;
        calls_[i].call.position = position;
        calls_[i].call.ids = calls_[i].positions ? nullptr : ids;
    }
}

void Executor::set_head(int64_t first, int64_t n) {
    for (size_t i = head_first_; i < calls_.size(); ++i) {
        Call &c = calls_[i];
        c.call.tokens = n;
        c.call.position = position_ + first;
        for (int j = 0; j < 3; ++j)
            if (c.in[j].body) c.call.in[j] = c.in[j].base + first * c.in[j].stride;
    }
}

// Token by token, those of one piece after the other. False: a read failed.
bool Executor::embed_rows(const Call &c, uint32_t tensor) {
    row_order_.resize(static_cast<size_t>(c.call.tokens));
    std::iota(row_order_.begin(), row_order_.end(), 0);
    std::sort(row_order_.begin(), row_order_.end(),
              [&](int32_t a, int32_t b) { return c.call.ids[a] < c.call.ids[b]; });
    n730_call one = c.call;
    one.tokens = 1;
    one.rows = TILE_ROWS;
    try {
        for (const int32_t token : row_order_) {
            const int32_t id = c.call.ids[token], row = id % int32_t(TILE_ROWS);
            one.weight = rows_.tile(tensor, static_cast<uint64_t>(id) / TILE_ROWS);
            one.ids = &row;
            one.out = static_cast<uint8_t *>(c.call.out) + token * c.call.out_stride;
            c.kernel(&one, 0, 1);
        }
        return true;
    } catch (...) {
        reader_->fail(std::current_exception()); // or the others would wait for reads that wait for this thread
        return false;
    }
}

int64_t Executor::chosen(const Call &c) {
    int64_t n = 0;
    for (int64_t t = 0; t < c.call.tokens; ++t) {
        const auto *gates = reinterpret_cast<const float *>(c.in[1].base + t * c.in[1].stride);
        n += gates[c.call.expert] != 0.0f;
    }
    return n;
}

// Steps whose weights lie in the cache of experts learn where in their segment.
void Executor::find_experts() {
    size_t end = 0, first = 0;
    const uint8_t *gates = nullptr;
    std::vector<uint32_t> segments; // of the layer's experts
    for (size_t i = 0; i < calls_.size(); ++i) {
        Call &expert = calls_[i];
        for (size_t j = i + 1; j < expert.group_end; ++j) {
            const Step &step = package_.steps[j];
            if (step.weight != NONE && experts_.has(package_.tensors[step.weight].segment)) {
                expert.segment = package_.tensors[step.weight].segment;
                calls_[j].weight_at = package_.tensors[step.weight].offset;
            }
            if (step.bias != NONE && experts_.has(package_.tensors[step.bias].segment)) {
                expert.segment = package_.tensors[step.bias].segment;
                calls_[j].bias_at = package_.tensors[step.bias].offset;
            }
        }
        if (expert.op != Op::EXPERT) continue;
        const bool goes_on = i > 0 && !chosen_.empty() && end == i && gates == expert.in[1].base;
        if (!goes_on) {
            if (!chosen_.empty()) guess_.add(first, segments);
            chosen_.emplace_back();
            first = i;
            segments.assign(static_cast<size_t>(package_.buffers[package_.steps[i].in[1]].width), NONE);
        }
        segments[static_cast<size_t>(expert.call.expert)] = expert.segment;
        expert.mixture = chosen_.size() - 1;
        if (expert.segment != NONE) chosen_.back().push_back(expert.segment);
        end = expert.group_end;
        gates = expert.in[1].base;
    }
    if (!chosen_.empty()) guess_.add(first, segments);
    for (std::vector<uint32_t> &all : chosen_) all.clear(); // they have room for all of them now
}

// Tells the cache which of the experts from step `first` on the tokens chose. Then, while these are read, which ones the
// layer behind may want: one token's are asked of its router; a batch wants nearly all, so what the last tokens chose will do.
void Executor::expect_experts(size_t first) {
    const size_t mixture = calls_[first].mixture;
    std::vector<uint32_t> &expected = chosen_[mixture];
    expected.clear();
    const uint8_t *gates = calls_[first].in[1].base;
    for (size_t i = first; i < calls_.size() && calls_[i].op == Op::EXPERT && calls_[i].in[1].base == gates;
         i = calls_[i].group_end)
        if (calls_[i].segment != NONE && chosen(calls_[i]) > 0) expected.push_back(calls_[i].segment);
    if (told_ != nullptr && told_of_ == mixture) {
        foretold_ += expected.size();
        for (const uint32_t segment : expected)
            foretold_rightly_ += std::count(told_->begin(), told_->end(), segment) > 0;
    }
    told_ = nullptr;
    if (expected.empty()) return;
    experts_.expect(expected);
    const std::vector<uint32_t> *next = &chosen_[(mixture + 1) % chosen_.size()];
    if (calls_[first].call.tokens == 1) {
        const std::vector<uint32_t> &asked = guess_.behind(mixture);
        if (!asked.empty()) next = told_ = &asked;
        told_of_ = mixture + 1;
    }
    experts_.guess(*next);
}

bool Executor::get_expert(Call &expert) {
    try {
        expert.weights = experts_.get(expert.segment);
        return true;
    } catch (...) {
        reader_->fail(std::current_exception());
        return false;
    }
}

// What the card was asked for at the beginning of a round; if it has failed, one thread computes it here: the others have
// left these rows out and will do so to the end of the pass. False: the CPU does not have these rows.
bool Executor::finish_round(uint32_t round) {
    const CardLayout::Round &r = card_->rounds()[round];
    const bool good = card_->finish(round);
    if (!good && card_->needed()) {
        reader_->fail(card_->failure());
        return false;
    }
    for (uint32_t i = r.share; i < r.share_end; ++i) {
        const Call &c = calls_[card_->share(i).step];
        if (good)
            card_->take(round, i, c.call);
        else
            c.kernel(&c.call, 0, of_card(c));
    }
    return true;
}

void Executor::run(size_t begin, size_t end) {
    if (card_ != nullptr && card_->failed() && card_->needed()) std::rethrow_exception(card_->failure());
    const bool split = card_ != nullptr && !card_->failed(); // the same for all threads, whatever happens in between
    const uint64_t pass = begin == 0 ? passes_++ : passes_;
    first_id_ += calls_.size();
    auto walk = [&](int thread) {
        bool good = true; // if not, nothing is computed, but the others do not wait in vain
        size_t done = begin;  // all steps in front of it are
        size_t group_end = 0; // of the expert whose steps these are
        const Call *group = nullptr;
        n730_call some;       // for the tokens that chose it
        some.tokens = 0;
        for (size_t i = begin; i < end; ++i) {
            const Call &c = calls_[i];
            if (c.op == Op::EXPERT) {
                if (c.look) pool_.barrier();
                if (c.look && thread == 0 && good) expect_experts(i);
                done = i + 1;
                some.tokens = chosen(c);
                if (some.tokens == 0) {
                    i = c.group_end - 1;
                    continue;
                }
                group_end = c.group_end;
                group = &c;
                if (c.segment != NONE && thread == 0 && good) good = get_expert(calls_[i]);
            }
            if (c.barrier && i != begin) {
                if (c.meet)
                    pool_.barrier();
                else
                    wait_for(done, i, split);
                done = i;
            }
            // The card first: it computes while the CPU waits for the disk.
            if (good && split && thread == 0 && c.card_begin != NONE) card_->begin(c.card_begin, c.call);
            for (uint32_t read = c.wait; good && read < c.wait_end; ++read) good = reader_->wait(thread, pass, read);
            const n730_call *call = &c.call;
            if (i < group_end && !c.whole) {
                const int64_t tokens = some.tokens;
                some = c.call;
                some.tokens = tokens;
                if (c.weight_at != NOWHERE) some.weight = group->weights + c.weight_at;
                if (c.bias_at != NOWHERE) some.bias = group->weights + c.bias_at;
                call = &some;
            }
            const int64_t mine = split ? of_card(c) : 0; // the first work item that the CPU computes
            const int64_t items = c.fixed + c.per_token * call->tokens - mine;
            uint32_t parts_done = 0;
            if (c.serial) {
                if (thread == 0 && c.rows && good) good = embed_rows(c, package_.steps[i].weight);
                if (thread == 0 && !c.rows && good && items > 0) c.kernel(call, mine, mine + items);
                parts_done = thread == 0;
            } else if (c.dealt) {
                int64_t from, to;
                pool_.range(items, thread, from, to);
                if (good && from < to) c.kernel(call, mine + from, mine + to);
            } else if (items > 0) {
                const int each = bites(c, items), all = each * pool_.size();
                for (int bite; (bite = shares(i).take(thread, first_id_ + i, each)) >= 0; ++parts_done) {
                    const int64_t from = items * bite / all, to = items * (bite + 1) / all;
                    if (good && from < to) c.kernel(call, mine + from, mine + to);
                }
            }
            if (split && thread == 0 && c.card_end != NONE) {
                if (good) good = finish_round(c.card_end);
                ++parts_done;
            }
            if (parts_done > 0 && !c.dealt && shares(i).add(first_id_ + i, parts_done, parts(c, split)))
                pool_.waiting().changed();
            if (good && c.released > 0) reader_->release(thread, pass * reader_->reads() + c.released);
        }
        if (!good) broken_.store(true, std::memory_order_relaxed);
    };
    pool_.run(walk);
    if (!broken_.load(std::memory_order_relaxed)) return;
    reader_->rethrow();
    throw Interrupted();
}

// What `work` does on the card. False: the CPU computes, and has done so for all tokens up to now.
template <class Work> bool Executor::on_card(Work work) {
    if (device_ == nullptr) return false;
    try {
        work();
        return true;
    } catch (const CardFailed &failure) {
        say(std::string(failure.what()) + " The CPU goes on alone.");
    }
    device_ = nullptr;
    compute_again();
    return false;
}

// The card's cache is lost with it; the arena holds the weights still. How tokens are batched changes no bit (FORMAT.md, 4), but a
// head may want any of the last batch.
void Executor::compute_again() {
    const int64_t last = position_;
    for (int64_t at = 0, n; at < past_end_; at += n) {
        if (platform::interrupted()) throw Interrupted();
        n = std::min<int64_t>(plan_.batch, (at < last ? last : past_end_) - at);
        body(past_.data() + at, n, at);
    }
}

void Executor::body(const int32_t *ids, int64_t n, int64_t position) {
    if (device_ != nullptr) {
        position_ = position;
        past_end_ = position + n;
        std::copy(ids, ids + n, past_.begin() + position);
        on_card([&] { device_->body(ids, n, position); });
        return;
    }
    arrange(n, arranged_head_ > 0 ? arranged_head_ : 1);
    set_body(ids, n, position);
    run(0, head_first_);
}

const float *Executor::head(int64_t first, int64_t n) {
    const float *logits = nullptr;
    if (on_card([&] { logits = device_->head(first, n); })) return logits;
    arrange(arranged_body_, n);
    set_head(first, n);
    run(head_first_, calls_.size());
    return logits_;
}

const float *Executor::body_and_last(const int32_t *ids, int64_t n, int64_t position, int64_t last) {
    if (device_ != nullptr) {
        body(ids, n, position);
        return head(n - last, last);
    }
    arrange(n, last);
    set_body(ids, n, position);
    set_head(n - last, last);
    run(0, calls_.size());
    return logits_;
}

} // namespace n730
