// Linux and other POSIX systems.
#include "disk_file.h"
#include "error.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace n730::platform {

namespace {

int open_temporary(const std::string &folder) {
    const std::string path = folder + "/.n730-probe-" + std::to_string(::getpid());
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0) ::unlink(path.c_str()); // at once: nothing is left behind even by kill -9
    return fd;
}

} // namespace

DiskFile::DiskFile(const std::string &path, Kind kind)
    : handle_(kind == Kind::TEMPORARY ? open_temporary(path) : ::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (handle_ >= 0) return;
    const std::string why = std::strerror(errno);
    throw Error(kind == Kind::TEMPORARY ? "cannot create a file in " + path : "cannot open " + path, "", why,
                "Name another folder with --disk.");
}

DiskFile::~DiskFile() { ::close(static_cast<int>(handle_)); }

uint64_t DiskFile::size() const {
    struct stat info;
    return ::fstat(static_cast<int>(handle_), &info) == 0 ? static_cast<uint64_t>(info.st_size) : 0;
}

bool DiskFile::append(const void *data, size_t n) {
    const auto *from = static_cast<const uint8_t *>(data);
    while (n > 0) {
        const ssize_t put = ::pwrite(static_cast<int>(handle_), from, n, static_cast<off_t>(end_));
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return false;
        from += put, end_ += static_cast<uint64_t>(put), n -= static_cast<size_t>(put);
    }
    int done;
    do done = ::fsync(static_cast<int>(handle_));
    while (done != 0 && errno == EINTR);
    return done == 0;
}

bool DiskFile::go_direct() {
#ifdef O_DIRECT
    const int fd = static_cast<int>(handle_);
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_DIRECT) != 0) return false;
    // Some file systems take the flag and refuse the reads.
    void *page = nullptr;
    if (::posix_memalign(&page, 4096, 4096) != 0) return false;
    const bool good = ::pread(fd, page, 4096, 0) == 4096;
    std::free(page);
    if (!good) ::fcntl(fd, F_SETFL, flags);
    return good;
#else
    return false;
#endif
}

void DiskFile::forget() {
#ifdef POSIX_FADV_DONTNEED
    ::posix_fadvise(static_cast<int>(handle_), 0, 0, POSIX_FADV_DONTNEED);
#endif
}

bool DiskFile::read(uint64_t offset, void *out, size_t n) const {
    auto *to = static_cast<uint8_t *>(out);
    while (n > 0) {
        const ssize_t got = ::pread(static_cast<int>(handle_), to, n, static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        to += got, offset += static_cast<uint64_t>(got), n -= static_cast<size_t>(got);
    }
    return true;
}

} // namespace n730::platform
