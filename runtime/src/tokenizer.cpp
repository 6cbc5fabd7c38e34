#include "tokenizer.h"

#include "tokenizer_added.h"
#include "tokenizer_bpe.h"
#include "tokenizer_pieces.h"
#include "tokenizer_split.h"

namespace n730 {
namespace {

// Everything that one call of encode needs beside the tables.
class Encoding {
  public:
    Encoding(const TokenizerTables &tables, size_t n, std::vector<int32_t> &out)
        : tables_(tables), budget_(n), out_(out), normalizer_(tables), pre_tokenizer_(tables), bpe_(tables), unigram_(tables),
          word_piece_(tables), word_([this](const uint8_t *begin, const uint8_t *end) { word(begin, end); }) {}

    // False: the budget is spent.
    bool all(const uint8_t *begin, const uint8_t *end) {
        find_added(tables_, tables_.added_raw, begin, end, raw_);
        for (const Span &span : raw_) {
            if (span.id != kNoId)
                out_.push_back(static_cast<int32_t>(span.id));
            else if (!text({span.begin, span.end, span.begin == begin}))
                return false;
        }
        return true;
    }

  private:
    bool text(Piece piece) {
        if (!normalizer_.run(piece, budget_)) return false;
        normalized_.clear();
        find_added(tables_, tables_.added_normalized, piece.begin, piece.end, normalized_);
        for (const Span &span : normalized_) {
            if (span.id != kNoId)
                out_.push_back(static_cast<int32_t>(span.id));
            else if (!pre_tokenizer_.cut({span.begin, span.end, piece.first && span.begin == piece.begin}, budget_, word_))
                return false;
        }
        return true;
    }

    void word(const uint8_t *begin, const uint8_t *end) {
        const size_t n = static_cast<size_t>(end - begin);
        switch (tables_.kind) {
        case TokenizerKind::BYTE_BPE:
        case TokenizerKind::CHAR_BPE: return bpe_.append(begin, n, out_);
        case TokenizerKind::UNIGRAM: return unigram_.append(begin, n, out_);
        case TokenizerKind::WORD_PIECE: return word_piece_.append(begin, n, out_);
        }
    }

    const TokenizerTables &tables_;
    Budget budget_;
    std::vector<int32_t> &out_;
    Normalizer normalizer_;
    PreTokenizer pre_tokenizer_;
    Bpe bpe_;
    Unigram unigram_;
    WordPiece word_piece_;
    const PreTokenizer::Word word_;
    std::vector<Span> raw_, normalized_;
};

void append_ids(const Table &table, std::vector<int32_t> &out) {
    for (uint32_t i = 0; i < table.size; i += 4) out.push_back(static_cast<int32_t>(be32(table.data + i)));
}

} // namespace

Tokenizer::Tokenizer(const uint8_t *data, size_t) : tables_(data) {}

bool Tokenizer::encode(const char *text, size_t n, bool add_special, std::vector<int32_t> &out) const {
    if (n > kMaxText) return false;
    const size_t before = out.size();
    if (add_special) append_ids(tables_.prefix, out);
    const uint8_t *begin = reinterpret_cast<const uint8_t *>(text);
    const bool within = Encoding(tables_, n, out).all(begin, begin + n);
    if (add_special) append_ids(tables_.suffix, out);
    if (!within) out.resize(before);
    return within;
}

uint8_t Tokenizer::flags(int32_t id) const {
    return static_cast<uint32_t>(id) < tables_.tokens ? tables_.token_flags.data[id] : uint8_t{0};
}

std::string_view Tokenizer::piece(int32_t id) const {
    if (static_cast<uint32_t>(id) >= tables_.tokens) return {};
    return tables_.token(static_cast<uint32_t>(id));
}

} // namespace n730
