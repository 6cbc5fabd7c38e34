#include "tokenizer_pieces.h"

#include "tokenizer_unicode.h"
#include "tokenizer_vocabulary.h"

namespace n730 {

void Unigram::append(const uint8_t *word, size_t n, std::vector<int32_t> &out) {
    const uint8_t *scores = tables_.scores.data;
    const double unknown_score = be_f64(scores + 8 * size_t{tables_.tokens});
    nodes_.assign(n + 1, {0.0, kNone, 0});
    const auto offer = [&](size_t end, double score, size_t begin, uint32_t id) {
        Node &node = nodes_[end];
        if (node.begin == kNone || score > node.score) node = {score, static_cast<uint32_t>(begin), id};
    };
    for (size_t begin = 0; begin < n;) {
        const size_t next = begin + decode_char(word + begin, word + n).length;
        const double score = nodes_[begin].score;
        TokenWalk walk(tables_);
        bool single = false; // is this character a token by itself?
        for (size_t at = begin; at < n && walk.step(word[at]);) {
            at++;
            const uint32_t id = walk.id();
            if (id == kNoId) continue;
            offer(at, be_f64(scores + 8 * size_t{id}) + score, begin, id);
            single = single || at == next;
        }
        if (!single) offer(next, unknown_score + score, begin, tables_.unknown);
        begin = next;
    }
    // Back along the best path. A place that no token of whole characters reaches is not on it.
    ends_.clear();
    for (size_t end = n; end > 0; end = nodes_[end].begin) ends_.push_back(static_cast<uint32_t>(end));
    for (size_t i = ends_.size(), begin = 0, end; i-- > 0; begin = end) {
        end = ends_[i];
        if (nodes_[end].id != tables_.unknown) {
            out.push_back(static_cast<int32_t>(nodes_[end].id));
            continue;
        }
        while (i > 0 && nodes_[ends_[i - 1]].id == tables_.unknown) end = ends_[--i]; // neighbours are one
        append_unknown(word + begin, end - begin, out);
    }
}

void Unigram::append_unknown(const uint8_t *word, size_t n, std::vector<int32_t> &out) const {
    const auto put = [&](uint32_t id) { out.push_back(static_cast<int32_t>(id)); };
    TokenWalk walk(tables_); // together they may be a token after all
    size_t read = 0;
    while (read < n && walk.step(word[read])) read++;
    if (read == n && walk.id() != kNoId) return put(walk.id());
    bool bytes = tables_.flags & MODEL_BYTE_FALLBACK;
    for (size_t i = 0; i < n && bytes; i++) bytes = tables_.byte_id(word[i]) != kNoId;
    if (!bytes) return put(tables_.unknown);
    for (size_t i = 0; i < n; i++) put(tables_.byte_id(word[i]));
}

void WordPiece::append(const uint8_t *word, size_t n, std::vector<int32_t> &out) const {
    const size_t before = out.size();
    const uint8_t *end = word + n;
    const auto unknown = [&] {
        out.resize(before);
        out.push_back(static_cast<int32_t>(tables_.unknown));
    };
    uint32_t characters = 0;
    for (const uint8_t *p = word; p < end; p += decode_char(p, end).length)
        if (++characters > tables_.word_limit) return unknown();
    for (const uint8_t *begin = word; begin < end;) {
        TokenWalk walk(tables_);
        bool possible = true;
        for (uint32_t i = 0; begin > word && possible && i < tables_.continuing_size; i++)
            possible = walk.step(tables_.text.data[tables_.continuing + i]);
        const uint8_t *longest = nullptr;
        uint32_t id = kNoId;
        for (const uint8_t *p = begin; possible && p < end && walk.step(*p);) {
            p++;
            if (walk.id() != kNoId) longest = p, id = walk.id();
        }
        if (!longest) return unknown();
        out.push_back(static_cast<int32_t>(id));
        begin = longest;
    }
}

} // namespace n730
