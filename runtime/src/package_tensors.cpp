// NAMES, TENSORS, SEGMENTS, SUMS: what is stored where in the file.
#include "package.h"
#include "utf8.h"

namespace n730 {

namespace {

constexpr uint32_t MAX_DIM = 1u << 24;

std::string str(uint64_t n) { return std::to_string(n); }

[[noreturn]] void fail(const char *code, const char *table, size_t index, const std::string &what,
                       const std::string &expected, const std::string &found) {
    throw PackageError(code, std::string(table) + " " + str(index) + ": " + what, expected, found);
}

void read_tensor(Package &package, const uint8_t *r, size_t i, uint64_t &names_end) {
    const auto bad = [&](const std::string &what, const std::string &expected, uint64_t found) {
        fail("E_TENSOR", "tensor", i, what, expected, str(found));
    };
    const uint8_t format = r[6], layout = r[7];
    Tensor t{be32(r),      be16(r + 4),  Format(format), Layout(layout), be32(r + 8),
             be32(r + 12), be32(r + 16), be64(r + 24),   be64(r + 32)};
    if (t.name_offset != names_end) bad("name offset", str(names_end), t.name_offset);
    if (t.name_length == 0 || !inside(t.name_offset, t.name_length, package.names.size()))
        bad("name length", "1 to what NAMES has left", t.name_length);
    names_end += t.name_length;
    if (utf8_valid_length(std::string_view(package.names).substr(t.name_offset, t.name_length)) != t.name_length)
        bad("name", "UTF-8 of that length", t.name_length);
    if (layout > 1) bad("layout", "0 or 1", layout);
    if (format > LAST_FORMAT || (format == 0) != (layout == 0))
        bad("format", layout == 0 ? "0" : "1 to " + std::to_string(LAST_FORMAT), format);
    if (t.rows < 1 || t.rows > MAX_DIM || (layout == 0 && t.rows != 1))
        bad("rows", layout == 0 ? "1" : "1 to 2^24", t.rows);
    if (t.cols < 1 || t.cols > MAX_DIM) bad("columns", "1 to 2^24", t.cols);
    const uint64_t size = layout == 0 ? uint64_t(t.cols) * 4 : matrix_bytes(t.format, t.rows, t.cols);
    if (t.size != size) bad("size", str(size), t.size);
    if (t.offset % 64 != 0) bad("offset", "a multiple of 64", t.offset);
    if (t.segment >= package.sections[SEGMENTS].size / 32) bad("segment", "an existing one", t.segment);
    if (!all_zero(r + 20, 4) || !all_zero(r + 40, 24))
        fail("E_TENSOR", "tensor", i, "reserved bytes", "zeros", "others");
    package.tensors.push_back(t);
}

void check_fit(const Package &package, size_t segment, const Segment &s) {
    uint64_t end = 0;
    for (uint32_t i = s.first_tensor; i < s.first_tensor + s.tensor_count; ++i) {
        const Tensor &t = package.tensors[i];
        if (t.segment != segment) fail("E_SEGMENT", "tensor", i, "segment", str(segment), str(t.segment));
        if (t.offset < end) fail("E_SEGMENT", "tensor", i, "offset", "at least " + str(end), str(t.offset));
        if (!inside(t.offset, t.size, s.size))
            fail("E_SEGMENT", "tensor", i, "end", "at most " + str(s.size), str(t.offset) + " + " + str(t.size));
        end = t.offset + t.size;
    }
}

} // namespace

void read_tensors(Package &package) {
    const std::vector<uint8_t> names = read_section(package, NAMES);
    package.names.assign(names.begin(), names.end());
    package.tensors.reserve(package.sections[TENSORS].size / 64);
    uint64_t names_end = 0;
    each_record(package, TENSORS, 64, [&](const uint8_t *r, size_t i) { read_tensor(package, r, i, names_end); });
    if (names_end != package.names.size())
        throw PackageError("E_TENSOR", "NAMES", str(names_end) + " bytes", str(package.names.size()));

    const Section &last = package.sections[SECTION_COUNT];
    uint64_t offset = round_up(last.offset + last.size, PAGE);
    uint64_t tensors = 0, sums = 0;
    package.segments.reserve(package.sections[SEGMENTS].size / 32);
    each_record(package, SEGMENTS, 32, [&](const uint8_t *r, size_t i) {
        const auto bad = [&](const std::string &what, const std::string &expected, uint64_t found) {
            fail("E_SEGMENT", "segment", i, what, expected, str(found));
        };
        const Segment s{be64(r), be64(r + 8), be64(r + 16), be32(r + 24), be32(r + 28)};
        if (s.offset != offset) bad("file offset", str(offset), s.offset);
        if (s.size == 0 || s.size % PAGE != 0) bad("size", "a positive multiple of 4096", s.size);
        if (!inside(s.offset, s.size, package.file_size)) bad("end", "at most " + str(package.file_size), s.size);
        offset += s.size;
        if (s.first_sum != sums) bad("first sum", str(sums), s.first_sum);
        sums += ceil_div(s.size, PIECE);
        if (s.first_tensor != tensors) bad("first tensor", str(tensors), s.first_tensor);
        if (s.tensor_count == 0 || s.tensor_count > package.tensors.size() - tensors)
            bad("tensor count", "1 to what is left", s.tensor_count);
        tensors += s.tensor_count;
        check_fit(package, i, s);
        package.segments.push_back(s);
    });
    if (tensors != package.tensors.size())
        throw PackageError("E_SEGMENT", "tensors in segments", str(package.tensors.size()), str(tensors));
    package.sums.reserve(package.sections[SUMS].size / 8);
    each_record(package, SUMS, 8, [&](const uint8_t *r, size_t) { package.sums.push_back(be64(r)); });
    if (sums != package.sums.size())
        throw PackageError("E_SEGMENT", "number of SUMS", str(sums), str(package.sums.size()));
    if (offset != package.file_size)
        throw PackageError("E_SEGMENT", "the end of the last segment", str(package.file_size), str(offset));
}

} // namespace n730
