// The executor on a handmade program: any number of threads, any batches and any split of work give the same bits.
#include "executor.h"
#include "builtin_kernels.h"
#include "sampler.h"

#include <doctest/doctest.h>
#include <memory>

using namespace n730;

namespace {

constexpr uint32_t VOCAB = 90, WIDTH = 64, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 16, CONTEXT = 40;

// Embedding, norm, attention with rope, residual and a head, in INT4 and F16; two buffers share their bytes.
class Toy {
  public:
    Toy(uint32_t batch, uint32_t head_batch) {
        const uint32_t embedding = matrix(Format::F16, VOCAB, WIDTH), norm = vector(WIDTH),
                       inverse = vector(HEAD_DIM / 2);
        const uint32_t wq = matrix(Format::INT4, HEADS * HEAD_DIM, WIDTH),
                       wk = matrix(Format::INT8, KV_HEADS * HEAD_DIM, WIDTH);
        const uint32_t wv = matrix(Format::INT2, KV_HEADS * HEAD_DIM, WIDTH),
                       wo = matrix(Format::F16, WIDTH, HEADS * HEAD_DIM);
        const uint32_t head = matrix(Format::INT4, VOCAB, WIDTH), bias = vector(HEADS * HEAD_DIM);
        const uint32_t x = buffer(WIDTH), y = buffer(WIDTH), yq = buffer(WIDTH, BufferKind::Q8),
                       table = buffer(HEAD_DIM);
        const uint32_t q = buffer(HEADS * HEAD_DIM), k = buffer(KV_HEADS * HEAD_DIM), v = buffer(KV_HEADS * HEAD_DIM);
        const uint32_t a = buffer(HEADS * HEAD_DIM), o = buffer(WIDTH);
        const uint32_t hn = buffer(WIDTH, BufferKind::F32, Scope::HEAD),
                       hq = buffer(WIDTH, BufferKind::Q16, Scope::HEAD);
        const uint32_t logits = buffer(VOCAB, BufferKind::F32, Scope::HEAD);
        package.caches.push_back({KV_HEADS, HEAD_DIM, 0, Format::F16});
        add(Op::EMBED, {}, x, embedding);
        add(Op::ROPE_TABLE, {}, table, inverse).f[0] = 1;
        add(Op::RMS_NORM, {x}, y, norm).f[0] = 1e-5f;
        add(Op::QUANTIZE, {y}, yq);
        add(Op::LINEAR, {yq}, q, wq).bias = bias;
        add(Op::LINEAR, {yq}, k, wk);
        add(Op::LINEAR, {yq}, v, wv);
        rope(q, table, HEADS);
        rope(k, table, KV_HEADS);
        add(Op::KV_STORE, {k, v}, NONE);
        Step &attention = add(Op::ATTENTION, {q}, a);
        attention.p[1] = HEADS;
        attention.f[0] = 0.25f;
        add(Op::LINEAR, {a}, o, wo);
        add(Op::SILU, {o}, o);
        add(Op::ADD, {x, o}, x);
        package.program = {static_cast<uint32_t>(package.steps.size()), logits, VOCAB};
        add(Op::RMS_NORM, {x}, hn, norm).f[0] = 1e-5f;
        add(Op::QUANTIZE, {hn}, hq);
        add(Op::LINEAR, {hq}, logits, head);

        Plan plan{};
        plan.context = CONTEXT, plan.batch = batch, plan.head_batch = head_batch;
        uint64_t at = weights_.size();
        for (const Buffer &b : package.buffers) package.offsets.push_back(at), at += buffer_bytes(b, plan);
        package.offsets[y] = package.offsets[a]; // y is done when a begins
        package.offsets.push_back(at);
        at += package.caches[0].bytes(CONTEXT, batch);
        package.placements.push_back({Tier::RAM, 0});
        package.reads.emplace_back();
        package.segments.push_back({});
        package.plans.push_back(plan);
        memory_.resize(at + 64);
        std::copy(weights_.begin(), weights_.end(), arena());
    }

    uint8_t *arena() { return memory_.data() + (64 - reinterpret_cast<uintptr_t>(memory_.data()) % 64) % 64; }

    Package package;

  private:
    uint32_t tensor(Format format, Layout layout, uint32_t rows, uint32_t cols, uint64_t size) {
        package.tensors.push_back({0, 0, format, layout, rows, cols, 0, weights_.size(), size});
        weights_.resize(round_up(weights_.size() + size, 64));
        return static_cast<uint32_t>(package.tensors.size() - 1);
    }
    uint32_t vector(uint32_t n) {
        const uint32_t id = tensor(Format::F32, Layout::VECTOR, 1, n, n * 4);
        for (uint32_t i = 0; i < n; ++i) { // 0.5 … 1
            uint8_t *p = &weights_[package.tensors[id].offset + i * 4];
            p[0] = 0x3F, p[1] = static_cast<uint8_t>(random_.next() & 0x7F);
        }
        return id;
    }
    uint32_t matrix(Format format, uint32_t rows, uint32_t cols) {
        const uint32_t id = tensor(format, Layout::MATRIX, rows, cols, matrix_bytes(format, rows, cols));
        uint8_t *p = &weights_[package.tensors[id].offset];
        const uint64_t size = package.tensors[id].size;
        const uint64_t block = format == Format::F16 ? 2 : matrix_bytes(format, 16, 32);
        for (uint64_t i = 0; i < size; ++i) {
            const bool f16 = format == Format::F16 || i % block < 32;
            p[i] = static_cast<uint8_t>(random_.next());
            if (f16 && i % 2 == 0)
                p[i] = static_cast<uint8_t>(0x2C | (p[i] & (format == Format::F16 ? 0x81 : 1))); // ±0.06 … 0.12
        }
        return id;
    }
    uint32_t buffer(uint32_t width, BufferKind kind = BufferKind::F32, Scope scope = Scope::BODY) {
        package.buffers.push_back({kind, scope, width});
        return static_cast<uint32_t>(package.buffers.size() - 1);
    }
    Step &add(Op op, std::initializer_list<uint32_t> in, uint32_t out, uint32_t weight = NONE) {
        Step step{op, NONE, NONE, {NONE, NONE, NONE}, out, weight, NONE, {}, {}};
        std::copy(in.begin(), in.end(), step.in);
        package.steps.push_back(step);
        return package.steps.back();
    }
    void rope(uint32_t x, uint32_t table, int32_t heads) {
        Step &step = add(Op::ROPE, {x, table}, x);
        step.p[0] = heads, step.p[1] = HEAD_DIM, step.p[2] = HEAD_DIM;
    }

    Random random_{11};
    std::vector<uint8_t> weights_, memory_;
};

std::vector<int32_t> some_ids() {
    Random random(5);
    std::vector<int32_t> ids(CONTEXT);
    for (int32_t &id : ids) id = static_cast<int32_t>(random.next() % VOCAB);
    return ids;
}

// Logits of every token.
std::vector<float> all_logits(uint32_t batch, uint32_t head_batch, int threads, int64_t serial_work,
                              KernelChoice choice) {
    Toy toy(batch, head_batch);
    const KernelSet kernels(toy.package, choice, false);
    ThreadPool pool(threads);
    Executor executor(toy.package, 0, toy.arena(), kernels, pool, nullptr, serial_work);
    const std::vector<int32_t> ids = some_ids();
    std::vector<float> out;
    for (uint32_t at = 0; at < CONTEXT; at += batch) {
        const uint32_t n = std::min(batch, CONTEXT - at);
        executor.body(&ids[at], n, at);
        for (uint32_t i = 0; i < n; i += head_batch) {
            const uint32_t m = std::min(head_batch, n - i);
            const float *logits = executor.head(i, m);
            for (uint32_t j = 0; j < m; ++j, logits += executor.logits_stride())
                out.insert(out.end(), logits, logits + VOCAB);
        }
    }
    return out;
}

} // namespace

TEST_CASE("threads, batches, serial steps and instruction sets change no bit") {
    const std::vector<float> expected = all_logits(1, 1, 1, 0, KernelChoice::SSE2);
    bool finite = true, varied = false;
    for (size_t i = 0; i < expected.size(); ++i) {
        finite = finite && std::abs(expected[i]) < 1e6f;
        varied = varied || (i >= VOCAB && expected[i] != expected[i - VOCAB]);
    }
    REQUIRE(finite);
    REQUIRE(varied);
    for (const uint32_t batch : {1u, 7u, 16u, CONTEXT})
        for (const int threads : {1, 2, 3, 5})
            for (const int64_t serial_work : {int64_t(0), int64_t(300), int64_t(4096), int64_t(1) << 40})
                CHECK(all_logits(batch, std::min(batch, 3u), threads, serial_work, KernelChoice::BUILTIN) == expected);
}

TEST_CASE("decoding token by token, prompts and restarts give what one pass gives") {
    const std::vector<float> expected = all_logits(CONTEXT, 1, 1, 0, KernelChoice::BUILTIN);
    Toy toy(8, 2);
    const KernelSet kernels(toy.package, KernelChoice::BUILTIN, false);
    ThreadPool pool(3);
    Executor executor(toy.package, 0, toy.arena(), kernels, pool, nullptr, 0);
    const std::vector<int32_t> ids = some_ids();
    const auto same = [&](const float *logits, int64_t token) {
        return std::equal(logits, logits + VOCAB, expected.begin() + token * VOCAB);
    };
    for (const int64_t prompt : {1, 7, 8, 9, 17, 31}) {
        std::vector<int64_t> stops;
        const float *logits =
            executor.forward(ids.data(), prompt, 0, [&](int64_t done) { return stops.push_back(done), true; });
        CHECK(same(logits, prompt - 1));
        CHECK(static_cast<int64_t>(stops.size()) == (prompt - 1) / 8);
        for (int64_t at = prompt; at < CONTEXT; ++at)
            CHECK(same(executor.body_and_last(&ids[static_cast<size_t>(at)], 1, at), at));
        for (int64_t at = prompt; at + 3 <= CONTEXT; at += 3) { // as when a draft is checked
            logits = executor.body_and_last(&ids[static_cast<size_t>(at)], 3, at, 2);
            CHECK(same(logits, at + 1));
            CHECK(same(logits + executor.logits_stride(), at + 2));
        }
    }
    CHECK(executor.forward(ids.data(), 17, 0, [](int64_t) { return false; }) == nullptr);
}
