#include "cuda_kernels.h"
#include "progress.h"
#include "text.h"

namespace n730 {

int linear_variant(int64_t tokens) {
    int variant = 0;
    while (variant + 1 < LINEAR_VARIANTS && LINEAR_COLUMNS[variant] < tokens) ++variant;
    return variant;
}

std::string matrix_shape(const Tensor &t) {
    return std::string(format_name(t.format)) + "_" + std::to_string(t.rows) + "x" + std::to_string(t.cols);
}

CudaFunction linear_kernel(const Cuda &card, CudaModule module, const Tensor &weight, int variant) {
    return card.function(module, "linear_" + matrix_shape(weight) + "_c" + std::to_string(LINEAR_COLUMNS[variant]));
}

const Image *choose_image(const Package &package, const Cuda &card, bool trust, std::string &why) {
    const Image *best = nullptr;
    for (const Image &image : package.images) {
        const int architecture = gpu_architecture(image.isa); // PTX is below all of them, and serves all
        const bool serves = image.isa == Isa::PTX || (architecture != 0 && architecture / 10 == card.major() &&
                                                      architecture % 10 <= card.minor());
        if (serves && (best == nullptr || image.isa > best->isa)) best = &image;
    }
    if (best == nullptr)
        why = "the package has no kernels for " + card.name() + " (expected compute capability " +
              std::to_string(card.major()) + "." + std::to_string(card.minor()) + ", found none)";
    else if (!trust)
        why = "the kernels for the graphics card are the package's own code, which runs only with --trust";
    return trust ? best : nullptr;
}

CudaModule load_image(const Package &package, const Image &image, const Cuda &card) {
    const std::vector<uint8_t> code = read_section(package, CODE);
    const auto *first = reinterpret_cast<const char *>(code.data()) + image.offset;
    const std::string bytes(first, first + image.size); // PTX ends with a zero in memory, and not in the file
    if (image.isa == Isa::PTX)
        say("the package has no kernels made for " + card.name() + ": its driver compiles their PTX, which may take a minute");
    return card.load(bytes.c_str());
}

std::string too_little_vram(uint64_t expected, uint64_t found) {
    return "the graphics card has not enough memory left (expected " + format_size(expected) + ", found " +
           format_size(found) + ")";
}

} // namespace n730
