// Which function computes a step: a trusted package's image, or the kernels that are built in.
#pragma once
#include "n730_call.h"
#include "package.h"

#include <string>

namespace n730 {

enum class KernelChoice {
    AUTO,    // the package's image if it is trusted, otherwise built-in
    BUILTIN, // built-in, the best instruction set of this processor
    SSE2,    // from here on, in the order of Isa: as AUTO on a CPU of this level
    SSSE3,
    AVX,
    AVX2,
    AVX512,
};

class KernelSet {
  public:
    KernelSet(const Package &package, KernelChoice choice, bool trust);
    ~KernelSet();
    KernelSet(const KernelSet &) = delete;
    KernelSet &operator=(const KernelSet &) = delete;

    n730_kernel of(const Step &step) const;
    bool from_image() const { return memory_ != nullptr; }
    std::string describe() const; // "AVX2 image" and the like

  private:
    void load(size_t image);

    const Package &package_;
    Isa isa_;                        // what the CPU, or the user, allows
    Isa image_isa_ = Isa::SSE2;      // of the chosen image
    const Entry *entries_ = nullptr; // of the chosen image, [kernels]
    void *memory_ = nullptr;
    uint64_t bytes_ = 0;
};

} // namespace n730
