// A complete TOKENIZER section of a few kilobytes, built here: 256 bytes, two merges, an added token of each rule, NFC.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "tokenizer_unicode.h"

namespace n730::testing {

enum TinyId : uint32_t { TH = 256, THE, END, MASK, BOTH, ALONE, TINY_TOKENS };

class TinyTokenizer {
  public:
    explicit TinyTokenizer(Pattern pattern) {
        std::string tables[TokenizerTables::kTables];
        const char *pieces[] = {"th", "the", "<|end|>", "<mask>", "<both>", "alone"};
        for (uint32_t i = 0; i < TINY_TOKENS; i++) {
            u32(tables[0], static_cast<uint32_t>(tables[1].size()));
            tables[1] += i < 256 ? std::string(1, static_cast<char>(i)) : pieces[i - 256];
            tables[2].push_back(i == END ? TOKEN_SPECIAL | TOKEN_EOS : 0);
        }
        u32(tables[0], static_cast<uint32_t>(tables[1].size()));
        for (uint32_t i = 0; i < 256; i++) u32(tables[3], i);
        tables[4] = merges({{'t', 'h', TH}, {TH, 'e', THE}});
        added(tables[6], tables[8], {{"<both>", BOTH, ADDED_LSTRIP | ADDED_RSTRIP}, {"<mask>", MASK, 0}, {"<|end|>", END, 0}});
        added(tables[7], tables[8], {{"alone", ALONE, ADDED_SINGLE_WORD}});
        u32(tables[9], END);
        classes(tables[11], tables[12]);
        char_record(tables[13], 0xE9, 0, 2, 0); // é = e + acute
        char_record(tables[13], 0x301, 2, 0, 0);
        char_record(tables[13], 0x327, 1, 0, 0);
        u32(tables[14], 'e');
        u32(tables[14], 0x301);
        u32(tables[15], 'e');
        u32(tables[15], 0x301);
        u32(tables[15], 0xE9);

        std::string header;
        u32(header, 1);
        u32(header, TINY_TOKENS);
        header += {static_cast<char>(pattern), 1, 0, 0};
        u32(header, 0);
        header += {0, static_cast<char>(kCapacity), 0, 0};
        header.resize(32);
        std::string body;
        for (const std::string &table : tables) {
            body.resize((body.size() + 15) / 16 * 16);
            u32(header, static_cast<uint32_t>(TokenizerTables::kHeader + body.size()));
            u32(header, static_cast<uint32_t>(table.size()));
            body += table;
        }
        const std::string whole = header + body;
        section.assign(whole.begin(), whole.end());
    }

    std::vector<uint8_t> section;

  private:
    struct MergeOf {
        uint32_t left, right, id;
    };
    struct AddedOf {
        std::string text;
        uint32_t id;
        int flags;
    };
    static constexpr uint32_t kCapacity = 5;

    static void u32(std::string &out, uint32_t v) {
        for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(v >> shift & 0xFF));
    }
    static void u24(std::string &out, uint32_t v) {
        std::string bytes;
        u32(bytes, v);
        out += bytes.substr(1);
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
    // `list` is sorted by text.
    static void added(std::string &table, std::string &text, const std::vector<AddedOf> &list) {
        for (unsigned byte = 0; byte < 257; byte++) {
            uint32_t first = 0;
            while (first < list.size() && static_cast<uint8_t>(list[first].text[0]) < byte) first++;
            u32(table, first);
        }
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
    // Page 0: ASCII and é; page 1: nothing; page 2: U+0300 … U+03FF, combining marks.
    static void classes(std::string &index, std::string &pages) {
        for (int i = 0; i < 4352; i++) index += {0, static_cast<char>(i == 0 ? 0 : i == 3 ? 2 : 1)};
        pages.assign(3 * 256, 0);
        for (int c = 0; c < 128; c++) {
            const bool letter = (c | 32) >= 'a' && (c | 32) <= 'z', digit = c >= '0' && c <= '9';
            const bool space = c == ' ' || (c >= 9 && c <= 13);
            pages[static_cast<size_t>(c)] = static_cast<char>(
                (letter ? CLASS_LETTER | CLASS_WORD : digit ? CLASS_NUMBER | CLASS_WORD : 0) | (space ? CLASS_SPACE | CLASS_STRIP_SPACE : 0));
        }
        pages[0xE9] = CLASS_LETTER | CLASS_WORD;
        pages[512 + 0x01] = pages[512 + 0x27] = CLASS_NFC;
    }
};

} // namespace n730::testing
