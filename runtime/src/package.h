// A package's tables, read and checked. Weights stay in the file until read_segment brings them in.
#pragma once
#include "error.h"
#include "n730/format.h"

#include <array>
#include <functional>
#include <string>
#include <vector>

namespace n730 {

// Where a package's bytes come from: a file, or memory in tests.
class Source {
  public:
    virtual ~Source() = default;
    virtual uint64_t size() const = 0;
    virtual bool read(uint64_t offset, void *out, size_t n) const = 0; // all n bytes, or false
    // The same for weights: whole pages of the file to a page of memory, from any thread. Empty, or why not.
    virtual std::string read_weights(uint64_t offset, void *out, size_t n) const {
        return read(offset, out, n) ? "" : "the file cannot be read there";
    }
};

class MemorySource : public Source {
  public:
    MemorySource(const uint8_t *data, size_t size) : data_(data), size_(size) {}
    uint64_t size() const override { return size_; }
    bool read(uint64_t offset, void *out, size_t n) const override {
        if (!inside(offset, n, size_)) return false;
        if (n > 0) std::memcpy(out, data_ + offset, n);
        return true;
    }

  private:
    const uint8_t *data_;
    size_t size_;
};

struct ReadOptions {
    bool check_hashes = true; // false only under a fuzzer, which cannot guess checksums
};

struct Package {
    const Source *source = nullptr;
    ReadOptions options;
    uint64_t file_size = 0;
    std::array<Section, SECTION_COUNT + 1> sections; // by SectionKind
    std::string names;
    std::vector<Tensor> tensors;
    std::vector<Segment> segments;
    std::vector<Buffer> buffers;
    std::vector<Cache> caches;
    std::vector<Step> steps;
    Program program{};
    std::vector<Plan> plans;
    std::vector<uint64_t> sums;              // XXH3 of each piece of each segment
    std::vector<Placement> placements;       // [plans][segments]
    std::vector<std::vector<Read>> reads;    // by plan, in order
    std::vector<std::vector<CardShare>> cards; // by plan, steps ascending; empty: the card computes nothing, or all
    std::vector<uint64_t> offsets;    // in the arena, [plans][buffers + caches]
    std::vector<KernelSpec> kernels;
    std::vector<Image> images;
    std::vector<Entry> entries; // [images][kernels]

    const Placement &placement(size_t plan, size_t segment) const {
        return placements[plan * segments.size() + segment];
    }
    uint64_t buffer_offset(size_t plan, size_t buffer) const {
        return offsets[plan * (buffers.size() + caches.size()) + buffer];
    }
    uint64_t cache_offset(size_t plan, size_t cache) const { return buffer_offset(plan, buffers.size() + cache); }
    std::string tensor_name(size_t i) const { return names.substr(tensors[i].name_offset, tensors[i].name_length); }
};

// Reads and checks everything but the segments, in the order of FORMAT.md section 5. `source` must outlive the
// result. Throws PackageError.
Package read_package(const Source &source, ReadOptions options = {});

// The bytes of one section, checked once more against their checksum. Throws PackageError.
std::vector<uint8_t> read_section(const Package &package, SectionKind kind);
// The same into memory of the section's size that the caller has.
void read_section(const Package &package, SectionKind kind, uint8_t *out);

// True if the bytes [at, at + n) of a segment match their checksums; `at` is where a piece starts, and the bytes end
// where one ends.
bool pieces_match(const Package &package, size_t segment, uint64_t at, const uint8_t *data, size_t n);

// Reads the bytes [at, at + n) of a segment, whole pieces, and checks them. Throws Error, PackageError.
void read_weights(const Package &package, size_t segment, uint64_t at, uint8_t *out, size_t n);

// "segment 7 (layers.0.mlp.up_proj.weight)", for errors.
std::string segment_label(const Package &package, size_t segment);

// What `verify` does beyond read_package: all checksums of segments, then their padding. `advance`, if any, is told
// of bytes that were read; it may throw. Throws PackageError.
using Advance = std::function<void(uint64_t bytes)>;
void verify_segments(const Package &package, const Advance &advance);

// The member `name` of META as JSON text; empty if there is none.
std::string meta_member(const Package &package, const char *name);

// What the steps do with a segment.
struct SegmentUse {
    uint32_t first = NONE, last = 0; // steps
    bool streams = false;            // every tensor is used, by steps of the body other than EMBED only
    bool only_embeds = false;        // EMBED steps use it, and no others
    uint32_t expert = NONE;          // the EXPERT step whose group uses all of it, and no other step; NONE: no such
};
std::vector<SegmentUse> segment_uses(const Package &package);

// Where things lie in VRAM under a plan with CardShares, and which of these are one round: their activations go to the
// card together. Bytes from the start of the plan's VRAM.
struct CardLayout {
    struct Share {
        uint64_t weight, bias; // of one CardShare
        uint64_t column[2];    // bytes into a token of the round's result, without and with what is brought for a batch
    };
    struct Round {
        uint32_t first, last;         // steps: the round's first LINEAR, and its last, with CardShares or without
        uint32_t share, share_end;    // in Package::cards and `shares`
        uint64_t result_token_bytes[2]; // likewise
    };
    std::vector<Share> shares;
    std::vector<Round> rounds;
    uint64_t place[2] = {0, 0}, place_bytes = 0; // for what is brought
    uint64_t in = 0, result = 0, bytes = 0;
};
CardLayout card_layout(const Package &package, size_t plan);

// Parts of read_package, each in its own file; they throw PackageError.
void check_meta(const std::vector<uint8_t> &json);
void read_tensors(Package &package); // NAMES, TENSORS, SEGMENTS, SUMS
void read_program(Package &package); // BUFFERS, CACHES, STEPS, PROGRAM
void read_plans(Package &package);   // PLANS, PLACEMENTS, OFFSETS
void read_schedule(Package &package, const std::vector<SegmentUse> &uses); // SCHEDULE, after PLANS and PLACEMENTS
void check_cards(const Package &package, size_t plan); // CARD entries and VRAM bytes, after SCHEDULE
void read_kernels(Package &package); // KERNELS, IMAGES, CODE

// The loop of every table: `fn(record, index)` for each record of `kind`.
template <class Fn> void each_record(const Package &package, SectionKind kind, size_t record_size, Fn fn) {
    const std::vector<uint8_t> bytes = read_section(package, kind);
    for (size_t i = 0; i < bytes.size() / record_size; ++i) fn(bytes.data() + i * record_size, i);
}

} // namespace n730
