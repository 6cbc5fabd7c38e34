#include "tokenizer_unicode.h"

#include <algorithm>

namespace n730 {
namespace {

// Hangul syllables are composed by arithmetic (The Unicode Standard, section 3.12).
constexpr uint32_t kS = 0xAC00, kL = 0x1100, kV = 0x1161, kT = 0x11A7;
constexpr uint32_t kLCount = 19, kVCount = 21, kTCount = 28, kSCount = kLCount * kVCount * kTCount;

// Index of the first of `count` records of `size` bytes whose key is not below `key`; key_of reads a record's key.
template <typename KeyOf> size_t lower_bound(size_t count, uint64_t key, KeyOf key_of) {
    size_t lo = 0, hi = count;
    while (lo < hi) {
        const size_t mid = (lo + hi) / 2;
        if (key_of(mid) < key)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

} // namespace

void append_char(std::string &out, uint32_t c) {
    const auto byte = [&](uint32_t b) { out.push_back(static_cast<char>(b)); };
    if (c & kInvalid) return byte(c & 0xFF);
    if (c < 0x80) return byte(c);
    if (c < 0x800) {
        byte(0xC0 | c >> 6);
    } else {
        if (c < 0x10000) {
            byte(0xE0 | c >> 12);
        } else {
            byte(0xF0 | c >> 18);
            byte(0x80 | (c >> 12 & 0x3F));
        }
        byte(0x80 | (c >> 6 & 0x3F));
    }
    byte(0x80 | (c & 0x3F));
}

const uint8_t *NormalForm::find_char(uint32_t code) const {
    const uint8_t *data = tables_.chars.data;
    const size_t count = tables_.chars.size / 8;
    const size_t i = lower_bound(count, code, [&](size_t k) { return be32(data + 8 * k); });
    return i < count && be32(data + 8 * i) == code ? data + 8 * i : nullptr;
}

void NormalForm::push(uint32_t code) {
    const uint8_t *record = code < 0x80 ? nullptr : find_char(code);
    units_.push_back({code, record ? record[4] : 0u});
}

void NormalForm::decompose(uint32_t code) {
    if (code - kS < kSCount) {
        const uint32_t s = code - kS;
        push(kL + s / (kVCount * kTCount));
        push(kV + s % (kVCount * kTCount) / kTCount);
        if (s % kTCount) push(kT + s % kTCount);
        return;
    }
    const uint8_t *record = code < 0x80 ? nullptr : find_char(code);
    if (!record || record[5] == 0) {
        units_.push_back({code, record ? record[4] : 0u});
        return;
    }
    const uint8_t *part = tables_.decompositions.data + 4 * be16(record + 6);
    for (unsigned i = 0; i < record[5]; i++) push(be32(part + 4 * i));
}

uint32_t NormalForm::composite(uint32_t first, uint32_t second) const {
    if (first - kL < kLCount && second - kV < kVCount) return kS + ((first - kL) * kVCount + (second - kV)) * kTCount;
    if (first - kS < kSCount && (first - kS) % kTCount == 0 && second - kT - 1 < kTCount - 1)
        return first + (second - kT);
    const uint8_t *data = tables_.compositions.data;
    const size_t count = tables_.compositions.size / 12;
    const uint64_t key = uint64_t{first} << 32 | second;
    const size_t i = lower_bound(count, key, [&](size_t k) { return be64(data + 12 * k); });
    return i < count && be64(data + 12 * i) == key ? be32(data + 12 * i + 8) : 0;
}

// Puts the collected, decomposed characters in canonical order.
void NormalForm::order() {
    for (size_t i = 0; i < units_.size();) {
        if (units_[i].ccc == 0) {
            i++;
            continue;
        }
        size_t j = i;
        while (j < units_.size() && units_[j].ccc != 0) j++;
        std::stable_sort(units_.begin() + static_cast<std::ptrdiff_t>(i), units_.begin() + static_cast<std::ptrdiff_t>(j),
                         [](const Unit &a, const Unit &b) { return a.ccc < b.ccc; });
        i = j;
    }
}

void NormalForm::compose() {
    size_t kept = 0;            // units_[0, kept) are composed
    size_t starter = SIZE_MAX;  // the last of them with class 0
    for (const Unit unit : units_) {
        if (starter != SIZE_MAX) {
            // Blocked: something of the same or a higher class, or another starter, stands between.
            const bool adjacent = kept == starter + 1;
            const bool blocked = !adjacent && (units_[kept - 1].ccc == 0 || units_[kept - 1].ccc >= unit.ccc);
            const uint32_t whole = blocked ? 0 : composite(units_[starter].code, unit.code);
            if (whole) {
                units_[starter].code = whole;
                continue;
            }
        }
        if (unit.ccc == 0) starter = kept;
        units_[kept++] = unit;
    }
    units_.resize(kept);
}

bool NormalForm::is_plain(const uint8_t *text, size_t n) const {
    for (const uint8_t *p = text, *end = text + n; p < end;) {
        const Char c = decode_char(p, end);
        if (c.code >= 0x80 && class_flags(tables_, c.code) & CLASS_FORM) return false;
        p += c.length;
    }
    return true;
}

void NormalForm::append(const uint8_t *text, size_t n, bool composed, std::string &out) {
    // A character without CLASS_FORM begins a stretch that depends on nothing before it; a stretch of one
    // such character alone is copied.
    const uint8_t *end = text + n;
    for (const uint8_t *p = text; p < end;) {
        Char c = decode_char(p, end);
        const uint8_t *next = p + c.length;
        const auto changes = [&](const uint8_t *q) {
            return *q >= 0x80 && class_flags(tables_, decode_char(q, end).code) & CLASS_FORM;
        };
        if (!changes(p) && (next == end || !changes(next))) {
            out.append(reinterpret_cast<const char *>(p), c.length);
            p = next;
            continue;
        }
        decompose(c.code);
        for (p = next; p < end && changes(p); p += c.length) {
            c = decode_char(p, end);
            decompose(c.code);
        }
        order();
        if (composed) compose();
        for (const Unit unit : units_) append_char(out, unit.code);
        units_.clear();
    }
}

} // namespace n730
