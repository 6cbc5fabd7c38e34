#include "tokenizer.h"

#include "tokenizer_added.h"
#include "tokenizer_bpe.h"
#include "tokenizer_split.h"

namespace n730 {
namespace {

const uint8_t *bytes_of(const std::string &s) { return reinterpret_cast<const uint8_t *>(s.data()); }

// Everything that one call of encode needs beside the tables.
struct Encoding {
    const TokenizerTables &tables;
    std::vector<int32_t> &out;
    Bpe bpe;
    Nfc nfc;
    std::vector<Span> raw, normalized;
    std::string nfc_text, spaced_text;

    Encoding(const TokenizerTables &t, std::vector<int32_t> &o) : tables(t), out(o), bpe(t), nfc(t) {}

    void words(const uint8_t *p, const uint8_t *end) {
        if (tables.prefix_space && *p != ' ') {
            spaced_text.assign(1, ' ').append(reinterpret_cast<const char *>(p), static_cast<size_t>(end - p));
            p = bytes_of(spaced_text);
            end = p + spaced_text.size();
        }
        while (p < end) {
            const uint8_t *stop = word_end(tables, p, end);
            bpe.append(p, static_cast<size_t>(stop - p), out);
            p = stop;
        }
    }

    void text(const uint8_t *begin, const uint8_t *end) {
        const size_t n = static_cast<size_t>(end - begin);
        if (tables.normalizer == 1 && !nfc.is_plain(begin, n)) {
            nfc_text.clear();
            nfc.append(begin, n, nfc_text);
            begin = bytes_of(nfc_text);
            end = begin + nfc_text.size();
        }
        normalized.clear();
        find_added(tables, tables.added_normalized, begin, end, normalized);
        for (const Span &span : normalized) {
            if (span.id == kNoId)
                words(span.begin, span.end);
            else
                out.push_back(static_cast<int32_t>(span.id));
        }
    }

    void all(const uint8_t *begin, const uint8_t *end) {
        find_added(tables, tables.added_raw, begin, end, raw);
        for (const Span &span : raw) {
            if (span.id == kNoId)
                text(span.begin, span.end);
            else
                out.push_back(static_cast<int32_t>(span.id));
        }
    }
};

void append_ids(const Table &table, std::vector<int32_t> &out) {
    for (uint32_t i = 0; i < table.size; i += 4) out.push_back(static_cast<int32_t>(be32(table.data + i)));
}

} // namespace

Tokenizer::Tokenizer(const uint8_t *data, size_t) : tables_(data) {}

bool Tokenizer::encode(const char *text, size_t n, bool add_special, std::vector<int32_t> &out) const {
    if (n > kMaxText) return false;
    if (add_special) append_ids(tables_.prefix, out);
    const uint8_t *begin = reinterpret_cast<const uint8_t *>(text);
    Encoding(tables_, out).all(begin, begin + n);
    if (add_special) append_ids(tables_.suffix, out);
    return true;
}

uint8_t Tokenizer::flags(int32_t id) const {
    return static_cast<uint32_t>(id) < tables_.tokens ? tables_.token_flags.data[id] : uint8_t{0};
}

std::string_view Tokenizer::piece(int32_t id) const {
    if (static_cast<uint32_t>(id) >= tables_.tokens) return {};
    const uint8_t *offsets = tables_.token_offsets.data + 4 * static_cast<size_t>(id);
    const uint32_t begin = be32(offsets);
    return {reinterpret_cast<const char *>(tables_.token_bytes.data) + begin, be32(offsets + 4) - begin};
}

} // namespace n730
