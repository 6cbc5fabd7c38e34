// Windows 7 and later; needs KERNEL32 and msvcrt only.
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#define PSAPI_VERSION 2
#include "platform.h"
#include "error.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <io.h>
#include <windows.h>
#include <psapi.h>

extern "C" int __wgetmainargs(int *, wchar_t ***, wchar_t ***, int, int *); // msvcrt

namespace n730::platform {

namespace {
std::wstring wide(const std::string &text) {
    const int n = ::MultiByteToWideChar(CP_UTF8, 0, text.data(), static_cast<int>(text.size()), nullptr, 0);
    std::wstring out(static_cast<size_t>(n), L'\0');
    ::MultiByteToWideChar(CP_UTF8, 0, text.data(), static_cast<int>(text.size()), &out[0], n);
    return out;
}
HANDLE as_handle(intptr_t value) { return reinterpret_cast<HANDLE>(value); }
} // namespace

File::File(const std::string &path)
    : handle_(reinterpret_cast<intptr_t>(::CreateFileW(wide(path).c_str(), GENERIC_READ, FILE_SHARE_READ, nullptr,
                                                       OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr))),
      direct_handle_(-1), size_(0) {
    LARGE_INTEGER size;
    if (as_handle(handle_) != INVALID_HANDLE_VALUE && ::GetFileSizeEx(as_handle(handle_), &size)) {
        size_ = static_cast<uint64_t>(size.QuadPart);
        // Overlapped, as Windows would otherwise let the threads read one after the other. While the first handle is
        // open nobody else may write to or rename the file: both are of the same one.
        direct_handle_ = reinterpret_cast<intptr_t>(
            ::CreateFileW(wide(path).c_str(), GENERIC_READ, FILE_SHARE_READ, nullptr, OPEN_EXISTING,
                          FILE_FLAG_NO_BUFFERING | FILE_FLAG_OVERLAPPED, nullptr));
        direct_ = as_handle(direct_handle_) != INVALID_HANDLE_VALUE;
        return;
    }
    const std::string why = "Windows error " + std::to_string(::GetLastError());
    if (as_handle(handle_) != INVALID_HANDLE_VALUE) ::CloseHandle(as_handle(handle_));
    throw Error("cannot open " + path, "", why);
}

File::~File() {
    ::CloseHandle(as_handle(handle_));
    if (as_handle(direct_handle_) != INVALID_HANDLE_VALUE) ::CloseHandle(as_handle(direct_handle_));
}

std::string File::read_direct(uint64_t offset, void *out, size_t n) const {
    auto *to = static_cast<uint8_t *>(out);
    OVERLAPPED at = {};
    at.hEvent = ::CreateEventW(nullptr, TRUE, FALSE, nullptr);
    if (at.hEvent == nullptr) return "Windows error " + std::to_string(::GetLastError());
    DWORD error = 0;
    for (int empty = 0; n > 0 && error == 0;) {
        if (!direct_.load(std::memory_order_relaxed)) {
            if (!read(offset, to, n)) error = ::GetLastError() != 0 ? ::GetLastError() : ERROR_HANDLE_EOF;
            break;
        }
        at.Offset = static_cast<DWORD>(offset);
        at.OffsetHigh = static_cast<DWORD>(offset >> 32);
        DWORD got = 0; // `n` is at most 2^26
        const BOOL good = ::ReadFile(as_handle(direct_handle_), to, static_cast<DWORD>(n), nullptr, &at) ||
                          ::GetLastError() == ERROR_IO_PENDING;
        if (!good || !::GetOverlappedResult(as_handle(direct_handle_), &at, &got, TRUE)) {
            error = ::GetLastError();
            if (error == ERROR_INVALID_PARAMETER) direct_ = false, error = 0; // the disk wants another alignment
            continue;
        }
        const size_t whole = got / 4096 * 4096; // what was cut short goes on where a block begins
        empty = whole > 0 ? 0 : empty + 1;
        if (got == 0 || empty > 100) error = ERROR_HANDLE_EOF;
        to += whole, offset += whole, n -= whole;
    }
    ::CloseHandle(at.hEvent);
    if (error == ERROR_HANDLE_EOF) return "the file has become shorter";
    return error == 0 ? "" : "Windows error " + std::to_string(error);
}

void File::forget() const {} // Windows drops what it holds of a file that is opened without buffering

bool File::read(uint64_t offset, void *out, size_t n) const {
    auto *to = static_cast<uint8_t *>(out);
    while (n > 0) {
        OVERLAPPED at = {};
        at.Offset = static_cast<DWORD>(offset);
        at.OffsetHigh = static_cast<DWORD>(offset >> 32);
        const DWORD want = static_cast<DWORD>(n < (1u << 30) ? n : (1u << 30));
        DWORD got = 0;
        if (!::ReadFile(as_handle(handle_), to, want, &got, &at) || got == 0) return false;
        to += got, offset += got, n -= got;
    }
    return true;
}

std::string read_all(const std::string &path) {
    std::FILE *file = ::_wfopen(wide(path).c_str(), L"rb");
    std::string text;
    bool good = file != nullptr;
    if (good) {
        char part[65536];
        size_t got;
        while ((got = std::fread(part, 1, sizeof part, file)) > 0) text.append(part, got);
        good = std::ferror(file) == 0;
    }
    const std::string why = std::strerror(errno);
    if (file != nullptr) std::fclose(file);
    if (!good) throw Error("cannot read " + path, "", why, "Check the path.");
    return text;
}

std::FILE *open_write(const std::string &path) { return ::_wfopen(wide(path).c_str(), L"wb"); }
bool replace_file(const std::string &from, const std::string &to) {
    return ::MoveFileExW(wide(from).c_str(), wide(to).c_str(), MOVEFILE_REPLACE_EXISTING) != 0;
}
void remove_file(const std::string &path) { ::DeleteFileW(wide(path).c_str()); }

void *allocate(uint64_t bytes) { return ::VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE); }
void release(void *memory, uint64_t) { ::VirtualFree(memory, 0, MEM_RELEASE); }
// From the system's folder, and from nowhere that a download may have put a file of that name. Windows 7 knows the flag from an
// update of 2011 on (KB2533623); without it the path says as much.
void *open_library(const char *name) {
    constexpr DWORD SYSTEM_ONLY = 0x00000800; // LOAD_LIBRARY_SEARCH_SYSTEM32
    if (const HMODULE library = ::LoadLibraryExA(name, nullptr, SYSTEM_ONLY)) return library;
    if (::GetLastError() != ERROR_INVALID_PARAMETER) return nullptr;
    char folder[MAX_PATH];
    const UINT length = ::GetSystemDirectoryA(folder, MAX_PATH);
    if (length == 0 || length >= MAX_PATH) return nullptr;
    return ::LoadLibraryExA((std::string(folder, length) + "\\" + name).c_str(), nullptr, LOAD_WITH_ALTERED_SEARCH_PATH);
}
void *library_symbol(void *library, const char *name) {
    return reinterpret_cast<void *>(::GetProcAddress(static_cast<HMODULE>(library), name));
}
void close_library(void *library) { ::FreeLibrary(static_cast<HMODULE>(library)); }

bool make_executable(void *memory, uint64_t bytes) {
    DWORD before;
    return ::VirtualProtect(memory, bytes, PAGE_EXECUTE_READ, &before) != 0;
}

uint64_t free_ram() {
    MEMORYSTATUSEX status = {};
    status.dwLength = sizeof status;
    return ::GlobalMemoryStatusEx(&status) ? status.ullAvailPhys : 0;
}

namespace {
PROCESS_MEMORY_COUNTERS memory_counters() {
    PROCESS_MEMORY_COUNTERS counters = {};
    if (!::K32GetProcessMemoryInfo(::GetCurrentProcess(), &counters, sizeof counters)) return {};
    return counters;
}
} // namespace

uint64_t rss() { return memory_counters().WorkingSetSize; }
uint64_t peak_rss() { return memory_counters().PeakWorkingSetSize; }

int physical_cores() {
    DWORD bytes = 0;
    ::GetLogicalProcessorInformation(nullptr, &bytes);
    std::vector<SYSTEM_LOGICAL_PROCESSOR_INFORMATION> info(bytes / sizeof(SYSTEM_LOGICAL_PROCESSOR_INFORMATION));
    if (info.empty() || !::GetLogicalProcessorInformation(info.data(), &bytes)) return 1;
    DWORD_PTR allowed = 0, all = 0;
    ::GetProcessAffinityMask(::GetCurrentProcess(), &allowed, &all);
    int cores = 0;
    for (const auto &item : info) cores += item.Relationship == RelationProcessorCore && (item.ProcessorMask & allowed);
    return cores > 0 ? cores : 1;
}

double seconds() {
    LARGE_INTEGER now, frequency;
    ::QueryPerformanceCounter(&now);
    ::QueryPerformanceFrequency(&frequency);
    return static_cast<double>(now.QuadPart) / static_cast<double>(frequency.QuadPart);
}

bool stdout_is_tty() { return ::_isatty(1) != 0; }
bool stderr_is_tty() { return ::_isatty(2) != 0; }
bool escapes_work() { return false; } // not before Windows 10

namespace {
volatile LONG interrupt_flag = 0; // the console's handler thread can reach nothing else

BOOL WINAPI on_console(DWORD event) {
    if (event != CTRL_C_EVENT && event != CTRL_BREAK_EVENT) return FALSE;
    return ::InterlockedExchange(&interrupt_flag, 1) == 0; // the second one ends the process
}
} // namespace

void catch_interrupt() { ::SetConsoleCtrlHandler(on_console, TRUE); }
bool interrupted() { return interrupt_flag != 0; }
bool forget_interrupt() {
    ::InterlockedExchange(&interrupt_flag, 0);
    return true;
}

// The console edits lines itself, with a history of its own.
struct Input::State {
    std::wstring pending;
};

Input::Input() : state_(new State) {}
Input::~Input() { delete state_; }
bool Input::interactive() const { return ::_isatty(0) != 0; }
bool Input::raw(bool) { return false; }
int Input::byte() { return -1; }
bool Input::ready(int) { return false; }
int Input::columns() const { return 80; }

bool Input::line(std::string &text) {
    text.clear();
    if (!interactive()) {
        for (int c; (c = std::fgetc(stdin)) != '\n'; text += static_cast<char>(c))
            if (c == EOF) return !text.empty();
    } else {
        std::wstring &pending = state_->pending;
        size_t end;
        while ((end = pending.find(L'\n')) == std::wstring::npos) {
            wchar_t part[1024];
            DWORD got = 0;
            if (!::ReadConsoleW(::GetStdHandle(STD_INPUT_HANDLE), part, 1024, &got, nullptr)) return false;
            if (got == 0) throw Interrupted(); // Ctrl-C
            pending.append(part, got);
            if (pending.find(L'\x1a') != std::wstring::npos) return false; // Ctrl-Z
        }
        const int n = ::WideCharToMultiByte(CP_UTF8, 0, pending.data(), static_cast<int>(end), nullptr, 0, nullptr, nullptr);
        text.resize(static_cast<size_t>(n));
        ::WideCharToMultiByte(CP_UTF8, 0, pending.data(), static_cast<int>(end), &text[0], n, nullptr, nullptr);
        pending.erase(0, end + 1);
    }
    if (!text.empty() && text.back() == '\r') text.pop_back();
    return true;
}

std::vector<std::string> start(int, char **) {
    ::SetConsoleOutputCP(CP_UTF8);
    ::_setmode(1, _O_BINARY); // no \r added to generated text
    // The arguments in Unicode, with `*` left alone: a prompt may hold it.
    int argc = 0, startup = 0;
    wchar_t **argv = nullptr, **environment = nullptr;
    ::__wgetmainargs(&argc, &argv, &environment, 0, &startup);
    std::vector<std::string> arguments;
    for (int i = 0; i < argc; ++i) {
        const int n = ::WideCharToMultiByte(CP_UTF8, 0, argv[i], -1, nullptr, 0, nullptr, nullptr);
        std::string text(static_cast<size_t>(n), '\0');
        ::WideCharToMultiByte(CP_UTF8, 0, argv[i], -1, &text[0], n, nullptr, nullptr);
        text.resize(text.empty() ? 0 : text.size() - 1);
        arguments.push_back(text);
    }
    return arguments;
}

} // namespace n730::platform
