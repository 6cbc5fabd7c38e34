#include "npy.h"
#include "error.h"
#include "output_path.h"
#include "platform.h"

#include <cerrno>
#include <cstring>

namespace n730 {

namespace {

constexpr char MAGIC[] = "\x93NUMPY";

} // namespace

// Format 1.0 of numpy.lib.format: magic, version, little-endian length of the header, a Python dict padded to 64.
NpyWriter::NpyWriter(const std::string &path, int64_t rows, int64_t cols)
    : path_(output_path(path, MAGIC, ".npy file", "--logits")), temporary_(path_ + ".unfinished"), cols_(cols),
      file_(platform::open_write(temporary_)) {
    if (file_ == nullptr) fail();
    std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(rows) + ", " +
                         std::to_string(cols) + "), }";
    header.append((64 - (10 + header.size() + 1) % 64) % 64, ' ').push_back('\n');
    std::string start(MAGIC);
    start += std::string("\x01\x00", 2);
    start.push_back(static_cast<char>(header.size() & 0xFF));
    start.push_back(static_cast<char>(header.size() >> 8));
    start += header;
    if (std::fwrite(start.data(), 1, start.size(), file_) != start.size()) fail();
}

NpyWriter::~NpyWriter() {
    if (file_ == nullptr) return;
    std::fclose(file_);
    platform::remove_file(temporary_);
}

void NpyWriter::fail() {
    const std::string why = std::strerror(errno);
    if (file_ != nullptr) {
        std::fclose(file_);
        file_ = nullptr;
        platform::remove_file(temporary_);
    }
    throw Error("cannot write " + path_, "", why, "Name another file with --logits.");
}

void NpyWriter::row(const float *values) {
    const size_t n = static_cast<size_t>(cols_);
    if (std::fwrite(values, sizeof(float), n, file_) != n) fail();
}

void NpyWriter::finish() {
    std::FILE *file = file_;
    if (std::fflush(file) != 0) fail();
    file_ = nullptr;
    if (std::fclose(file) != 0 || !platform::replace_file(temporary_, path_)) {
        const std::string why = std::strerror(errno);
        platform::remove_file(temporary_);
        throw Error("cannot write " + path_, "", why, "Name another file with --logits.");
    }
}

} // namespace n730
