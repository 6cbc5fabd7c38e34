#include "npy.h"
#include "error.h"
#include "platform.h"

#include <cerrno>
#include <cstring>
#include <filesystem>

namespace n730 {

namespace {

namespace fs = std::filesystem;
constexpr char MAGIC[] = "\x93NUMPY";
constexpr size_t MAGIC_BYTES = sizeof MAGIC - 1;

[[noreturn]] void refuse(const std::string &path, const std::string &found) {
    throw Error("will not overwrite " + path, "a new file or an older .npy file", found,
                "Name another file with --logits.");
}

// Where to write for `path`: only NumPy files and empty ones may be replaced, never a device, a pipe or a text; a link
// keeps pointing where it did.
std::string destination(const std::string &path) {
    const fs::path asked = fs::u8path(path);
    std::error_code error;
    if (!fs::exists(fs::symlink_status(asked, error))) return path;
    if (!fs::exists(asked, error)) refuse(path, "a link to nothing");
    if (!fs::is_regular_file(asked, error))
        refuse(path, fs::is_directory(asked, error) ? "a folder" : "a device or a pipe");
    const fs::path real = fs::canonical(asked, error);
    if (error) refuse(path, error.message());
    if (fs::file_size(real, error) > 0) {
        char start[MAGIC_BYTES] = {};
        const platform::File file(real.u8string());
        if (!file.read(0, start, MAGIC_BYTES) || std::memcmp(start, MAGIC, MAGIC_BYTES) != 0)
            refuse(path, "another kind of file");
    }
    return real.u8string();
}

} // namespace

// Format 1.0 of numpy.lib.format: magic, version, little-endian length of the header, a Python dict padded to 64.
NpyWriter::NpyWriter(const std::string &path, int64_t rows, int64_t cols)
    : path_(destination(path)), temporary_(path_ + ".unfinished"), cols_(cols), file_(platform::open_write(temporary_)) {
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
