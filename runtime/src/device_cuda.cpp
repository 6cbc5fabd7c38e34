#include "device_cuda.h"

#include <algorithm>
#include <cstring>

namespace n730 {

namespace {

constexpr uint64_t STAGING = uint64_t(4) << 20; // bytes of each of the two pinned buffers that weights pass through
// How n730c/codegen/cuda.py has the kernels launched.
constexpr uint32_t FLAT = 256, QUANTIZE_GROUPS = 8, TABLE_THREADS = 64, ATTENTION_THREADS = 128, WARP = 32;

std::string number(int64_t n) { return std::to_string(n); }

const char *const UNARY_NAMES[] = {"gelu_", "gelu_tanh_", "relu_", "relu_squared_", "scale_", "softcap_"}; // from 1 on

} // namespace

std::unique_ptr<DeviceCuda> DeviceCuda::open(const Package &package, size_t plan, bool trust, std::string &why) {
    std::unique_ptr<Cuda> card = Cuda::open(why);
    if (card == nullptr) return nullptr;
    for (size_t i = 0; i < package.segments.size(); ++i)
        if (package.placement(plan, i).tier != Tier::RAM) {
            why = "the plan reads weights from the disk all the time, and the graphics card takes only plans that do not";
            return nullptr;
        }
    if (std::any_of(package.buffers.begin(), package.buffers.end(), [](const Buffer &b) { return b.kind == BufferKind::Q16; })) {
        why = "some of the model's activations have 16 bits, and the graphics card's kernels read 8";
        return nullptr;
    }
    const Image *image = choose_image(package, *card, trust, why);
    if (image == nullptr) return nullptr;
    std::unique_ptr<DeviceCuda> device(new DeviceCuda(package, plan, std::move(card)));
    const uint64_t free = device->cuda_->free_vram();
    device->arena_ = device->cuda_->allocate(device->plan_.arena_bytes);
    if (device->arena_ != 0) device->ids_ = device->cuda_->allocate(device->plan_.batch * sizeof(int32_t));
    if (device->ids_ == 0) {
        why = too_little_vram(device->plan_.arena_bytes, free);
        return nullptr;
    }
    device->bytes_ = device->plan_.arena_bytes + device->plan_.batch * sizeof(int32_t);
    device->prepare(load_image(package, *image, *device->cuda_));
    return device;
}

DeviceCuda::DeviceCuda(const Package &package, size_t plan, std::unique_ptr<Cuda> cuda)
    : package_(package), plan_index_(plan), plan_(package.plans[plan]), cuda_(std::move(cuda)) {}

DeviceCuda::~DeviceCuda() {
    if (stream_ != nullptr) cuda_->destroy(stream_);
    for (CudaEvent event : staged_)
        if (event != nullptr) cuda_->destroy(event);
    for (void *memory : {static_cast<void *>(staging_[0]), static_cast<void *>(staging_[1]),
                         static_cast<void *>(pinned_ids_), static_cast<void *>(logits_), static_cast<void *>(gates_)})
        if (memory != nullptr) cuda_->release_pinned(memory);
    for (CudaPointer memory : {arena_, ids_})
        if (memory != 0) cuda_->release(memory);
}

void DeviceCuda::prepare(CudaModule module) {
    stream_ = cuda_->stream();
    for (int i = 0; i < 2; ++i) {
        staged_[i] = cuda_->event();
        staging_[i] = static_cast<uint8_t *>(cuda_->allocate_pinned(STAGING));
    }
    pinned_ids_ = static_cast<int32_t *>(cuda_->allocate_pinned(plan_.batch * sizeof(int32_t)));
    const Buffer &logits = package_.buffers[package_.program.logits];
    logits_offset_ = package_.buffer_offset(plan_index_, package_.program.logits);
    logits_stride_ = logits.token_bytes();
    logits_ = static_cast<float *>(cuda_->allocate_pinned(logits_stride_ * plan_.head_batch));
    launches_.resize(package_.steps.size());
    uint64_t gates = 0; // bytes, of the mixture with the most experts
    for (size_t i = 0; i < launches_.size(); ++i) {
        make_launch(i, module);
        if (launches_[i].group_end > 0) gates = std::max(gates, uint64_t(launches_[i].in[1].stride) * plan_.batch);
    }
    if (gates > 0) gates_ = static_cast<uint8_t *>(cuda_->allocate_pinned(gates));
}

void DeviceCuda::make_launch(size_t index, CudaModule module) {
    const Step &step = package_.steps[index];
    Launch &l = launches_[index];
    n730_cuda_call &call = l.call;
    const auto at = [&](uint64_t offset) { return reinterpret_cast<unsigned char *>(arena_ + offset); };
    const auto tensor = [&](uint32_t id) -> const unsigned char * {
        if (id == NONE) return nullptr;
        const Tensor &t = package_.tensors[id];
        return at(package_.placement(plan_index_, t.segment).offset + t.offset);
    };
    for (int i = 0; i < 2; ++i) {
        if (step.in[i] == NONE) continue;
        const Buffer &b = package_.buffers[step.in[i]];
        l.in[i] = {package_.buffer_offset(plan_index_, step.in[i]), int64_t(b.token_bytes()), true, b.scope == Scope::BODY};
        call.in[i] = at(l.in[i].offset);
        call.in_stride[i] = l.in[i].stride;
    }
    uint64_t width = step.in[0] != NONE ? package_.buffers[step.in[0]].width : 0;
    if (step.out != NONE) {
        const Buffer &b = package_.buffers[step.out];
        call.out = at(package_.buffer_offset(plan_index_, step.out));
        call.out_stride = int64_t(b.token_bytes());
        if (step.in[0] == NONE) width = b.width;
    }
    call.weight = tensor(step.weight);
    call.bias = tensor(step.bias);
    call.ids = step.op == Op::EMBED && step.p[0] != 0 ? nullptr : reinterpret_cast<const int *>(ids_); // NULL: positions
    call.f0 = step.f[0];
    call.f1 = step.f[1];
    call.context = 1;
    const auto flat = [&](uint64_t items, uint32_t threads) {
        l.threads = l.items_per_block = threads;
        l.items = uint32_t(items);
    };
    const Cache *cache = nullptr;
    if (step.op == Op::KV_STORE || step.op == Op::ATTENTION) {
        const size_t id = size_t(step.p[0]);
        cache = &package_.caches[id];
        call.context = int(cache->positions(plan_.context, plan_.batch));
        call.k_cache = at(package_.cache_offset(plan_index_, id));
        call.v_cache = call.k_cache + cache->row_bytes() * cache->kv_heads * uint64_t(call.context);
    }
    const std::string kv = cache != nullptr ? format_name(cache->format) : "";
    std::string name;
    switch (step.op) {
    case Op::LINEAR: {
        const Tensor &t = package_.tensors[step.weight];
        call.out += int64_t(step.p[0]) * int64_t(sizeof(float));
        l.by_columns = true;
        l.threads = LINEAR_THREADS;
        l.items = uint32_t(ceil_div(t.rows, TILE_ROWS));
        l.items_per_block = LINEAR_TILES;
        for (int v = 0; v < LINEAR_VARIANTS; ++v) l.functions[v] = linear_kernel(*cuda_, module, t, v);
        break;
    }
    case Op::EMBED:
        name = "embed_" + matrix_shape(package_.tensors[step.weight]);
        flat(package_.tensors[step.weight].cols, FLAT);
        break;
    case Op::RMS_NORM:
    case Op::LAYER_NORM: {
        const uint32_t each = package_.tensors[step.weight].cols;
        name = (step.op == Op::RMS_NORM ? "rms_norm_" : "layer_norm_") + number(each);
        flat(width / each, FLAT);
        l.items_per_block = 1;
        break;
    }
    case Op::ROUTE:
        name = "route_" + number(int64_t(width)) + "_" + number(step.p[0]) + (step.p[1] != 0 ? "_normalized" : "");
        flat(1, WARP);
        break;
    case Op::EXPERT:
        name = "expert";
        call.expert = step.p[0];
        flat(1, FLAT);
        l.group_end = index + 1 + size_t(step.p[1]);
        break;
    case Op::COMBINE:
        name = "combine_" + number(int64_t(width));
        call.expert = step.p[0];
        flat(width, FLAT);
        break;
    case Op::ZERO:
    case Op::GATE:
        name = (step.op == Op::ZERO ? "zero_" : "gate_") + number(int64_t(width));
        flat(width, FLAT);
        break;
    case Op::UNARY:
        name = UNARY_NAMES[step.p[0] - 1] + number(int64_t(width));
        flat(width, FLAT);
        break;
    case Op::QUANTIZE:
        name = "quantize_" + number(int64_t(width));
        l.threads = FLAT;
        l.items = uint32_t(ceil_div(width, GROUP));
        l.items_per_block = QUANTIZE_GROUPS;
        break;
    case Op::ROPE_TABLE:
        name = "rope_table_" + number(int64_t(width / 2));
        flat(width / 2, TABLE_THREADS);
        break;
    case Op::ROPE:
        name = "rope_" + number(step.p[0]) + "x" + number(step.p[1]) + "_" + number(step.p[2]) +
               (step.p[3] != 0 ? "_pairs" : "");
        flat(uint64_t(step.p[0]) * uint64_t(step.p[1] - step.p[2] / 2), FLAT);
        break;
    case Op::KV_STORE:
        name = "kv_store_" + kv + "_" + number(cache->kv_heads) + "x" + number(cache->head_dim);
        flat(cache->kv_heads, WARP);
        l.items_per_block = 1;
        break;
    case Op::ATTENTION:
        name = "attention_" + kv + "_" + number(step.p[1]) + "x" + number(cache->kv_heads) + "x" + number(cache->head_dim) +
               (cache->window > 0 ? "_w" + number(cache->window) : "") + (step.f[1] != 0.0f ? "_cap" : "");
        flat(uint64_t(step.p[1]), ATTENTION_THREADS);
        l.items_per_block = 1;
        break;
    case Op::SILU_MUL:
    case Op::ADD:
    case Op::MUL:
    case Op::SILU:
        name = std::string(step.op == Op::SILU_MUL ? "silu_mul_" : step.op == Op::ADD ? "add_" : step.op == Op::MUL ? "mul_" : "silu_") +
               number(int64_t(width));
        flat(width, FLAT);
        break;
    }
    if (!l.by_columns) l.functions[0] = cuda_->function(module, name);
    call.end = int(l.items);
}

void DeviceCuda::load(const uint8_t *arena) {
    int turn = 0;
    bool used[2] = {false, false};
    for (size_t i = 0; i < package_.segments.size(); ++i) {
        const uint64_t start = package_.placement(plan_index_, i).offset, end = start + package_.segments[i].size;
        for (uint64_t from = start; from < end; from += STAGING, turn ^= 1) {
            const uint64_t bytes = std::min(STAGING, end - from);
            if (used[turn]) cuda_->wait(staged_[turn]); // the copy before the last has left this buffer
            std::memcpy(staging_[turn], arena + from, size_t(bytes));
            cuda_->copy_to_device(arena_ + from, staging_[turn], bytes, stream_);
            cuda_->record(staged_[turn], stream_);
            used[turn] = true;
        }
    }
    cuda_->wait(stream_);
}

void DeviceCuda::run(size_t begin, size_t end, int64_t tokens, int64_t position, int64_t first) {
    size_t group_end = 0; // of the expert whose steps these are, or were
    uint64_t gates = 0;   // where in the arena they lie that said which of these run
    int64_t chosen = 0;   // tokens that go to the expert
    for (size_t i = begin; i < end; ++i) {
        Launch &l = launches_[i];
        if (l.group_end > 0) {
            if (i != group_end || gates != l.in[1].offset) fetch_gates(l, tokens); // the first expert of its layer
            gates = l.in[1].offset;
            group_end = l.group_end;
            chosen = count_chosen(l, tokens);
            if (chosen == 0) {
                i = group_end - 1;
                continue;
            }
        }
        const Op op = package_.steps[i].op;
        const bool some = i < group_end && op != Op::EXPERT && op != Op::COMBINE;
        launch(i, some ? chosen : tokens, position, first);
    }
}

// Brings the gates of a batch to the host, which decides by them what is launched.
void DeviceCuda::fetch_gates(const Launch &expert, int64_t tokens) {
    cuda_->copy_to_host(gates_, arena_ + expert.in[1].offset, uint64_t(tokens * expert.in[1].stride), stream_);
    cuda_->wait(stream_);
}

int64_t DeviceCuda::count_chosen(const Launch &expert, int64_t tokens) const {
    int64_t n = 0;
    for (int64_t t = 0; t < tokens; ++t)
        n += reinterpret_cast<const float *>(gates_ + t * expert.in[1].stride)[expert.call.expert] != 0.0f;
    return n;
}

void DeviceCuda::launch(size_t i, int64_t tokens, int64_t position, int64_t first) {
    Launch &l = launches_[i];
    const int variant = l.by_columns ? linear_variant(tokens) : 0;
    l.call.tokens = int(tokens);
    l.call.position = int(position);
    for (int j = 0; j < 2; ++j)
        if (l.in[j].body && i >= package_.program.head_first)
            l.call.in[j] = reinterpret_cast<unsigned char *>(arena_ + l.in[j].offset) + first * l.in[j].stride;
    cuda_->launch(l.functions[variant], uint32_t(ceil_div(uint64_t(tokens), l.by_columns ? LINEAR_COLUMNS[variant] : 1)),
                  uint32_t(ceil_div(l.items, l.items_per_block)), l.threads, &l.call, stream_);
}

void DeviceCuda::body(const int32_t *ids, int64_t n, int64_t position) {
    cuda_->wait(stream_); // the ids before these have been read
    std::memcpy(pinned_ids_, ids, size_t(n) * sizeof(int32_t));
    cuda_->copy_to_device(ids_, pinned_ids_, uint64_t(n) * sizeof(int32_t), stream_);
    position_ = position;
    run(0, package_.program.head_first, n, position, 0);
}

const float *DeviceCuda::head(int64_t first, int64_t n) {
    run(package_.program.head_first, launches_.size(), n, position_ + first, first);
    cuda_->copy_to_host(logits_, arena_ + logits_offset_, logits_stride_ * uint64_t(n), stream_);
    cuda_->wait(stream_);
    return logits_;
}

} // namespace n730
