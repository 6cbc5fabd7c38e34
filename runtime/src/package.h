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
    std::vector<uint64_t> placements; // offsets in the arena, [plans][segments]
    std::vector<uint64_t> offsets;    // in the arena, [plans][buffers + caches]
    std::vector<KernelSpec> kernels;
    std::vector<Image> images;
    std::vector<Entry> entries; // [images][kernels]

    uint64_t segment_offset(size_t plan, size_t segment) const { return placements[plan * segments.size() + segment]; }
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

// Reads one segment to `out` in large pieces and checks its checksum. `advance`, if any, is told of each piece's
// bytes; it may throw. Throws PackageError.
using Advance = std::function<void(uint64_t bytes)>;
void read_segment(const Package &package, size_t segment, uint8_t *out, const Advance &advance);

// What `verify` does beyond read_package: all checksums of segments, then their padding. Throws PackageError.
void verify_segments(const Package &package, const Advance &advance);

// The member `name` of META as JSON text; empty if there is none.
std::string meta_member(const Package &package, const char *name);

// Parts of read_package, each in its own file; they throw PackageError.
void check_meta(const std::vector<uint8_t> &json);
void read_tensors(Package &package); // NAMES, TENSORS, SEGMENTS
void read_program(Package &package); // BUFFERS, CACHES, STEPS, PROGRAM
void read_plans(Package &package);   // PLANS, PLACEMENTS, OFFSETS, SCHEDULE
void read_kernels(Package &package); // KERNELS, IMAGES, CODE

// The loop of every table: `fn(record, index)` for each record of `kind`.
template <class Fn> void each_record(const Package &package, SectionKind kind, size_t record_size, Fn fn) {
    const std::vector<uint8_t> bytes = read_section(package, kind);
    for (size_t i = 0; i < bytes.size() / record_size; ++i) fn(bytes.data() + i * record_size, i);
}

} // namespace n730
