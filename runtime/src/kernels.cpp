#include "kernels.h"
#include "builtin_kernels.h"
#include "platform.h"

#include <algorithm>

namespace n730 {

namespace {

Isa level(KernelChoice choice) {
    const Isa cpu = cpu_isa();
    if (choice == KernelChoice::AUTO || choice == KernelChoice::BUILTIN) return cpu;
    const Isa asked = Isa(uint32_t(choice) - uint32_t(KernelChoice::SSE2));
    if (asked > cpu)
        throw Error("this CPU does not run these kernels", std::string("at most ") + isa_name(cpu), isa_name(asked),
                    "Run without --kernels.");
    return asked;
}

std::string upper(std::string text) {
    for (char &c : text)
        if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
    return text;
}

} // namespace

KernelSet::KernelSet(const Package &package, KernelChoice choice, bool trust)
    : package_(package), isa_(level(choice)) {
#if defined(__x86_64__)
    if (choice == KernelChoice::BUILTIN || !trust) return;
    // An image below the level of the built-in kernels would be slower than these.
    const Image *best = nullptr;
    for (const Image &image : package.images)
        if (image.isa >= builtin_isa(isa_) && image.isa <= isa_ && (best == nullptr || image.isa > best->isa))
            best = &image;
    if (best != nullptr) load(static_cast<size_t>(best - package.images.data()));
#else
    (void)trust;
#endif
}

KernelSet::~KernelSet() {
    if (memory_ != nullptr) platform::release(memory_, bytes_);
}

void KernelSet::load(size_t index) {
    const Image &image = package_.images[index];
    // All of CODE is read, since its checksum covers all of it; the image alone is kept.
    const std::vector<uint8_t> code = read_section(package_, CODE);
    bytes_ = round_up(image.size, PAGE);
    memory_ = platform::allocate(bytes_);
    if (memory_ == nullptr) throw Error("no memory for the package's kernels", std::to_string(bytes_) + " bytes");
    std::memcpy(memory_, code.data() + image.offset, static_cast<size_t>(image.size));
    if (!platform::make_executable(memory_, bytes_)) {
        platform::release(memory_, bytes_);
        memory_ = nullptr;
        throw Error("this system does not allow code to be loaded", "", "", "Run without --trust.");
    }
    image_isa_ = image.isa;
    entries_ = package_.entries.data() + index * package_.kernels.size();
}

n730_kernel KernelSet::of(const Step &step) const {
    if (memory_ != nullptr && step.kernel != NONE && entries_[step.kernel].offset != NONE) {
        uint8_t *entry = static_cast<uint8_t *>(memory_) + entries_[step.kernel].offset;
        return reinterpret_cast<n730_kernel>(entry);
    }
    Format format = step.weight == NONE ? Format::F32 : package_.tensors[step.weight].format;
    if (step.op == Op::KV_STORE || step.op == Op::ATTENTION)
        format = package_.caches[static_cast<size_t>(step.p[0])].format;
    uint8_t variant = static_cast<uint8_t>(format);
    if (step.op == Op::ROPE) variant = static_cast<uint8_t>(step.p[3]);
    if (step.op == Op::UNARY) variant = static_cast<uint8_t>(step.p[0]);
    return builtin_kernel(static_cast<uint16_t>(step.op), variant, isa_);
}

std::string KernelSet::describe() const {
    if (memory_ != nullptr) return upper(isa_name(image_isa_)) + " image of the package";
    return upper(isa_name(builtin_isa(isa_))) + " built in";
}

} // namespace n730
