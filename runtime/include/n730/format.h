// The records of a `.n730` package as values; runtime/FORMAT.md is the reference for every field.
#pragma once
#include "n730/bytes.h"

namespace n730 {

constexpr uint32_t NONE = 0xFFFFFFFFu; // "no operand" in u32 fields
constexpr size_t HEADER_SIZE = 4096;
constexpr size_t SECTION_COUNT = 18;
constexpr uint64_t PAGE = 4096;    // segments in the file and in the arena start at multiples of it
constexpr uint64_t PIECE = 256 << 10; // bytes of a segment that have a checksum of their own
constexpr uint32_t TILE_ROWS = 16; // rows interleaved in one tile of a matrix
constexpr uint32_t GROUP = 32;     // inputs that share one scale
constexpr uint32_t SUPER = 256;    // inputs that share one FP16, in formats with coded scales
constexpr uint8_t MAGIC[8] = {0x89, 0x4E, 0x37, 0x33, 0x30, 0x0D, 0x0A, 0x1A};

enum SectionKind : uint32_t {
    META = 1,
    NAMES,
    TENSORS,
    SEGMENTS,
    BUFFERS,
    CACHES,
    STEPS,
    PROGRAM,
    PLANS,
    PLACEMENTS,
    OFFSETS,
    SCHEDULE,
    KERNELS,
    IMAGES,
    CODE,
    TOKENIZER,
    CHAT,
    SUMS
};

enum class Format : uint8_t { F32, F16, BF16, INT8, INT4, INT2, INT6, INT5, NL4, INT3, NL2 };
constexpr uint8_t LAST_FORMAT = static_cast<uint8_t>(Format::NL2);
enum class Layout : uint8_t { VECTOR, MATRIX };
enum class BufferKind : uint8_t { F32, Q8, Q16 };
enum class Scope : uint8_t { BODY, HEAD };
enum class Tier : uint8_t { RAM, STREAM, VRAM, ROWS, EXPERT };
// Levels of CPUs, each of which holds all before it; then architectures of graphics cards.
enum class Isa : uint32_t { SSE2, SSSE3, AVX, AVX2, AVX512, PTX = 30, SM_35 = 35, SM_50 = 50, SM_52 = 52, SM_61 = 61 };
// 35 for SM_35 and so on, 30 for PTX, 0 for a CPU's level.
inline int gpu_architecture(Isa isa) { return isa > Isa::AVX512 ? int(isa) : 0; }

enum class Op : uint16_t {
    EMBED = 1,
    RMS_NORM,
    QUANTIZE,
    LINEAR,
    ROPE_TABLE,
    ROPE,
    KV_STORE,
    ATTENTION,
    SILU_MUL,
    ADD,
    MUL,
    SILU,
    ROUTE,
    ZERO,
    EXPERT,
    COMBINE,
    GATE,
    UNARY,
    LAYER_NORM
};

enum Action : uint16_t { LOAD = 1, RUN, READ, WAIT, CARD };

constexpr const char *format_name(Format f) {
    constexpr const char *names[] = {"f32", "f16", "bf16", "int8", "int4", "int2", "int6", "int5", "nl4", "int3", "nl2"};
    return names[static_cast<uint8_t>(f)];
}

// Bytes of a tiled [rows, cols] matrix in the file, padding of rows to 16 and of columns to 32 included.
constexpr uint64_t matrix_bytes(Format f, uint64_t rows, uint64_t cols) {
    const uint64_t tiles = ceil_div(rows, TILE_ROWS);
    if (f == Format::F16 || f == Format::BF16) return tiles * TILE_ROWS * cols * 2;
    constexpr uint8_t all_bits[] = {32, 16, 16, 8, 4, 2, 6, 5, 4, 3, 2};
    const uint64_t fields = TILE_ROWS * GROUP * all_bits[static_cast<uint8_t>(f)] / 8;
    if (f >= Format::INT6) // a super-block: FP16 and eight codes of 4 bits a row
        return tiles * (ceil_div(cols, SUPER) * (TILE_ROWS * 2 + TILE_ROWS * 4) + ceil_div(cols, GROUP) * fields);
    return tiles * ceil_div(cols, GROUP) * (TILE_ROWS * 2 + fields);
}

struct Section {
    uint64_t offset = 0, size = 0, hash = 0;
};

struct Tensor {
    uint32_t name_offset;
    uint16_t name_length;
    Format format;
    Layout layout;
    uint32_t rows, cols, segment;
    uint64_t offset, size; // bytes, within the segment
};

struct Segment {
    uint64_t offset, size, first_sum; // offset: in the file
    uint32_t first_tensor, tensor_count;
};

struct Buffer {
    BufferKind kind;
    Scope scope;
    uint32_t width; // elements a token

    uint64_t token_bytes() const {
        if (kind == BufferKind::F32) return round_up(uint64_t(width) * 4, 64);
        const uint64_t padded = round_up(width, GROUP);
        return round_up(padded + 8 * (padded / GROUP), 64) * (kind == BufferKind::Q16 ? 2 : 1);
    }
};

struct Cache {
    uint32_t kv_heads, head_dim;
    uint32_t window; // positions a token sees, itself included; 0: all
    Format format;   // F32, F16 or INT8

    // K or V of one position and head; INT8: with its f32 scale
    uint64_t row_bytes() const {
        return format == Format::INT8 ? head_dim + 4 : head_dim * (format == Format::F32 ? 4 : 2);
    }
    uint64_t positions(uint64_t context, uint64_t batch) const {
        const uint64_t held = round_up(uint64_t(window) + batch, 64);
        return window == 0 || held > context ? context : held;
    }
    uint64_t bytes(uint64_t context, uint64_t batch) const {
        return round_up(2 * row_bytes() * kv_heads * positions(context, batch), 64);
    }
};

struct Step {
    Op op;
    uint32_t layer, kernel;
    uint32_t in[3], out, weight, bias;
    int32_t p[6];
    float f[4];
};

struct Program {
    uint32_t head_first, logits, vocab;
};

// Memory that the process takes beside the arena: at most this.
constexpr uint64_t OVERHEAD = uint64_t(12) << 20;

struct Plan {
    uint64_t arena_bytes, disk_bytes_per_token, tokenizer_offset;
    uint32_t context, batch, head_batch;
    uint32_t schedule_first, schedule_count;
    double decode_tokens_per_s, prefill_tokens_per_s, first_token_s, disk_bytes_per_s;
    uint32_t read_bytes, reads_in_flight;
    uint64_t experts_offset = 0; // of the cache of experts, in the arena
    uint32_t expert_places = 0;  // each as large as the largest EXPERT segment
    uint32_t card_batch = 0;     // tokens at once from which on the card computes CardShare::crossing; 0: never
    uint64_t vram_bytes = 0;     // 0: without a graphics card
    uint64_t ram_bytes() const { return arena_bytes + OVERHEAD; } // what the whole process takes at most
};

struct Placement {
    Tier tier;
    uint64_t offset; // in the arena
};

// A STREAM segment of a plan, in the order of reading. It may be read when all reads more than lead − 1 before it are
// released, each with its last step.
struct Read {
    uint32_t segment, lead;
    uint32_t first, last; // steps that use it
};

// The first tiles of a LINEAR step, which lie in VRAM and are computed by the graphics card, and the next ones, which are brought
// over the bus and computed there for batches only.
struct CardShare {
    uint32_t step, tiles, crossing;
    uint32_t all() const { return tiles + crossing; }
};

struct KernelSpec {
    Op op;
    Format format;
    uint32_t rows, cols;
};

struct Entry {
    uint32_t offset; // in the image, or NONE
    uint8_t maker;   // 0 none, 1 template, 2 TVM
};

struct Image {
    Isa isa;
    uint64_t offset, size; // in CODE
};

// Bytes that one buffer takes under a plan.
inline uint64_t buffer_bytes(const Buffer &b, const Plan &plan) {
    return b.token_bytes() * (b.scope == Scope::BODY ? plan.batch : plan.head_batch);
}

} // namespace n730
