// Damaged TOKENIZER sections under the sanitizers: what passes the validator must not hurt the encoder.
//
//   hostile SECTION VOCAB < CASES
//
// A line of CASES is one case: `SIZE OFFSET BYTE OFFSET BYTE …`: the section cut to SIZE bytes, with these bytes put
// in. For each case one line on stdout: the fault, or `valid` and the number of ids that some texts gave.
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

#include "tokenizer_decode.h"
#include "tokenizer.h"

int main(int, char **argv) {
    std::ifstream file(argv[1], std::ios::binary);
    const std::vector<uint8_t> section{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    const uint32_t vocab = static_cast<uint32_t>(std::stoul(argv[2]));
    std::string text = "the def self.x = 12345 don't 'S \r\n\n  <mask>  wordy <|im_start|>user <|eot_id|><both> ";
    text += "\xC3\xA9 e\xCC\x81 \xCC\xA7\xCC\x81 \xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8 \xE0\xA5\x98 \xF0\x9F\x98\x80 \xFF\xC3 \xE2\x82";
    for (int i = 0; i < 256; i++) text.push_back(static_cast<char>(i));
    const std::string texts[] = {"", " ", text, std::string(1000, 'a'), std::string(300, ' ') + text + std::string(300, '\n')};

    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream numbers(line);
        size_t size, offset;
        unsigned byte;
        numbers >> size;
        std::vector<uint8_t> damaged(section.begin(), section.begin() + static_cast<std::ptrdiff_t>(size));
        damaged.shrink_to_fit();
        while (numbers >> offset >> byte) damaged.at(offset) = static_cast<uint8_t>(byte);
        std::string why;
        if (!n730::Tokenizer::validate(damaged.data(), damaged.size(), vocab, why)) {
            std::cout << why << "\n";
            continue;
        }
        const n730::Tokenizer tokenizer(damaged.data(), damaged.size());
        std::vector<int32_t> ids;
        for (const std::string &t : texts) tokenizer.encode(t.data(), t.size(), true, ids);
        for (const int32_t id : ids) {
            if (id < 0 || static_cast<uint32_t>(id) >= tokenizer.tokens()) std::cout << "an id beyond the table: ";
            for (const char c : tokenizer.piece(id)) text[0] = c; // touches every byte
        }
        n730::TokenStream stream(tokenizer);
        for (uint32_t id = 0; id < tokenizer.tokens(); id++) stream.push(static_cast<int32_t>(id));
        stream.flush();
        std::cout << "valid " << ids.size() << "\n";
    }
}
