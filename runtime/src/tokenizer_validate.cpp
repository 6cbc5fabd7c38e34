// The checks of a TOKENIZER section, in the order and with the words of n730c/tokenizer_validate.py.
#include <algorithm>

#include "tokenizer.h"
#include "tokenizer_automaton.h"

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
    if (table.size < TokenizerTables::kIndex || (table.size - TokenizerTables::kIndex) % 12 != 0) return false;
    const uint32_t count = (table.size - static_cast<uint32_t>(TokenizerTables::kIndex)) / 12;
    if (count == 0 || count > 65535) return false;
    const uint8_t *record = table.data + TokenizerTables::kIndex;
    uint32_t first = 0; // first bytes below it have their entry in the index
    const uint8_t *last_text = nullptr;
    uint32_t last_length = 0;
    for (uint32_t i = 0; i < count; i++, record += 12) {
        const uint32_t offset = be32(record + 4), length = record[8];
        if (be32(record) >= t.tokens || length == 0 || record[9] > 7 || be16(record + 10) != 0) return false;
        if (offset > t.text.size || length > t.text.size - offset) return false;
        const uint8_t *text = t.text.data + offset;
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

// SORTED: ids strictly in order of their text, none of it empty or long, and for each first byte the index of its first.
bool good_sorted(const TokenizerTables &t) {
    if (t.sorted.size == 0) return true;
    const uint32_t count = (t.sorted.size - static_cast<uint32_t>(TokenizerTables::kIndex)) / 4;
    uint32_t first = 0; // first bytes below it have their entry in the index
    std::string_view last;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t id = be32(t.sorted.data + TokenizerTables::kIndex + 4 * size_t{i});
        if (id >= t.tokens) return false;
        const std::string_view text = t.token(id);
        if (text.size() > 1024 || text <= last) return false; // char_traits compares bytes as unsigned
        last = text;
        for (; first <= static_cast<uint8_t>(text[0]); first++)
            if (be32(t.sorted.data + 4 * size_t{first}) != i) return false;
    }
    for (; first < 257; first++)
        if (be32(t.sorted.data + 4 * size_t{first}) != count) return false;
    return true;
}

bool good_classes(const TokenizerTables &t) {
    const auto below = [](const Table &table, uint32_t limit) {
        return std::all_of(table.data, table.data + table.size, [&](uint8_t value) { return value < limit; });
    };
    return below(t.class_pages, t.classes) && below(t.byte_classes, t.classes) && below(t.class_flags, 16);
}

// An automaton's rows exist and lead to its own states, and no match is empty.
bool good_automata(const TokenizerTables &t) {
    for (uint32_t i = 0; i < t.automata.size; i += 8) {
        const uint32_t first = be32(t.automata.data + i), states = be16(t.automata.data + i + 4), row = t.classes + 1;
        if (states < 1 || states > TokenizerTables::kMaxStates || be16(t.automata.data + i + 6) != 0) return false;
        if (uint64_t{first} + states * row > t.transitions.size / 2) return false;
        for (uint32_t i = 0; i < states * row; i++) {
            const uint32_t entry = be16(t.transitions.data + 2 * size_t{first + i});
            if ((entry & (Automaton::kAccepts - 1)) > states || (i < row && entry & Automaton::kAccepts)) return false;
        }
    }
    return true;
}

bool good_text(const TokenizerTables &t, uint32_t offset, uint32_t size) {
    return size <= t.text.size && offset <= t.text.size - size;
}

bool good_maps(const TokenizerTables &t) {
    for (uint32_t i = 0; i < t.maps.size; i += 16) {
        const uint8_t *r = t.maps.data + i;
        if (be32(r) > be32(r + 4) || be32(r + 4) > 0x10FFFF || r[13] > 1 || be16(r + 14) != 0) return false;
        if (!good_text(t, be32(r + 8), r[12])) return false;
    }
    return true;
}

// What the fields of a step may hold.
struct StepRule {
    int program;    // 0 normalizer, 1 pre-tokenizer, 2 decoder, 3 the first two
    uint8_t arg;    // at most
    bool automaton, maps;
    int texts;      // how many; negative: as many, and the first is not empty
};
constexpr StepRule kRules[] = {
    {-1, 0, false, false, 0}, // no step
    {3, 0, true, false, 1},   // REPLACE
    {0, 1, false, false, 0},  // FORM
    {0, 0, false, true, 0},   // MAP
    {0, 0, false, false, 1},  // PREPEND
    {0, 3, false, false, 0},  // STRIP
    {1, 31, true, false, 0},  // SPLIT
    {1, 1, false, false, 1},  // PREFIX
    {2, 0, false, false, -2}, // SUBSTITUTE
    {2, 0, false, false, -1}, // DROP_FIRST
    {2, 0, false, false, 1},  // JOIN
    {2, 0, false, false, 0},  // BYTES
    {2, 255, false, false, -1}, // TRIM
};

bool good_step(const TokenizerTables &t, const uint8_t *p, int program) {
    const TextStep step(p);
    const size_t op = static_cast<size_t>(step.op);
    if (op >= sizeof kRules / sizeof *kRules) return false;
    const StepRule &rule = kRules[op];
    if (rule.program != program && !(rule.program == 3 && program < 2)) return false;
    if (step.arg > rule.arg || (step.op == TextOp::SPLIT && (step.arg & SPLIT_BEHAVIOR) > 4)) return false;
    if (rule.automaton ? step.automaton >= t.automata.size / 8 : step.automaton != 0) return false;
    if (step.a > 255 || step.b > 255 || (rule.texts < 0 && step.a == 0)) return false;
    if (rule.maps) return step.x <= step.y && step.y <= t.maps.size / 16 && step.a == 0 && step.b == 0;
    if (step.y != 0 || (rule.texts == 0 && (step.x != 0 || step.a != 0)) || (rule.texts != -2 && step.b != 0)) return false;
    return good_text(t, step.x, uint32_t{step.a} + step.b);
}

bool good_programs(const TokenizerTables &t) {
    const Table *programs[] = {&t.normalizer, &t.pre_tokenizer, &t.decoder};
    for (int program = 0; program < 3; program++)
        for (uint32_t at = 0; at < programs[program]->size; at += TokenizerTables::kStep)
            if (!good_step(t, programs[program]->data + at, program)) return false;
    return true;
}

bool is_scalar(uint32_t c) { return c < 0xD800 || (c > 0xDFFF && c <= 0x10FFFF); }

bool good_chars(const TokenizerTables &t) {
    for (uint32_t i = 0; i < t.chars.size; i += 8) {
        const uint8_t *r = t.chars.data + i;
        if (!is_scalar(be32(r)) || (i > 0 && be32(r) <= be32(r - 8))) return false;
        if (r[5] > 18 || be16(r + 6) + r[5] > t.decompositions.size / 4) return false;
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
    const uint32_t kind = be32(data);
    if (kind < 1 || kind > 4) return "its kind is unknown";
    if (t.tokens == 0 || t.tokens > vocab || t.tokens > kMaxId + 1) return "its number of tokens does not fit the model";
    if (t.flags > 3 || be16(data + 26) != 0) return "a flag or a reserved field is not as it must be";
    if (t.unknown >= t.tokens && (t.unknown != kNoId || kind > 2)) return "its unknown token is no token";
    if (t.classes < 1 || t.classes > 255) return "its number of classes is out of range";
    if (t.longest_word > 65535 || t.merge_probes > 255 || t.word_probes > 255) return "a limit is too large";
    const uint64_t pieces = kind > 2 ? TokenizerTables::kIndex : 0;
    if (t.token_offsets.size != 4 * (uint64_t{t.tokens} + 1) || t.token_flags.size != t.tokens || t.bytes.size != 1024 ||
        t.merges.size % 12 != 0 || (t.merges.size == 0 && t.merge_probes != 0) || t.words.size % 4 != 0 ||
        (t.words.size == 0 && t.word_probes != 0) || t.scores.size != (kind == 3 ? 8 * (uint64_t{t.tokens} + 1) : 0) ||
        t.sorted.size < pieces || t.sorted.size % 4 != 0 || (kind < 3 && t.sorted.size != 0) || t.prefix.size % 4 != 0 ||
        t.prefix.size > 64 || t.suffix.size % 4 != 0 || t.suffix.size > 64 || t.class_index.size != 4352 * 2 ||
        t.class_pages.size % 256 != 0 || t.class_flags.size != t.classes || t.byte_classes.size != 256 ||
        t.automata.size % 8 != 0 || t.transitions.size % 2 != 0 || t.chars.size % 8 != 0 || t.decompositions.size % 4 != 0 ||
        t.compositions.size % 12 != 0 || t.maps.size % 16 != 0)
        return "a table has the wrong size";
    for (const Table *program : {&t.normalizer, &t.pre_tokenizer, &t.decoder})
        if (program->size % TokenizerTables::kStep != 0 || program->size > TokenizerTables::kStep * TokenizerTables::kMaxSteps)
            return "a table has the wrong size";
    if (!good_text(t, t.continuing, t.continuing_size)) return "a text lies outside its table";

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
    if (!good_sorted(t)) return "sorted tokens are not as they must be";
    if (!good_added(t, t.added_raw) || !good_added(t, t.added_normalized)) return "added tokens are not as they must be";
    if (!all_below(t.prefix, t.tokens, false) || !all_below(t.suffix, t.tokens, false))
        return "an id in front or behind names no token";
    for (uint32_t i = 0; i < t.class_index.size; i += 2)
        if (be16(t.class_index.data + i) >= t.class_pages.size / 256) return "a class page is missing";
    if (!good_classes(t)) return "a class is not as it must be";
    if (!good_automata(t)) return "an automaton is not as it must be";
    if (!good_maps(t)) return "a map is not as it must be";
    if (!good_programs(t)) return "a step is not as it must be";
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
