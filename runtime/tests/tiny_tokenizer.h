// Complete TOKENIZER sections of a few kilobytes, built here: one a kind, with every step between them.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "tokenizer_automaton.h"

namespace n730::testing {

enum TinyId : uint32_t { TH = 256, THE, END, MASK, BOTH, ALONE, T, H, E, SPACE, MORE_E, MORE_HE, UNKNOWN, TINY_TOKENS };

class TinyTokenizer {
  public:
    explicit TinyTokenizer(TokenizerKind kind) {
        const bool bytes = kind == TokenizerKind::BYTE_BPE;
        std::string tables[TokenizerTables::kTables];
        for (uint32_t i = 0; i < TINY_TOKENS; i++) {
            u32(tables[0], static_cast<uint32_t>(tables[1].size()));
            tables[1] += piece(kind, i);
            tables[2].push_back(i == END ? TOKEN_SPECIAL | TOKEN_EOS : 0);
        }
        u32(tables[0], static_cast<uint32_t>(tables[1].size()));
        for (uint32_t i = 0; i < 256; i++) u32(tables[3], i);
        if (bytes) tables[4] = merges({{'t', 'h', TH}, {TH, 'e', THE}});
        if (kind == TokenizerKind::CHAR_BPE) {
            tables[4] = merges({{T, H, TH}, {TH, E, THE}});
            tables[5] = words(kind, {T, H, E, SPACE});
        }
        if (kind == TokenizerKind::UNIGRAM)
            for (uint32_t i = 0; i <= TINY_TOKENS; i++) f64(tables[6], i == THE ? -1.0 : i == TH ? -2.0 : i == TINY_TOKENS ? -20.0 : -3.0);
        if (kind == TokenizerKind::UNIGRAM) tables[7] = sorted(kind, {E, H, T, TH, THE, SPACE});
        if (kind == TokenizerKind::WORD_PIECE) tables[7] = sorted(kind, {MORE_E, MORE_HE, H, T, TH});
        added(tables[8], tables[10], {{"<both>", BOTH, ADDED_LSTRIP | ADDED_RSTRIP}, {"<mask>", MASK, 0}, {"<|end|>", END, 0}});
        added(tables[9], tables[10], {{"alone", ALONE, ADDED_SINGLE_WORD}});
        u32(tables[11], END);
        classes(tables[13], tables[14], tables[15]);
        tables[16].assign(256, static_cast<char>(OTHER));
        std::fill_n(tables[16].begin() + 'a', 26, static_cast<char>(LETTER));
        automata(tables[17], tables[18]);
        char_record(tables[19], 0xE9, 0, 2, 0); // é = e + acute
        char_record(tables[19], 0x301, 2, 0, 0);
        char_record(tables[19], 0x327, 1, 0, 0);
        for (const int code : {int{'e'}, 0x301}) u32(tables[20], static_cast<uint32_t>(code));
        for (const int code : {int{'e'}, 0x301, 0xE9}) u32(tables[21], static_cast<uint32_t>(code));
        text_ = &tables[10];
        map(tables[22], 'Q', 'Q', "th", 0);
        map(tables[22], 'X', 'Z', " ", 1);
        programs(kind, tables[23], tables[24], tables[25]);
        const uint32_t continuing = text("##");

        std::string header;
        u32(header, static_cast<uint32_t>(kind));
        u32(header, TINY_TOKENS);
        header += {static_cast<char>(bytes ? 0 : MODEL_BYTE_FALLBACK | MODEL_FUSE_UNKNOWN), 2, 0, 20};
        u32(header, tables[5].empty() ? 0 : 3);
        header += {0, static_cast<char>(tables[4].empty() ? 0 : kCapacity), 0, static_cast<char>(tables[5].empty() ? 0 : kCapacity)};
        u32(header, bytes ? kNoId : static_cast<uint32_t>(UNKNOWN));
        header += {0, CLASSES, 0, 0};
        u32(header, continuing);
        header.resize(32);
        std::string body;
        for (const std::string &table : tables) {
            body.resize((TokenizerTables::kHeader + body.size() + 15) / 16 * 16 - TokenizerTables::kHeader);
            u32(header, static_cast<uint32_t>(TokenizerTables::kHeader + body.size()));
            u32(header, static_cast<uint32_t>(table.size()));
            body += table;
        }
        const std::string whole = header + body;
        section.assign(whole.begin(), whole.end());
    }

    std::vector<uint8_t> section;

  private:
    enum Class : uint8_t { OTHER, LETTER, DIGIT, BLANK, MARK, LOW_LINE, ACCENTED, CLASSES };
    struct MergeOf {
        uint32_t left, right, id;
    };
    struct AddedOf {
        std::string text;
        uint32_t id;
        int flags;
    };
    static constexpr uint32_t kCapacity = 5;

    static std::string piece(TokenizerKind kind, uint32_t id) {
        const char *pieces[] = {"th", "the", "<|end|>", "<mask>", "<both>", "alone", "t", "h", "e", "\xE2\x96\x81", "##e", "##he", "<unk>"};
        if (id >= 256) return pieces[id - 256];
        if (kind == TokenizerKind::BYTE_BPE) return std::string(1, static_cast<char>(id));
        const char *digits = "0123456789ABCDEF";
        return std::string("<0x") + digits[id / 16] + digits[id % 16] + ">";
    }
    static void u32(std::string &out, uint32_t v) {
        for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(v >> shift & 0xFF));
    }
    static void u16(std::string &out, uint32_t v) { out += {static_cast<char>(v >> 8), static_cast<char>(v & 0xFF)}; }
    static void u24(std::string &out, uint32_t v) {
        std::string bytes;
        u32(bytes, v);
        out += bytes.substr(1);
    }
    static void f64(std::string &out, double v) {
        uint64_t bits;
        std::memcpy(&bits, &v, sizeof bits);
        u32(out, static_cast<uint32_t>(bits >> 32));
        u32(out, static_cast<uint32_t>(bits));
    }
    static std::string merges(const std::vector<MergeOf> &list) {
        std::string slots[kCapacity];
        uint32_t rank = 0;
        for (const MergeOf &m : list) {
            const uint64_t key = uint64_t{m.left} << 24 | m.right;
            uint64_t slot = (key * kHashFactor >> 32) * kCapacity >> 32;
            while (!slots[slot].empty()) slot = (slot + 1) % kCapacity;
            for (const uint32_t v : {m.left, m.right, rank, m.id}) u24(slots[slot], v);
            rank++;
        }
        std::string table;
        for (const std::string &slot : slots) table += slot.empty() ? std::string(12, '\xFF') : slot;
        return table;
    }
    static std::string words(TokenizerKind kind, const std::vector<uint32_t> &ids) {
        std::string slots[kCapacity];
        for (const uint32_t id : ids) {
            uint64_t hash = 0xCBF29CE484222325;
            for (const char c : piece(kind, id)) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3;
            hash = (hash ^ hash >> 32) * kHashFactor;
            uint64_t slot = (hash >> 32) * kCapacity >> 32;
            while (!slots[slot].empty()) slot = (slot + 1) % kCapacity;
            u32(slots[slot], static_cast<uint32_t>(hash & 0xFF000000) | id);
        }
        std::string table;
        for (const std::string &slot : slots) table += slot.empty() ? std::string(4, '\xFF') : slot;
        return table;
    }
    // `firsts`: the first byte of each of a table's texts, in order.
    static void index(std::string &table, const std::vector<uint8_t> &firsts) {
        for (unsigned byte = 0; byte < 257; byte++)
            u32(table, static_cast<uint32_t>(std::count_if(firsts.begin(), firsts.end(), [&](uint8_t first) { return first < byte; })));
    }
    static std::string sorted(TokenizerKind kind, std::vector<uint32_t> ids) {
        std::sort(ids.begin(), ids.end(), [&](uint32_t a, uint32_t b) { return piece(kind, a) < piece(kind, b); });
        std::vector<uint8_t> firsts;
        for (const uint32_t id : ids) firsts.push_back(static_cast<uint8_t>(piece(kind, id)[0]));
        std::string table;
        index(table, firsts);
        for (const uint32_t id : ids) u32(table, id);
        return table;
    }
    // `list` is sorted by text.
    static void added(std::string &table, std::string &text, const std::vector<AddedOf> &list) {
        std::vector<uint8_t> firsts;
        for (const AddedOf &token : list) firsts.push_back(static_cast<uint8_t>(token.text[0]));
        index(table, firsts);
        for (const AddedOf &token : list) {
            u32(table, token.id);
            u32(table, static_cast<uint32_t>(text.size()));
            table += {static_cast<char>(token.text.size()), static_cast<char>(token.flags), 0, 0};
            text += token.text;
        }
    }
    static void char_record(std::string &table, uint32_t code, int rank, int count, int index) {
        u32(table, code);
        table += {static_cast<char>(rank), static_cast<char>(count), 0, static_cast<char>(index)};
    }
    uint32_t text(const std::string &content) {
        *text_ += content;
        return static_cast<uint32_t>(text_->size() - content.size());
    }
    void map(std::string &table, uint32_t first, uint32_t last, const std::string &content, char around) {
        for (const uint32_t v : {first, last, text(content)}) u32(table, v);
        table += {static_cast<char>(content.size()), around, 0, 0};
    }
    void step(std::string &program, TextOp op, int arg = 0, uint32_t automaton = 0, const std::string &a = "", const std::string &b = "",
              uint32_t records = 0) {
        program += {static_cast<char>(op), static_cast<char>(arg)};
        u16(program, automaton);
        u32(program, a.empty() && b.empty() ? 0 : text(a + b));
        u32(program, records);
        u16(program, static_cast<uint32_t>(a.size()));
        u16(program, static_cast<uint32_t>(b.size()));
    }
    void programs(TokenizerKind kind, std::string &normalizer, std::string &pre_tokenizer, std::string &decoder) {
        const std::string space = "\xE2\x96\x81";
        step(normalizer, TextOp::FORM, 1);
        if (kind == TokenizerKind::BYTE_BPE) {
            step(pre_tokenizer, TextOp::SPLIT, int(Behavior::ISOLATED), 0);
            step(pre_tokenizer, TextOp::SPLIT, int(Behavior::CONTIGUOUS) | SPLIT_BYTES, 0);
            return;
        }
        step(normalizer, TextOp::MAP, 0, 0, "", "", 2);
        if (kind == TokenizerKind::CHAR_BPE) {
            step(normalizer, TextOp::REPLACE, 0, 1, space);
            step(normalizer, TextOp::PREPEND, 0, 0, space);
            step(pre_tokenizer, TextOp::SPLIT, int(Behavior::MERGED_WITH_NEXT), 2);
            step(decoder, TextOp::SUBSTITUTE, 0, 0, space, " ");
            step(decoder, TextOp::BYTES);
            step(decoder, TextOp::TRIM, 1, 0, " ");
        } else if (kind == TokenizerKind::UNIGRAM) {
            step(normalizer, TextOp::STRIP, 3);
            step(pre_tokenizer, TextOp::REPLACE, 0, 1, space);
            step(pre_tokenizer, TextOp::PREFIX, 1, 0, space);
            step(pre_tokenizer, TextOp::SPLIT, int(Behavior::MERGED_WITH_PREVIOUS), 2);
            step(decoder, TextOp::DROP_FIRST, 0, 0, space);
            step(decoder, TextOp::SUBSTITUTE, 0, 0, space, " ");
        } else {
            step(pre_tokenizer, TextOp::SPLIT, int(Behavior::REMOVED) | SPLIT_INVERT, 0);
            step(decoder, TextOp::JOIN, 0, 0, "##");
        }
    }
    // Automata: a run of letters or one digit; a space; a low line that stands for a space.
    static void automata(std::string &records, std::string &transitions) {
        const uint32_t accepts = Automaton::kAccepts;
        for (const Class first : {LETTER, BLANK, LOW_LINE}) {
            const uint32_t states = first == LETTER ? 3 : 2;
            u32(records, static_cast<uint32_t>(transitions.size() / 2));
            u16(records, states);
            u16(records, 0);
            for (uint32_t state = 1; state <= states; state++)
                for (uint32_t symbol = 0; symbol <= CLASSES; symbol++) {
                    const bool letter = first == LETTER && (symbol == LETTER || symbol == ACCENTED);
                    if (state == 1)
                        u16(transitions, symbol == first || letter ? 2 : first == LETTER && symbol == DIGIT ? 3 : 0);
                    else
                        u16(transitions, accepts | (state == 2 && letter ? 2 : 0));
                }
        }
    }
    // Page 0: ASCII and é; page 1: nothing; page 2: U+0300 … U+03FF, combining marks; page 3: U+2581.
    static void classes(std::string &index, std::string &pages, std::string &flags) {
        for (int i = 0; i < 4352; i++) index += {0, static_cast<char>(i == 0 ? 0 : i == 3 ? 2 : i == 0x25 ? 3 : 1)};
        pages.assign(4 * 256, static_cast<char>(OTHER));
        for (int c = 0; c < 128; c++) {
            const bool letter = (c | 32) >= 'a' && (c | 32) <= 'z', digit = c >= '0' && c <= '9';
            const bool space = c == ' ' || (c >= 9 && c <= 13);
            pages[static_cast<size_t>(c)] = static_cast<char>(letter ? LETTER : digit ? DIGIT : space ? BLANK : OTHER);
        }
        pages[0xE9] = static_cast<char>(ACCENTED);
        pages[512 + 0x01] = pages[512 + 0x27] = static_cast<char>(MARK);
        pages[768 + 0x81] = static_cast<char>(LOW_LINE);
        flags = {0, CLASS_WORD, CLASS_WORD, CLASS_STRIP_SPACE | CLASS_WHITE, CLASS_FORM, 0, CLASS_WORD};
    }

    std::string *text_ = nullptr;
};

} // namespace n730::testing
