// The checks of a TOKENIZER section, in the order and with the words of n730c/tokenizer_format.py.
#include "tokenizer.h"
#include "tokenizer_unicode.h"

namespace n730 {
namespace {

bool all_below(const Table &ids, uint32_t limit, bool none_too) {
    for (uint32_t i = 0; i < ids.size; i += 4) {
        const uint32_t id = be32(ids.data + i);
        if (id >= limit && !(none_too && id == kNoId)) return false;
    }
    return true;
}

bool good_merges(const TokenizerTables &t) {
    for (const uint8_t *r = t.merges.data, *end = r + t.merges.size; r < end; r += 12) {
        const bool empty = be64(r) == ~uint64_t{0} && be32(r + 8) == ~uint32_t{0};
        if (!empty && (be24(r) >= t.tokens || be24(r + 3) >= t.tokens || be24(r + 9) >= t.tokens)) return false;
    }
    return true;
}

bool good_words(const TokenizerTables &t) {
    for (uint32_t i = 0; i < t.words.size; i += 4) {
        const uint32_t entry = be32(t.words.data + i);
        if (entry != kNoId && (entry & 0xFFFFFF) >= t.tokens) return false;
    }
    return true;
}

// An ADDED table: records strictly in order of their text, and for each first byte the index of its first record.
bool good_added(const TokenizerTables &t, const Table &table) {
    if (table.size == 0) return true;
    if (table.size < TokenizerTables::kAddedFirst || (table.size - TokenizerTables::kAddedFirst) % 12 != 0) return false;
    const uint32_t count = (table.size - static_cast<uint32_t>(TokenizerTables::kAddedFirst)) / 12;
    if (count == 0 || count > 65535) return false;
    const uint8_t *record = table.data + TokenizerTables::kAddedFirst;
    uint32_t first = 0; // first bytes below it have their entry in the index
    const uint8_t *last_text = nullptr;
    uint32_t last_length = 0;
    for (uint32_t i = 0; i < count; i++, record += 12) {
        const uint32_t offset = be32(record + 4), length = record[8];
        if (be32(record) >= t.tokens || length == 0 || record[9] > 7 || be16(record + 10) != 0) return false;
        if (offset > t.added_text.size || length > t.added_text.size - offset) return false;
        const uint8_t *text = t.added_text.data + offset;
        if (last_text) {
            const int order = std::memcmp(last_text, text, last_length < length ? last_length : length);
            if (order > 0 || (order == 0 && last_length >= length)) return false;
        }
        last_text = text;
        last_length = length;
        for (; first <= text[0]; first++)
            if (be32(table.data + 4 * first) != i) return false;
    }
    for (; first < 257; first++)
        if (be32(table.data + 4 * first) != count) return false;
    return true;
}

bool is_scalar(uint32_t c) { return c < 0xD800 || (c > 0xDFFF && c <= 0x10FFFF); }

bool good_chars(const TokenizerTables &t) {
    for (uint32_t i = 0; i < t.chars.size; i += 8) {
        const uint8_t *r = t.chars.data + i;
        if (!is_scalar(be32(r)) || (i > 0 && be32(r) <= be32(r - 8))) return false;
        if (r[5] > 4 || be16(r + 6) + r[5] > t.decompositions.size / 4) return false;
    }
    for (uint32_t i = 0; i < t.decompositions.size; i += 4)
        if (!is_scalar(be32(t.decompositions.data + i))) return false;
    return true;
}

bool good_compositions(const TokenizerTables &t) {
    for (uint32_t i = 0; i < t.compositions.size; i += 12) {
        const uint8_t *r = t.compositions.data + i;
        if (i > 0 && be64(r) <= be64(r - 12)) return false;
        if (be32(r + 8) == 0 || !is_scalar(be32(r + 8))) return false;
    }
    return true;
}

const char *find_fault(const uint8_t *data, size_t size, uint32_t vocab) {
    if (size < TokenizerTables::kHeader) return "the header is cut short";
    if (size > uint32_t{256} << 20) return "it is larger than 256 MiB";
    // Tables lie in order, each at the next multiple of 16, gaps zero; the section ends with the last.
    uint64_t at = TokenizerTables::kHeader;
    for (size_t i = 0; i < TokenizerTables::kTables; i++) {
        const uint64_t begin = (at + 15) / 16 * 16, length = be32(data + 36 + 8 * i);
        if (be32(data + 32 + 8 * i) != begin || begin + length > size) return "a table lies in the wrong place";
        for (; at < begin; at++)
            if (data[at] != 0) return "padding is not zero";
        at = begin + length;
    }
    if (at != size) return "it does not end with its last table";

    const TokenizerTables t(data);
    if (t.kind != 1) return "its kind is unknown";
    if (t.tokens == 0 || t.tokens > vocab || t.tokens > kMaxId + 1) return "its number of tokens does not fit the model";
    if (t.pattern < 1 || t.pattern > 3) return "its pattern is unknown";
    if (t.normalizer > 1) return "its normalizer is unknown";
    if (t.prefix_space > 1 || data[11] != 0 || be64(data + 20) != 0 || be32(data + 28) != 0)
        return "a flag or a reserved field is not as it must be";
    if (t.longest_word > 65535 || t.merge_probes > 255 || t.word_probes > 255) return "a limit is too large";
    if (t.token_offsets.size != 4 * (uint64_t{t.tokens} + 1) || t.token_flags.size != t.tokens || t.bytes.size != 1024 ||
        t.merges.size % 12 != 0 || (t.merges.size == 0 && t.merge_probes != 0) || t.words.size % 4 != 0 ||
        (t.words.size == 0 && t.word_probes != 0) || t.prefix.size % 4 != 0 || t.prefix.size > 64 ||
        t.suffix.size % 4 != 0 || t.suffix.size > 64 || t.class_index.size != 4352 * 2 || t.class_pages.size % 256 != 0 ||
        t.chars.size % 8 != 0 || t.decompositions.size % 4 != 0 || t.compositions.size % 12 != 0)
        return "a table has the wrong size";

    for (uint32_t i = 0, last = 0; i <= t.tokens; i++) {
        const uint32_t offset = be32(t.token_offsets.data + 4 * size_t{i});
        if (offset < last || (i == 0 && offset != 0) || (i == t.tokens && offset != t.token_bytes.size))
            return "token offsets are out of order";
        last = offset;
    }
    for (uint32_t i = 0; i < t.tokens; i++)
        if (t.token_flags.data[i] > 3) return "a token has unknown flags";
    if (!all_below(t.bytes, t.tokens, true)) return "a byte names no token";
    if (!good_merges(t)) return "a merge names no token";
    if (!good_words(t)) return "a word names no token";
    if (!good_added(t, t.added_raw) || !good_added(t, t.added_normalized)) return "added tokens are not as they must be";
    if (!all_below(t.prefix, t.tokens, false) || !all_below(t.suffix, t.tokens, false))
        return "an id in front or behind names no token";
    for (uint32_t i = 0; i < t.class_index.size; i += 2)
        if (be16(t.class_index.data + i) >= t.class_pages.size / 256) return "a class page is missing";
    if (!good_chars(t)) return "decompositions are not as they must be";
    if (!good_compositions(t)) return "compositions are not as they must be";
    return nullptr;
}

} // namespace

bool Tokenizer::validate(const uint8_t *data, size_t size, uint32_t vocab, std::string &why) {
    const char *fault = find_fault(data, size, vocab);
    if (fault) why = fault;
    return fault == nullptr;
}

} // namespace n730
