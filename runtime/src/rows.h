// An embedding that stays on the disk: the pieces around a token's tile are read when EMBED wants them.
#pragma once
#include "package.h"

namespace n730 {

class RowReader {
  public:
    // All arguments outlive it. `arena` has the two pieces that each ROWS segment of the plan takes.
    RowReader(const Package &package, size_t plan, uint8_t *arena);

    bool has(uint32_t tensor) const { return places_[package_.tensors[tensor].segment] != nullptr; }
    // Tile `index` (16 rows) of a matrix in a ROWS segment, valid until the next call. Reads nothing if it is there
    // from the call before. Throws Error, PackageError.
    const uint8_t *tile(uint32_t tensor, uint64_t index);

  private:
    const Package &package_;
    std::vector<uint8_t *> places_; // by segment; nullptr: not read by rows
    uint32_t segment_ = NONE;       // whose pieces [first_, end_) are in its place
    uint64_t first_ = 0, end_ = 0;
};

} // namespace n730
