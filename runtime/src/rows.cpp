#include "rows.h"

#include <algorithm>

namespace n730 {

RowReader::RowReader(const Package &package, size_t plan, uint8_t *arena)
    : package_(package), places_(package.segments.size()) {
    for (size_t i = 0; i < places_.size(); ++i)
        if (package.placement(plan, i).tier == Tier::ROWS) places_[i] = arena + package.placement(plan, i).offset;
}

const uint8_t *RowReader::tile(uint32_t tensor, uint64_t index) {
    const Tensor &t = package_.tensors[tensor];
    const Segment &segment = package_.segments[t.segment];
    const uint64_t bytes = matrix_bytes(t.format, TILE_ROWS, t.cols); // at most a piece
    const uint64_t begin = t.offset + index * bytes;
    const uint64_t first = begin / PIECE, end = (begin + bytes - 1) / PIECE + 1;
    uint8_t *place = places_[t.segment];
    if (t.segment != segment_ || first < first_ || end > end_) {
        segment_ = NONE; // nothing is there if the read fails
        const uint64_t last = std::min(end * PIECE, segment.size);
        read_weights(package_, t.segment, first * PIECE, place, static_cast<size_t>(last - first * PIECE));
        segment_ = t.segment, first_ = first, end_ = end;
    }
    return place + (begin - first_ * PIECE);
}

} // namespace n730
