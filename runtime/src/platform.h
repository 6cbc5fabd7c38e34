// Everything that differs between operating systems. platform_posix.cpp and platform_windows.cpp implement it; no
// other file calls the system.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace n730::platform {

// To be called first: makes the standard streams safe to use and gives the arguments in UTF-8.
std::vector<std::string> start(int argc, char **argv);

// A file opened for reading at offsets. Paths are UTF-8.
class File {
  public:
    explicit File(const std::string &path); // throws Error (what the system said) if it cannot be opened
    ~File();
    File(const File &) = delete;
    File &operator=(const File &) = delete;
    uint64_t size() const { return size_; }
    // Reads exactly `n` bytes at `offset`; false if they cannot be had.
    bool read(uint64_t offset, void *out, size_t n) const;
    // The same past the page cache, for many reads of the same bytes: whole pages of the file to a page of memory, any
    // number of threads at once. Empty, or what went wrong.
    std::string read_direct(uint64_t offset, void *out, size_t n) const;
    // False once the file system has refused that: then the page cache is used, and given back after each read.
    bool direct() const { return direct_.load(); }
    void forget() const; // gives back what the page cache holds of the file, as far as the system lets us

  private:
    intptr_t handle_, direct_handle_;
    uint64_t size_;
    mutable std::atomic<bool> direct_{false};
};

std::string read_all(const std::string &path);  // a file or a pipe; throws Error (what the system said)
std::FILE *open_write(const std::string &path); // nullptr: errno says why
bool replace_file(const std::string &from, const std::string &to);
void remove_file(const std::string &path);

// Zeroed memory of `bytes`, on huge pages where the system has them; nullptr if there is not enough.
void *allocate(uint64_t bytes);
void release(void *memory, uint64_t bytes);

// Memory for code: writable first, then executable and no longer writable.
bool make_executable(void *memory, uint64_t bytes);

// A library of the system, by its plain file name; nullptr if there is none. And what it exports, likewise.
void *open_library(const char *name);
void *library_symbol(void *library, const char *name);
void close_library(void *library);

uint64_t free_ram();  // bytes that this process can have in all without swapping, limits of control groups included;
                      // 0: unknown
uint64_t rss();       // bytes of memory that this process has now
uint64_t peak_rss();  // and the most so far
int physical_cores(); // that this process may use, at least 1
double seconds();     // a monotonic clock
bool stdout_is_tty();
bool stderr_is_tty();
bool escapes_work(); // stdout and stderr are one terminal that understands ANSI escape sequences
void catch_interrupt(); // from now on Ctrl-C sets a flag; a second one ends the process
bool interrupted();
// Forgets a Ctrl-C, so that the next one sets the flag again. False, and nothing is forgotten, if the process is to end.
bool forget_interrupt();

// What a user types. In raw mode keys come one by one and are not shown; otherwise lines.
class Input {
  public:
    Input();
    ~Input();
    Input(const Input &) = delete;
    Input &operator=(const Input &) = delete;
    bool interactive() const; // a terminal
    bool raw(bool on);        // false: it cannot be had
    int byte();               // raw: the next, or -1 at the end of the input
    bool ready(int milliseconds); // raw: comes a byte within that time?
    bool line(std::string &text); // UTF-8 without the line's end; false at the end of the input. Throws Interrupted
    int columns() const;

  private:
    struct State;
    State *state_;
};
inline void cpu_pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

} // namespace n730::platform
