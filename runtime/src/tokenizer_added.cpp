#include "tokenizer_added.h"

#include <algorithm>

namespace n730 {
namespace {

// The records of an ADDED table, sorted by their text.
class Records {
  public:
    Records(const TokenizerTables &tables, const Table &table)
        : first_(table.data), records_(table.data + TokenizerTables::kIndex), text_(tables.text.data) {}

    // The longest record whose text stands at `p`, or null.
    const uint8_t *longest(const uint8_t *p, const uint8_t *end) const {
        // Records [lo, hi) begin with the `depth` bytes read so far; the first of them is the shortest.
        uint32_t lo = be32(first_ + 4 * *p), hi = be32(first_ + 4 * *p + 4);
        const uint8_t *found = nullptr;
        for (uint32_t depth = 1; lo < hi; depth++) {
            if (length(lo) == depth) found = record(lo++);
            if (p + depth >= end) break;
            const uint8_t byte = p[depth];
            lo = bound(lo, hi, depth, byte);
            hi = byte == 255 ? hi : bound(lo, hi, depth, byte + 1u);
        }
        return found;
    }

    static uint32_t id(const uint8_t *record) { return be32(record); }
    static uint8_t size(const uint8_t *record) { return record[8]; }
    static uint8_t flags(const uint8_t *record) { return record[9]; }

  private:
    const uint8_t *record(uint32_t i) const { return records_ + 12 * size_t{i}; }
    uint32_t length(uint32_t i) const { return record(i)[8]; }

    // First record in [lo, hi), all longer than `depth`, whose byte there is at least `byte`.
    uint32_t bound(uint32_t lo, uint32_t hi, uint32_t depth, uint32_t byte) const {
        while (lo < hi) {
            const uint32_t mid = lo + (hi - lo) / 2;
            if (text_[be32(record(mid) + 4) + depth] < byte)
                lo = mid + 1;
            else
                hi = mid;
        }
        return lo;
    }

    const uint8_t *first_, *records_, *text_;
};

} // namespace

void find_added(const TokenizerTables &tables, const Table &table, const uint8_t *begin, const uint8_t *end,
                std::vector<Span> &out) {
    const uint8_t *done = begin; // all before it is in `out`
    if (table.size != 0) {
        const Records records(tables, table);
        const auto is = [&](Char c, uint8_t bit) { return (class_flags(tables, c.code) & bit) != 0; };
        const uint8_t *run_begin = begin, *run_end = begin; // the last run of spaces seen behind a token
        for (const uint8_t *p = begin; p < end;) {
            const uint8_t *record = records.longest(p, end);
            if (!record) {
                p++;
                continue;
            }
            const uint8_t *start = p, *stop = p + Records::size(record);
            p = stop;
            const uint8_t rules = Records::flags(record);
            if (rules & ADDED_SINGLE_WORD) {
                if (start > begin && is(decode_char_before(begin, start), CLASS_WORD)) continue;
                if (stop < end && is(decode_char(stop, end), CLASS_WORD)) continue;
            }
            if (rules & ADDED_LSTRIP) {
                while (start > done) {
                    const Char c = decode_char_before(begin, start);
                    if (!is(c, CLASS_STRIP_SPACE) || c.length > static_cast<size_t>(start - done)) break;
                    start -= c.length;
                }
            }
            if (rules & ADDED_RSTRIP) {
                if (stop < run_begin || stop > run_end) { // a token of spaces may ask about the same run again
                    run_begin = run_end = stop;
                    while (run_end < end) {
                        const Char c = decode_char(run_end, end);
                        if (!is(c, CLASS_STRIP_SPACE)) break;
                        run_end += c.length;
                    }
                }
                stop = run_end;
            }
            if (done < start) out.push_back({done, start, kNoId});
            out.push_back({start, stop, Records::id(record)});
            done = stop;
        }
    }
    if (done < end) out.push_back({done, end, kNoId});
}

} // namespace n730
