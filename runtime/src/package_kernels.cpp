// KERNELS, IMAGES, CODE: compiled code that a package may carry. Nothing here executes it.
#include "package.h"

namespace n730 {

namespace {

constexpr uint32_t MAX_DIM = 1u << 24;
constexpr uint32_t MAX_IMAGES = 16;
constexpr uint8_t LAST_MAKER = 2;

bool known(Isa isa) {
    return isa <= Isa::AVX512 || isa == Isa::PTX || isa == Isa::SM_35 || isa == Isa::SM_50 || isa == Isa::SM_52 || isa == Isa::SM_61;
}

std::string str(uint64_t n) { return std::to_string(n); }

void need(bool good, const char *code, const std::string &what, const std::string &expected, uint64_t found) {
    if (!good) throw PackageError(code, what, expected, str(found));
}

void check_steps(const Package &package) {
    for (size_t i = 0; i < package.steps.size(); ++i) {
        const Step &s = package.steps[i];
        if (s.kernel == NONE) continue;
        const KernelSpec &k = package.kernels[s.kernel];
        const bool fits = s.op == Op::LINEAR && package.tensors[s.weight].format == k.format &&
                          package.tensors[s.weight].rows == k.rows && package.tensors[s.weight].cols == k.cols;
        need(fits, "E_KERNEL", "step " + str(i) + ": kernel", "one for its op, format and shape", s.kernel);
    }
}

void read_images(Package &package) {
    const std::vector<uint8_t> bytes = read_section(package, IMAGES);
    const uint32_t count = be32(bytes.data());
    need(count <= MAX_IMAGES, "E_IMAGE", "images", "at most 16", count);
    const uint64_t size = 16 + count * (32 + 8 * uint64_t(package.kernels.size()));
    need(bytes.size() == size, "E_IMAGE", "size of IMAGES", str(size), bytes.size());
    need(all_zero(bytes.data() + 4, 12), "E_IMAGE", "reserved bytes of IMAGES", "zeros", 1);
    const uint64_t code = package.sections[CODE].size;
    uint64_t end = 0;
    std::vector<uint8_t> gap;
    for (uint32_t i = 0; i < count; ++i) {
        const uint8_t *r = bytes.data() + 16 + i * 32;
        const std::string name = "image " + str(i);
        const Image image{Isa(be32(r)), be64(r + 8), be64(r + 16)};
        need(known(image.isa), "E_IMAGE", name + ": ISA", "0 to 4, 30, 35, 50, 52 or 61", be32(r));
        for (const Image &other : package.images)
            need(other.isa != image.isa, "E_IMAGE", name + ": ISA", "one that no other image has", be32(r));
        need(be32(r + 4) == 0 && be64(r + 24) == 0, "E_IMAGE", name + ": reserved bytes", "zeros", 1);
        need(image.offset == round_up(end, 64), "E_IMAGE", name + ": offset", str(round_up(end, 64)), image.offset);
        need(image.size >= 1 && inside(image.offset, image.size, code), "E_IMAGE", name + ": size",
             "1 to what CODE has left", image.size);
        gap.resize(static_cast<size_t>(image.offset - end));
        if (!gap.empty() && !package.source->read(package.sections[CODE].offset + end, gap.data(), gap.size()))
            throw PackageError("E_OPEN", "cannot read CODE");
        need(all_zero(gap.data(), gap.size()), "E_IMAGE", name + ": bytes before it", "zeros", 1);
        end = image.offset + image.size;
        package.images.push_back(image);
    }
    need(end == code, "E_IMAGE", "end of the last image", str(code), end);
    package.entries.reserve(count * package.kernels.size());
    const uint8_t *r = bytes.data() + 16 + count * 32;
    for (const Image &image : package.images)
        for (size_t k = 0; k < package.kernels.size(); ++k, r += 8) {
            const Entry entry{be32(r), r[4]};
            need(entry.maker <= LAST_MAKER && all_zero(r + 5, 3), "E_IMAGE", "maker of kernel " + str(k), "0 to 2",
                 entry.maker);
            need(entry.maker == 0 || gpu_architecture(image.isa) == 0, "E_IMAGE", "maker of kernel " + str(k),
                 "0 in an image for a graphics card", entry.maker);
            need((entry.offset == NONE) == (entry.maker == 0), "E_IMAGE", "maker of kernel " + str(k),
                 "0 exactly where there is no entry", entry.maker);
            need(entry.offset == NONE || entry.offset < image.size, "E_IMAGE", "entry of kernel " + str(k),
                 "less than " + str(image.size), entry.offset);
            package.entries.push_back(entry);
        }
}

} // namespace

void read_kernels(Package &package) {
    package.kernels.reserve(package.sections[KERNELS].size / 32);
    each_record(package, KERNELS, 32, [&](const uint8_t *r, size_t i) {
        const std::string name = "kernel " + str(i);
        need(be16(r) == uint16_t(Op::LINEAR), "E_KERNEL", name + ": op", "4 (LINEAR)", be16(r));
        need(r[2] >= 1 && r[2] <= LAST_FORMAT, "E_KERNEL", name + ": format", "1 to " + std::to_string(LAST_FORMAT), r[2]);
        const KernelSpec k{Op(be16(r)), Format(r[2]), be32(r + 4), be32(r + 8)};
        need(k.rows >= 1 && k.rows <= MAX_DIM, "E_KERNEL", name + ": rows", "1 to 2^24", k.rows);
        need(k.cols >= 1 && k.cols <= MAX_DIM, "E_KERNEL", name + ": columns", "1 to 2^24", k.cols);
        need(r[3] == 0 && all_zero(r + 12, 20), "E_KERNEL", name + ": reserved bytes", "zeros", 1);
        package.kernels.push_back(k);
    });
    check_steps(package);
    read_images(package);
}

} // namespace n730
