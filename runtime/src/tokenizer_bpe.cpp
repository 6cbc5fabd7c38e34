#include "tokenizer_bpe.h"

#include "tokenizer_unicode.h"
#include "tokenizer_vocabulary.h"

#include <algorithm>
#include <functional>

namespace n730 {

// Calls add(id) for what a word is before any merging: its bytes, or its characters and what stands for those that
// the vocabulary lacks. At most one id a byte.
template <class Add> void Bpe::start(const uint8_t *word, size_t n, Add add) const {
    if (tables_.kind == TokenizerKind::BYTE_BPE) {
        for (size_t i = 0; i < n; i++) {
            const uint32_t id = tables_.byte_id(word[i]);
            if (id != kNoId) add(id);
        }
        return;
    }
    bool unknown = false; // an unknown token is held back: the next may be the same one
    for (const uint8_t *p = word, *end = word + n, *next; p < end; p = next) {
        next = p + decode_char(p, end).length;
        const uint32_t id = find_word(tables_, p, static_cast<size_t>(next - p));
        if (id != kNoId) {
            if (unknown) add(tables_.unknown);
            unknown = false;
            add(id);
        } else if (tables_.flags & MODEL_BYTE_FALLBACK &&
                   std::all_of(p, next, [&](uint8_t byte) { return tables_.byte_id(byte) != kNoId; })) {
            // The library leaves an unknown token that is held back where it is, behind these.
            for (; p < next; p++) add(tables_.byte_id(*p));
        } else if (tables_.unknown != kNoId) {
            if (unknown && !(tables_.flags & MODEL_FUSE_UNKNOWN)) add(tables_.unknown);
            unknown = true;
        }
    }
    if (unknown) add(tables_.unknown);
}

Bpe::Merge Bpe::find_merge(uint32_t left, uint32_t right) const {
    constexpr uint64_t kMask = 0xFFFFFFFFFFFF;
    const uint64_t key = uint64_t{left} << 24 | right;
    const uint32_t capacity = tables_.merges.size / 12;
    uint32_t slot = static_cast<uint32_t>((key * kHashFactor >> 32) * capacity >> 32);
    for (uint32_t probe = 0; probe < tables_.merge_probes; probe++) {
        const uint8_t *record = tables_.merges.data + 12 * size_t{slot};
        const uint64_t found = be64(record) >> 16; // left, right: 24 bits each
        if (found == key) {
            const uint64_t value = be64(record + 4) & kMask; // rank, id: likewise
            return {static_cast<uint32_t>(value >> 24), static_cast<uint32_t>(value & 0xFFFFFF)};
        }
        if (found == kMask) break;
        if (++slot == capacity) slot = 0;
    }
    return {kNoRank, kNoId};
}

void Bpe::append(const uint8_t *word, size_t n, std::vector<int32_t> &out) {
    const uint32_t whole = find_word(tables_, word, n);
    if (whole != kNoId)
        out.push_back(static_cast<int32_t>(whole));
    else if (n <= kShort)
        append_short(word, n, out);
    else
        append_long(word, n, out);
}

void Bpe::append_short(const uint8_t *word, size_t n, std::vector<int32_t> &out) const {
    uint32_t ids[kShort];
    Merge merges[kShort]; // of ids[i] with ids[i + 1]
    size_t count = 0;
    start(word, n, [&](uint32_t id) { ids[count++] = id; });
    for (size_t i = 0; i + 1 < count; i++) merges[i] = find_merge(ids[i], ids[i + 1]);
    while (count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < count; i++)
            if (merges[i].rank < merges[best].rank) best = i;
        if (merges[best].rank == kNoRank) break;
        ids[best] = merges[best].id;
        count--;
        for (size_t i = best + 1; i < count; i++) ids[i] = ids[i + 1];
        for (size_t i = best; i + 1 < count; i++) merges[i] = merges[i + 1];
        if (best > 0) merges[best - 1] = find_merge(ids[best - 1], ids[best]);
        if (best + 1 < count) merges[best] = find_merge(ids[best], ids[best + 1]);
    }
    for (size_t i = 0; i < count; i++) out.push_back(static_cast<int32_t>(ids[i]));
}

void Bpe::append_long(const uint8_t *word, size_t n, std::vector<int32_t> &out) {
    symbols_.clear();
    start(word, n, [&](uint32_t id) {
        const uint32_t at = static_cast<uint32_t>(symbols_.size());
        symbols_.push_back({id, at == 0 ? kEnd : at - 1, at + 1, {kNoRank, kNoId}});
    });
    if (symbols_.empty()) return;
    symbols_.back().next = kEnd;

    // An entry of the heap is stale when its rank is no longer that of the pair at its place.
    heap_.clear();
    const auto queue = [&](uint32_t at, bool sift) {
        Symbol &s = symbols_[at];
        s.with_next = s.next == kEnd ? Merge{kNoRank, kNoId} : find_merge(s.id, symbols_[s.next].id);
        if (s.with_next.rank == kNoRank) return;
        heap_.push_back(uint64_t{s.with_next.rank} << 32 | at);
        if (sift) std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
    };
    for (uint32_t i = 0; i < symbols_.size(); i++) queue(i, false);
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
    while (!heap_.empty()) {
        const uint64_t top = heap_.front();
        std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
        heap_.pop_back();
        const uint32_t at = static_cast<uint32_t>(top);
        Symbol &s = symbols_[at];
        if (s.with_next.rank != top >> 32) continue;
        Symbol &absorbed = symbols_[s.next];
        s.id = s.with_next.id;
        s.next = absorbed.next;
        absorbed.with_next.rank = kNoRank;
        if (s.next != kEnd) symbols_[s.next].prev = at;
        queue(at, true);
        if (s.prev != kEnd) queue(s.prev, true);
    }
    for (uint32_t i = 0; i != kEnd; i = symbols_[i].next) out.push_back(static_cast<int32_t>(symbols_[i].id));
}

} // namespace n730
