// Windows 7 and later. Files are opened without the system's cache from the start.
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include "disk_file.h"
#include "error.h"

#include <cerrno>
#include <filesystem>
#include <windows.h>

namespace n730::platform {

namespace {

HANDLE as_handle(intptr_t value) { return reinterpret_cast<HANDLE>(value); }

HANDLE open_file(const std::string &path, DiskFile::Kind kind) {
    const std::filesystem::path where = std::filesystem::u8path(path);
    if (kind == DiskFile::Kind::EXISTING)
        return ::CreateFileW(where.wstring().c_str(), GENERIC_READ, FILE_SHARE_READ, nullptr, OPEN_EXISTING,
                             FILE_FLAG_NO_BUFFERING, nullptr);
    const std::wstring name = (where / ("n730-probe-" + std::to_string(::GetCurrentProcessId()))).wstring();
    return ::CreateFileW(name.c_str(), GENERIC_READ | GENERIC_WRITE, 0, nullptr, CREATE_NEW,
                         FILE_FLAG_NO_BUFFERING | FILE_FLAG_DELETE_ON_CLOSE, nullptr);
}

OVERLAPPED at(uint64_t offset) {
    OVERLAPPED where = {};
    where.Offset = static_cast<DWORD>(offset);
    where.OffsetHigh = static_cast<DWORD>(offset >> 32);
    return where;
}

} // namespace

DiskFile::DiskFile(const std::string &path, Kind kind) : handle_(reinterpret_cast<intptr_t>(open_file(path, kind))) {
    if (as_handle(handle_) != INVALID_HANDLE_VALUE) return;
    throw Error(kind == Kind::TEMPORARY ? "cannot create a file in " + path : "cannot open " + path, "",
                "Windows error " + std::to_string(::GetLastError()), "Name another folder with --disk.");
}

DiskFile::~DiskFile() { ::CloseHandle(as_handle(handle_)); }

uint64_t DiskFile::size() const {
    LARGE_INTEGER size;
    return ::GetFileSizeEx(as_handle(handle_), &size) ? static_cast<uint64_t>(size.QuadPart) : 0;
}

bool DiskFile::append(const void *data, size_t n) {
    OVERLAPPED where = at(end_);
    DWORD put = 0;
    if (!::WriteFile(as_handle(handle_), data, static_cast<DWORD>(n), &put, &where) || put != n) {
        errno = ::GetLastError() == ERROR_DISK_FULL ? ENOSPC : EIO;
        return false;
    }
    end_ += put;
    return true;
}

bool DiskFile::go_direct() { return true; }
void DiskFile::forget() {}

bool DiskFile::read(uint64_t offset, void *out, size_t n) const {
    OVERLAPPED where = at(offset);
    DWORD got = 0;
    return ::ReadFile(as_handle(handle_), out, static_cast<DWORD>(n), &got, &where) && got == n;
}

} // namespace n730::platform
