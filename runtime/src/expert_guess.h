// Which experts the layer behind will likely choose, asked before it is reached, so that they can be read meanwhile: what
// its norm and its router make of the vector that this layer's were given. From layer to layer that vector changes
// little. Reads are all that comes of a guess; no result depends on it.
#pragma once
#include "kernels.h"
#include "package.h"

namespace n730 {

class ExpertGuess {
  public:
    // All arguments outlive it.
    ExpertGuess(const Package &package, size_t plan, uint8_t *arena, const KernelSet &kernels)
        : package_(package), plan_(plan), arena_(arena), kernels_(kernels) {}

    // The next layer with experts, whose first EXPERT is step `first`; `segments`: where each lies, or NONE: in RAM.
    void add(size_t first, std::vector<uint32_t> segments);

    // While the experts of layer `layer` (of those added, from 0) compute their one token: those that the layer behind
    // will choose, likeliest first. Empty if that cannot be told. Valid until the next call.
    const std::vector<uint32_t> &behind(size_t layer);

  private:
    struct Router {
        const uint8_t *source = nullptr;    // what its norm is given for the first token; null: nothing can be asked
        uint32_t width = 0;                 // of that
        bool kept = false;                  // it is still there, unchanged, while the layer's experts compute
        n730_kernel kernels[3];             // norm, LINEAR, ROUTE
        n730_call calls[3];
        std::vector<uint32_t> segments;     // by expert
    };
    Router find(size_t first) const;

    const Package &package_;
    const size_t plan_;
    uint8_t *const arena_;
    const KernelSet &kernels_;
    std::vector<Router> routers_;
    std::vector<float> room_; // between the three steps; taken once
    std::vector<uint32_t> found_, order_;
};

} // namespace n730
