// Asks the runtime's validator about many packages in one process. Reads requests from stdin, answers a line each:
//   'P' u64 size, bytes   is this package right? It stays loaded.     → OK or a code
//   'C'                   the loaded package cut at every length      → counts of answers, "CODE:count …"
//   'F' u64 end           every bit before `end` flipped, one by one  → the same
#include "package.h"

#include <cstdio>
#include <map>
#include <string>
#include <vector>

namespace {

std::string verify(const uint8_t *data, size_t size) {
    try {
        const n730::MemorySource source(data, size);
        const n730::Package package = n730::read_package(source);
        n730::verify_segments(package, nullptr);
        return "OK";
    } catch (const n730::PackageError &error) {
        return error.code;
    }
}

bool read_u64(uint64_t &out) {
    uint8_t bytes[8];
    if (std::fread(bytes, 1, 8, stdin) != 8) return false;
    out = n730::be64(bytes);
    return true;
}

void answer(const std::string &text) {
    std::puts(text.c_str());
    std::fflush(stdout);
}

void answer(const std::map<std::string, uint64_t> &counts) {
    std::string text;
    for (const auto &[code, count] : counts) text += code + ":" + std::to_string(count) + " ";
    answer(text);
}

} // namespace

int main() {
    std::vector<uint8_t> package;
    for (int request; (request = std::getchar()) != EOF;) {
        uint64_t n = 0;
        std::map<std::string, uint64_t> counts;
        if (request == 'P') {
            if (!read_u64(n)) return 1;
            package.assign(n, 0);
            if (std::fread(package.data(), 1, n, stdin) != n) return 1;
            answer(verify(package.data(), package.size()));
        } else if (request == 'C') {
            for (size_t size = 0; size < package.size(); ++size) {
                const std::vector<uint8_t> part(package.begin(), package.begin() + static_cast<ptrdiff_t>(size));
                ++counts[verify(part.data(), part.size())];
            }
            answer(counts);
        } else if (request == 'F') {
            if (!read_u64(n)) return 1;
            for (uint64_t bit = 0; bit < 8 * n; ++bit) {
                package[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
                ++counts[verify(package.data(), package.size())];
                package[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
            }
            answer(counts);
        } else {
            return 1;
        }
    }
    return 0;
}
