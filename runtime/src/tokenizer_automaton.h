// Searching with the automata of AUTOMATA and TRANSITIONS: what the compiler makes of a regular expression.
//
// A state's row has an entry for each class of characters and one for the end of the text: the next state (0: there
// is no longer match) and ACCEPTS, "what was read before this character is a match". A search therefore reads the
// text once, and remembers where it last could have stopped. Where it read on in vain, it leaves marks ("from this state
// nothing comes any more"), so that later searches do not read all of that again.
#pragma once
#include <unordered_set>
#include <vector>

#include "tokenizer_unicode.h"

namespace n730 {

class Automaton {
  public:
    static constexpr uint32_t kAccepts = 0x8000;

    // `bytes`: each byte is a character, of the class that BYTE_CLASSES has for it.
    Automaton(const TokenizerTables &tables, uint32_t index, bool bytes)
        : tables_(tables), row_(2 * (tables.classes + 1)), bytes_(bytes),
          rows_(tables.transitions.data + 2 * size_t{be32(tables.automata.data + 8 * size_t{index})}),
          ascii_(bytes ? tables.byte_classes.data : tables.class_pages.data + 256 * size_t{be16(tables.class_index.data)}) {}

    // Calls part(begin, end, is_match) for the matches, leftmost first, and what lies between them; false from it ends
    // the search, and is returned. Matches are not empty. O(n × states), as a rule O(n).
    template <class Part> bool split(const uint8_t *begin, const uint8_t *end, Part part) {
        text_ = begin;
        vain_.clear();
        const uint8_t *done = begin;
        for (const uint8_t *p = begin; p < end;) {
            const uint8_t *stop = match(p, end);
            if (!stop) {
                uint32_t length;
                read(p, end, length);
                p += length;
                continue;
            }
            if (done < p && !part(done, p, false)) return false;
            if (!part(p, stop, true)) return false;
            p = done = stop;
        }
        return done == end || part(done, end, false);
    }

  private:
    static constexpr size_t kEvery = 64; // bytes between marks

    // End of the match that begins at `p`; null: there is none.
    const uint8_t *match(const uint8_t *p, const uint8_t *end) {
        const uint8_t *found = nullptr;
        uint32_t state = 1, length;
        marks_.clear();
        for (; p < end && state != 0; p += length) {
            const uint32_t entry = be16(rows_ + size_t{state - 1} * row_ + 2 * read(p, end, length));
            state = entry & (kAccepts - 1);
            if (entry & kAccepts) {
                found = p;
                marks_.clear();
            }
            const size_t offset = static_cast<size_t>(p - text_), next = offset + length;
            if (offset / kEvery != next / kEvery && state != 0) {
                const uint64_t mark = uint64_t{next} << 16 | state;
                if (!vain_.empty() && vain_.count(mark) != 0) state = 0;
                marks_.push_back(mark);
            }
        }
        if (state != 0 && be16(rows_ + size_t{state - 1} * row_ + 2 * tables_.classes) & kAccepts)
            return end;
        vain_.insert(marks_.begin(), marks_.end());
        return found;
    }

    uint32_t read(const uint8_t *p, const uint8_t *end, uint32_t &length) const {
        length = 1;
        if (bytes_ || *p < 0x80) return ascii_[*p];
        const Char c = decode_char(p, end);
        length = c.length;
        return class_of(tables_, c.code);
    }

    const TokenizerTables &tables_;
    const uint32_t row_; // bytes of a row
    const bool bytes_;
    const uint8_t *rows_; // of state 1, and so on
    const uint8_t *ascii_;
    const uint8_t *text_ = nullptr;         // where the search began
    std::vector<uint64_t> marks_;           // place << 16 | state, behind the match found so far
    std::unordered_set<uint64_t> vain_;     // marks of searches that found nothing more
};

} // namespace n730
