#include "tokenizer_normalize.h"

#include "tokenizer_automaton.h"

namespace n730 {
namespace {

void put(const std::string &out, Piece &text) {
    text.begin = bytes_of(out);
    text.end = text.begin + out.size();
}

} // namespace

bool replace(const TokenizerTables &tables, const TextStep &step, Piece &text, std::string &out, Budget &budget) {
    const std::string_view content = tables.text_at(step.x, step.a);
    out.clear();
    const bool within = Automaton(tables, step.automaton, false).split(text.begin, text.end, [&](auto begin, auto end, bool match) {
        const size_t n = match ? content.size() : static_cast<size_t>(end - begin);
        if (!budget.spend(n)) return false;
        if (match && n == 0 && begin == text.begin) text.first = false;
        out.append(match ? content.data() : reinterpret_cast<const char *>(begin), n);
        return true;
    });
    put(out, text);
    return within;
}

const uint8_t *Normalizer::find(const TextStep &step, uint32_t code) const {
    uint32_t lo = step.x, hi = step.y; // the first record that does not end before the code
    while (lo < hi) {
        const uint32_t mid = lo + (hi - lo) / 2;
        if (be32(tables_.maps.data + 16 * size_t{mid} + 4) < code)
            lo = mid + 1;
        else
            hi = mid;
    }
    const uint8_t *record = tables_.maps.data + 16 * size_t{lo};
    return lo < step.y && be32(record) <= code ? record : nullptr;
}

bool Normalizer::map(const TextStep &step, Piece &text, std::string &out, Budget &budget) const {
    out.clear();
    for (const uint8_t *p = text.begin; p < text.end;) {
        const Char c = decode_char(p, text.end);
        const char *bytes = reinterpret_cast<const char *>(p);
        const uint8_t *record = find(step, c.code);
        if (!record) {
            out.append(bytes, c.length);
        } else {
            const std::string_view content = tables_.text_at(be32(record + 8), record[12]);
            out.append(content);
            if (record[13]) out.append(bytes, c.length).append(content);
            if (content.empty() && p == text.begin) text.first = false;
        }
        p += c.length;
    }
    put(out, text);
    return budget.spend(out.size()); // a character becomes 514 bytes at most, so that this comes in time
}

void Normalizer::strip(const TextStep &step, Piece &text) const {
    const auto white = [&](Char c) { return class_flags(tables_, c.code) & CLASS_WHITE; };
    const uint8_t *begin = text.begin;
    while (step.arg & 1 && text.begin < text.end) {
        const Char c = decode_char(text.begin, text.end);
        if (!white(c)) break;
        text.begin += c.length;
    }
    while (step.arg & 2 && text.begin < text.end) {
        const Char c = decode_char_before(text.begin, text.end);
        if (!white(c)) break;
        text.end -= c.length;
    }
    if (text.begin != begin) text.first = false;
}

bool Normalizer::run(Piece &text, Budget &budget) {
    int next = 0;
    for (uint32_t at = 0; at < tables_.normalizer.size; at += TokenizerTables::kStep) {
        const TextStep step(tables_.normalizer.data + at);
        std::string &out = buffers_[next];
        switch (step.op) {
        case TextOp::REPLACE:
            if (!replace(tables_, step, text, out, budget)) return false;
            break;
        case TextOp::FORM:
            if (form_.is_plain(text.begin, text.size())) continue;
            out.clear();
            form_.append(text.begin, text.size(), step.arg != 0, out);
            put(out, text);
            if (!budget.spend(out.size())) return false;
            break;
        case TextOp::MAP:
            if (!map(step, text, out, budget)) return false;
            break;
        case TextOp::PREPEND:
            if (text.size() == 0 || !budget.spend(text.size() + step.a)) return text.size() == 0;
            out.assign(tables_.text_at(step.x, step.a)).append(reinterpret_cast<const char *>(text.begin), text.size());
            put(out, text);
            break;
        case TextOp::STRIP: strip(step, text); continue;
        default: continue;
        }
        next ^= 1;
    }
    return true;
}

} // namespace n730
