// Header, section table and the reading of bytes; the tables themselves are in the package_*.cpp beside.
#include "package.h"
#include "builtin_kernels.h"
#include "chat_program.h"
#include "hash.h"
#include "tokenizer.h"
#include "utf8.h"

#include <algorithm>
#include <string_view>

namespace n730 {

namespace {

constexpr uint64_t MIB = 1u << 20;

struct SectionLimit {
    const char *name;
    uint32_t record; // bytes
    uint64_t least, most;
};

// By kind; FORMAT.md section 1. Sizes that follow from other sections are checked in check_counts.
constexpr SectionLimit LIMITS[SECTION_COUNT + 1] = {
    {"", 0, 0, 0},
    {"META", 1, 0, 16 * MIB},
    {"NAMES", 1, 0, 16 * MIB},
    {"TENSORS", 64, 0, 1000000},
    {"SEGMENTS", 32, 1, 1000000},
    {"BUFFERS", 16, 1, 65536},
    {"CACHES", 16, 0, 65536},
    {"STEPS", 96, 1, 1000000},
    {"PROGRAM", 32, 1, 1},
    {"PLANS", 128, 1, 64},
    {"PLACEMENTS", 16, 1, 4000000},
    {"OFFSETS", 8, 1, uint64_t(64) * 2 * 65536},
    {"SCHEDULE", 16, 0, 4000000},
    {"KERNELS", 32, 0, 65536},
    {"IMAGES", 1, 16, 16 * MIB},
    {"CODE", 1, 0, 256 * MIB},
    {"TOKENIZER", 1, 0, 256 * MIB},
    {"CHAT", 1, 0, MIB},
    {"SUMS", 8, 1, 16 * MIB},
};

std::string str(uint64_t n) { return std::to_string(n); }

void read_bytes(const Source &source, uint64_t offset, void *out, size_t n) {
    if (!source.read(offset, out, n))
        throw PackageError("E_OPEN", "the package cannot be read", str(n) + " bytes at " + str(offset),
                           "an error of the disk", "Check the disk, or copy the file again.");
}

// Reads [offset, offset + size) piece by piece; `fn(data, n)` sees each.
template <class Fn> void read_pieces(const Source &source, uint64_t offset, uint64_t size, Fn fn) {
    std::vector<uint8_t> piece(static_cast<size_t>(std::min<uint64_t>(size, MIB)));
    while (size > 0) {
        const size_t n = static_cast<size_t>(std::min<uint64_t>(size, piece.size()));
        read_bytes(source, offset, piece.data(), n);
        fn(piece.data(), n);
        offset += n, size -= n;
    }
}

bool zero_in_file(const Source &source, uint64_t begin, uint64_t end) {
    bool zero = true;
    if (begin < end)
        read_pieces(source, begin, end - begin,
                    [&](const uint8_t *data, size_t n) { zero = zero && all_zero(data, n); });
    return zero;
}

void read_header(Package &package, uint8_t *header) {
    const Source &source = *package.source;
    const uint64_t size = source.size();
    const size_t have = static_cast<size_t>(std::min<uint64_t>(size, HEADER_SIZE));
    read_bytes(source, 0, header, have);
    if (have >= sizeof MAGIC && std::memcmp(header, MAGIC, sizeof MAGIC) != 0)
        throw PackageError("E_MAGIC", "not a .n730 package", "the bytes 89 4E 37 33 30 0D 0A 1A at the start", "others",
                           "Name a file that `n730c build` wrote.");
    if (have < HEADER_SIZE)
        throw PackageError("E_TRUNCATED", "the file ends within the header", "4096 bytes", str(size), "Copy it again.");
    if (package.options.check_hashes && xxh3(header, HEADER_SIZE - 8) != be64(header + HEADER_SIZE - 8))
        throw PackageError("E_HEADER_CHECKSUM", "the header is damaged", "", "", "Copy the file again.");
    if (be16(header + 8) != 1 || be16(header + 10) != 0)
        throw PackageError("E_VERSION", "the package has another version", "1.0",
                           str(be16(header + 8)) + "." + str(be16(header + 10)),
                           "Take the n730-exec it was built for.");
    if (be32(header + 12) != HEADER_SIZE) throw PackageError("E_HEADER", "header size", "4096", str(be32(header + 12)));
    if (be32(header + 24) != SECTION_COUNT)
        throw PackageError("E_HEADER", "section count", str(SECTION_COUNT), str(be32(header + 24)));
    const size_t table_end = 32 + SECTION_COUNT * 32;
    if (!all_zero(header + 28, 4) || !all_zero(header + table_end, HEADER_SIZE - 8 - table_end))
        throw PackageError("E_HEADER", "reserved bytes of the header", "zeros", "others");
    package.file_size = be64(header + 16);
    if (size > package.file_size)
        throw PackageError("E_HEADER", "the file is longer than its header says", str(package.file_size) + " bytes",
                           str(size));
    if (size < package.file_size)
        throw PackageError("E_TRUNCATED", "the file is shorter than its header says", str(package.file_size) + " bytes",
                           str(size), "Copy it again.");
}

// Sizes of sections that follow from other sections.
void check_counts(const Package &package) {
    const auto count = [&](SectionKind kind) { return package.sections[kind].size / LIMITS[kind].record; };
    const auto want = [&](SectionKind kind, uint64_t expected) {
        if (count(kind) != expected)
            throw PackageError("E_SECTION", std::string("records in ") + LIMITS[kind].name, str(expected),
                               str(count(kind)));
    };
    want(PLACEMENTS, count(PLANS) * count(SEGMENTS));
    want(OFFSETS, count(PLANS) * (count(BUFFERS) + count(CACHES)));
}

void read_section_table(Package &package, const uint8_t *header) {
    uint64_t end = HEADER_SIZE;
    for (uint32_t kind = 1; kind <= SECTION_COUNT; ++kind) {
        const uint8_t *entry = header + 32 + (kind - 1) * 32;
        const SectionLimit &limit = LIMITS[kind];
        if (be32(entry) != kind) throw PackageError("E_SECTION", "kind of a section", str(kind), str(be32(entry)));
        if (be32(entry + 4) != 0)
            throw PackageError("E_SECTION", "reserved field of a section", "0", str(be32(entry + 4)));
        const Section section{be64(entry + 8), be64(entry + 16), be64(entry + 24)};
        if (section.offset != round_up(end, 64))
            throw PackageError("E_SECTION", std::string("offset of ") + limit.name, str(round_up(end, 64)),
                               str(section.offset));
        if (!inside(section.offset, section.size, package.file_size))
            throw PackageError("E_SECTION", std::string(limit.name) + " reaches beyond the file",
                               "an end at most " + str(package.file_size), str(section.size) + " bytes");
        if (section.size % limit.record != 0 || section.size / limit.record < limit.least ||
            section.size / limit.record > limit.most)
            throw PackageError("E_SECTION", std::string("size of ") + limit.name,
                               str(limit.least) + " to " + str(limit.most) + " records of " + str(limit.record),
                               str(section.size) + " bytes");
        package.sections[kind] = section;
        end = section.offset + section.size;
    }
    check_counts(package);
    for (uint32_t kind = 1; kind <= SECTION_COUNT; ++kind) {
        const uint64_t from = package.sections[kind].offset + package.sections[kind].size;
        const uint64_t to = kind < SECTION_COUNT ? package.sections[kind + 1].offset : round_up(from, PAGE);
        if (!zero_in_file(*package.source, from, std::min(to, package.file_size)))
            throw PackageError("E_SECTION", std::string("padding after ") + LIMITS[kind].name, "zeros", "others");
    }
}

void check_section_hashes(const Package &package) {
    if (!package.options.check_hashes) return;
    for (uint32_t kind = 1; kind <= SECTION_COUNT; ++kind) {
        Hasher hasher;
        read_pieces(*package.source, package.sections[kind].offset, package.sections[kind].size,
                    [&](const uint8_t *data, size_t n) { hasher.update(data, n); });
        if (hasher.digest() != package.sections[kind].hash)
            throw PackageError("E_SECTION_CHECKSUM", std::string(LIMITS[kind].name) + " is damaged", "", "",
                               "Copy the file again.");
    }
}

void check_text(const Package &package) {
    std::string why;
    const std::vector<uint8_t> tables = read_section(package, TOKENIZER);
    if (!Tokenizer::validate(tables.data(), tables.size(), package.program.vocab, why))
        throw PackageError("E_TOKENIZER", why);
    const std::vector<uint8_t> program = read_section(package, CHAT);
    if (!chat::validate(program.data(), program.size(), why)) throw PackageError("E_CHAT", why);
}

// The parts of a segment that no tensor covers: `fn(begin, end)`, relative to the segment.
template <class Fn> void each_gap(const Package &package, const Segment &segment, Fn fn) {
    uint64_t at = 0;
    for (uint32_t i = 0; i < segment.tensor_count; ++i) {
        const Tensor &tensor = package.tensors[segment.first_tensor + i];
        fn(at, tensor.offset);
        at = tensor.offset + tensor.size;
    }
    fn(at, segment.size);
}

} // namespace

Package read_package(const Source &source, ReadOptions options) {
    Package package;
    package.source = &source;
    package.options = options;
    std::vector<uint8_t> header(HEADER_SIZE);
    read_header(package, header.data());
    read_section_table(package, header.data());
    check_section_hashes(package);
    check_meta(read_section(package, META));
    read_tensors(package);
    read_program(package);
    read_plans(package);
    read_kernels(package);
    check_text(package);
    return package;
}

void read_section(const Package &package, SectionKind kind, uint8_t *out) {
    const Section &section = package.sections[kind];
    read_bytes(*package.source, section.offset, out, static_cast<size_t>(section.size));
    if (package.options.check_hashes && xxh3(out, static_cast<size_t>(section.size)) != section.hash)
        throw PackageError("E_SECTION_CHECKSUM", std::string(LIMITS[kind].name) + " changed while it was read");
}

std::vector<uint8_t> read_section(const Package &package, SectionKind kind) {
    std::vector<uint8_t> bytes(static_cast<size_t>(package.sections[kind].size));
    read_section(package, kind, bytes.data());
    return bytes;
}

bool pieces_match(const Package &package, size_t index, uint64_t at, const uint8_t *data, size_t n) {
    if (!package.options.check_hashes) return true;
    static const auto hash = cpu_isa() >= Isa::AVX2 ? xxh3_avx2 : xxh3; // CPUID is not asked again for every read
    const uint64_t *sum = &package.sums[package.segments[index].first_sum + at / PIECE];
    for (size_t done = 0; done < n; done += PIECE)
        if (hash(data + done, std::min<size_t>(PIECE, n - done)) != *sum++) return false;
    return true;
}

std::string segment_label(const Package &package, size_t index) {
    return "segment " + str(index) + " (" + package.tensor_name(package.segments[index].first_tensor) + ")";
}

namespace {
[[noreturn]] void fail_segment(const Package &package, size_t index) {
    throw PackageError("E_SEGMENT_CHECKSUM", segment_label(package, index) + " is damaged", "", "",
                       "Copy the file again.");
}
} // namespace

void read_weights(const Package &package, size_t index, uint64_t at, uint8_t *out, size_t n) {
    const std::string why = package.source->read_weights(package.segments[index].offset + at, out, n);
    if (!why.empty())
        throw Error("cannot read " + segment_label(package, index), "", why, "Check the disk, or copy the file again.");
    if (!pieces_match(package, index, at, out, n)) fail_segment(package, index);
}

void verify_segments(const Package &package, const Advance &advance) {
    std::vector<uint8_t> piece(PIECE);
    for (size_t i = 0; i < package.segments.size(); ++i) {
        const Segment &segment = package.segments[i];
        for (uint64_t at = 0; at < segment.size; at += PIECE) {
            const size_t n = static_cast<size_t>(std::min(PIECE, segment.size - at));
            read_bytes(*package.source, segment.offset + at, piece.data(), n);
            if (!pieces_match(package, i, at, piece.data(), n)) fail_segment(package, i);
            if (advance) advance(n);
        }
    }
    for (size_t i = 0; i < package.segments.size(); ++i) {
        const Segment &segment = package.segments[i];
        each_gap(package, segment, [&](uint64_t begin, uint64_t end) {
            if (!zero_in_file(*package.source, segment.offset + begin, segment.offset + end))
                throw PackageError("E_PADDING", "bytes of segment " + str(i) + " outside its tensors", "zeros",
                                   "others");
        });
    }
}

} // namespace n730
