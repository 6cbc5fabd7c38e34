// Linux and other POSIX systems.
#include "platform.h"
#include "error.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <set>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

namespace n730::platform {

namespace {
#ifdef O_DIRECT
constexpr int DIRECT = O_DIRECT;
#else
constexpr int DIRECT = 0;
#endif
constexpr size_t BLOCK = 4096;        // what direct reads are aligned to
constexpr size_t THREAD_STACK = 1 << 20;
constexpr int MOST_EMPTY_READS = 100; // in a row that bring less than a block

void forget_range(int fd, uint64_t offset, uint64_t n) {
#ifdef POSIX_FADV_DONTNEED
    ::posix_fadvise(fd, static_cast<off_t>(offset), static_cast<off_t>(n), POSIX_FADV_DONTNEED);
#else
    (void)fd, (void)offset, (void)n;
#endif
}
} // namespace

File::File(const std::string &path)
    : handle_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), direct_handle_(-1), size_(0) {
    struct stat info;
    if (handle_ < 0 || ::fstat(static_cast<int>(handle_), &info) != 0 || !S_ISREG(info.st_mode)) {
        const std::string why = handle_ < 0 ? std::strerror(errno) : "not a regular file";
        if (handle_ >= 0) ::close(static_cast<int>(handle_));
        throw Error("cannot open " + path, "", why);
    }
    size_ = static_cast<uint64_t>(info.st_size);
    if (DIRECT != 0) direct_handle_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | DIRECT);
    // Between the two calls another file may have taken the name.
    struct stat again;
    direct_ = direct_handle_ >= 0 && ::fstat(static_cast<int>(direct_handle_), &again) == 0 &&
              again.st_dev == info.st_dev && again.st_ino == info.st_ino;
}

File::~File() {
    ::close(static_cast<int>(handle_));
    if (direct_handle_ >= 0) ::close(static_cast<int>(direct_handle_));
}

bool File::read(uint64_t offset, void *out, size_t n) const {
    auto *to = static_cast<uint8_t *>(out);
    while (n > 0) {
        const ssize_t got = ::pread(static_cast<int>(handle_), to, n, static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        to += got, offset += static_cast<uint64_t>(got), n -= static_cast<size_t>(got);
    }
    return true;
}

std::string File::read_direct(uint64_t offset, void *out, size_t n) const {
    auto *to = static_cast<uint8_t *>(out);
    const uint64_t start = offset, size = n;
    for (int empty = 0; n > 0;) {
        const bool direct = direct_.load(std::memory_order_relaxed);
        const int fd = static_cast<int>(direct ? direct_handle_ : handle_);
        const ssize_t got = ::pread(fd, to, n, static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EINVAL && direct) { // some file systems say so only now
            direct_ = false;
            continue;
        }
        if (got < 0) return std::strerror(errno);
        // A read that was cut short goes on where a block begins.
        const size_t whole = static_cast<size_t>(got) / BLOCK * BLOCK;
        empty = whole > 0 ? 0 : empty + 1;
        if (got == 0 || empty > MOST_EMPTY_READS) return "the file has become shorter";
        to += whole, offset += whole, n -= whole;
    }
    if (!direct_.load(std::memory_order_relaxed)) forget_range(static_cast<int>(handle_), start, size);
    return "";
}

void File::forget() const { forget_range(static_cast<int>(handle_), 0, 0); }

std::string read_all(const std::string &path) {
    std::FILE *file = std::fopen(path.c_str(), "rbe");
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

std::FILE *open_write(const std::string &path) { return std::fopen(path.c_str(), "wbe"); }
bool replace_file(const std::string &from, const std::string &to) { return std::rename(from.c_str(), to.c_str()) == 0; }
void remove_file(const std::string &path) { ::unlink(path.c_str()); }

void *allocate(uint64_t bytes) {
    // Huge pages want 2 MiB alignment: take more address space and give back the ends.
    constexpr uint64_t huge = 2u << 20;
    if (bytes > (uint64_t(1) << 46)) return nullptr;
    const uint64_t span = bytes >= huge ? bytes + huge : bytes;
    void *got = ::mmap(nullptr, span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (got == MAP_FAILED) return nullptr;
    if (span == bytes) return got;
    const auto start = reinterpret_cast<uintptr_t>(got);
    const uintptr_t aligned = (start + huge - 1) / huge * huge;
    if (aligned > start) ::munmap(got, aligned - start);
    if (start + span > aligned + bytes)
        ::munmap(reinterpret_cast<void *>(aligned + bytes), start + span - (aligned + bytes));
#ifdef MADV_HUGEPAGE
    ::madvise(reinterpret_cast<void *>(aligned), bytes, MADV_HUGEPAGE);
#endif
    return reinterpret_cast<void *>(aligned);
}

void release(void *memory, uint64_t bytes) { ::munmap(memory, bytes); }

void *open_library(const char *name) { return ::dlopen(name, RTLD_NOW | RTLD_LOCAL); }
void *library_symbol(void *library, const char *name) { return ::dlsym(library, name); }
void close_library(void *library) { ::dlclose(library); }

bool make_executable(void *memory, uint64_t bytes) { return ::mprotect(memory, bytes, PROT_READ | PROT_EXEC) == 0; }

namespace {

// Lines of a small text file of the system; empty if it is not there.
std::string slurp(const std::string &path) {
    std::string text;
    if (std::FILE *f = std::fopen(path.c_str(), "re")) {
        char part[4096];
        size_t got;
        while ((got = std::fread(part, 1, sizeof part, f)) > 0) text.append(part, got);
        std::fclose(f);
    }
    return text;
}

// The number after `key` in `text`; `missing` if the key is not there.
uint64_t number_after(const std::string &text, const std::string &key, uint64_t missing) {
    const size_t at = text.find(key);
    if (at == std::string::npos) return missing;
    const char *digits = text.c_str() + at + key.size();
    char *end;
    const uint64_t value = std::strtoull(digits, &end, 10);
    return end == digits ? missing : value;
}

constexpr uint64_t UNLIMITED = ~uint64_t(0);

// Room in memory, and what no process may have more than.
struct Room {
    uint64_t left, most;
};

// Room that a memory control group and its ancestors leave; page cache counts as free, since it gives way.
void cgroup_room(Room &room, const std::string &root, std::string path, const char *limit, const char *usage) {
    for (;;) {
        const std::string dir = root + path + "/";
        const uint64_t most = number_after("=" + slurp(dir + limit), "=", UNLIMITED);
        if (most != UNLIMITED) {
            const std::string stat = "\n" + slurp(dir + "memory.stat");
            const uint64_t cache = number_after(stat, "\ninactive_file ", 0) + number_after(stat, "\nactive_file ", 0);
            uint64_t used = number_after("=" + slurp(dir + usage), "=", 0);
            used -= std::min(used, cache);
            room.left = std::min(room.left, most - std::min(most, used));
            room.most = std::min(room.most, most);
        }
        const size_t slash = path.rfind('/');
        if (slash == std::string::npos) return;
        path.resize(slash);
    }
}

} // namespace

uint64_t free_ram() {
    Room room{number_after(slurp("/proc/meminfo"), "MemAvailable:", UNLIMITED >> 10) << 10, UNLIMITED};
    const std::string groups = "\n" + slurp("/proc/self/cgroup");
    for (size_t at = 0; (at = groups.find('\n', at)) != std::string::npos; ++at) {
        const std::string line = groups.substr(at + 1, groups.find('\n', at + 1) - at - 1);
        const size_t slash = line.find(":/");
        if (slash == std::string::npos) continue;
        std::string path = line.substr(slash + 1);
        if (path == "/") path.clear();
        if (line.compare(0, 3, "0::") == 0)
            cgroup_room(room, "/sys/fs/cgroup", path, "memory.max", "memory.current");
        else if (line.find(":memory:") != std::string::npos)
            cgroup_room(room, "/sys/fs/cgroup/memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes");
    }
    if (room.left >= UNLIMITED >> 11) return 0;
    // What is ours already: anonymous memory, and what the kernel keeps for us, counted by groups in large steps.
    constexpr uint64_t kernel = 4 << 20;
    return std::min(room.most, room.left + kernel + (number_after(slurp("/proc/self/status"), "RssAnon:", 0) << 10));
}

uint64_t rss() { return number_after(slurp("/proc/self/status"), "VmRSS:", 0) << 10; }

// VmHWM and not getrusage: ru_maxrss is inherited from the parent's image across exec.
uint64_t peak_rss() { return number_after(slurp("/proc/self/status"), "VmHWM:", 0) << 10; }

int physical_cores() {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
    // Hyperthreads of one core name the same set of siblings.
    std::set<std::string> cores;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &allowed)) continue;
        const std::string name = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list";
        const std::string siblings = slurp(name);
        cores.insert(siblings.empty() ? std::to_string(cpu) : siblings);
    }
    int count = std::max<int>(1, static_cast<int>(cores.size()));
    // A container's share of processor time: more threads than that would wait for each other.
    const std::string v2 = "=" + slurp("/sys/fs/cgroup/cpu.max");
    uint64_t quota = number_after(v2, "=", 0), period = number_after(v2, " ", 0);
    if (quota == 0) {
        quota = number_after("=" + slurp("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), "=", 0);
        period = number_after("=" + slurp("/sys/fs/cgroup/cpu/cpu.cfs_period_us"), "=", 0);
        if (quota > UNLIMITED / 2) quota = 0; // -1: no limit
    }
    if (quota > 0 && period > 0) count = std::min<int>(count, static_cast<int>(std::max<uint64_t>(1, quota / period)));
    return count;
}

double seconds() {
    struct timespec now;
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

bool stdout_is_tty() { return ::isatty(1) == 1; }
bool stderr_is_tty() { return ::isatty(2) == 1; }

bool escapes_work() {
    struct stat out, err;
    const char *kind = std::getenv("TERM");
    return stdout_is_tty() && stderr_is_tty() && ::fstat(1, &out) == 0 && ::fstat(2, &err) == 0 &&
           out.st_rdev == err.st_rdev && kind != nullptr && *kind != '\0' && std::strcmp(kind, "dumb") != 0;
}

namespace {
volatile std::sig_atomic_t interrupt_flag = 0; // the signal; a handler can reach nothing else

void on_interrupt(int signal) {
    interrupt_flag = signal;
    ::signal(signal, SIG_DFL);
}
} // namespace

void catch_interrupt() {
    std::signal(SIGINT, on_interrupt);
    std::signal(SIGTERM, on_interrupt); // unfinished files are removed on both
}
bool interrupted() { return interrupt_flag != 0; }
bool forget_interrupt() {
    if (interrupt_flag == SIGTERM) return false;
    interrupt_flag = 0;
    std::signal(SIGINT, on_interrupt);
    return true;
}

struct Input::State {
    bool terminal = false, raw = false, ended = false;
    struct termios before = {};
    std::string buffer;
    size_t at = 0;

    // False at the end of the input. Ctrl-C is looked for several times a second.
    bool fill() {
        while (!wait(100))
            if (interrupted()) throw Interrupted();
        char part[4096];
        const ssize_t got = ::read(0, part, sizeof part);
        buffer.assign(part, got > 0 ? static_cast<size_t>(got) : 0);
        at = 0;
        ended = got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN);
        return !ended;
    }
    bool wait(int milliseconds) const {
        struct pollfd input = {0, POLLIN, 0};
        return ::poll(&input, 1, milliseconds) > 0;
    }
};

Input::Input() : state_(new State) {
    const char *kind = std::getenv("TERM");
    state_->terminal = ::isatty(0) == 1 && ::tcgetattr(0, &state_->before) == 0 && kind != nullptr &&
                       *kind != '\0' && std::strcmp(kind, "dumb") != 0;
}

Input::~Input() {
    raw(false);
    delete state_;
}

bool Input::interactive() const { return ::isatty(0) == 1; }

bool Input::raw(bool on) {
    if (!state_->terminal) return false;
    if (on == state_->raw) return true;
    struct termios now = state_->before;
    if (on) {
        now.c_iflag &= ~static_cast<tcflag_t>(BRKINT | ICRNL | INPCK | ISTRIP | IXON);
        now.c_lflag &= ~static_cast<tcflag_t>(ECHO | ICANON | IEXTEN | ISIG);
        now.c_cc[VMIN] = 1;
        now.c_cc[VTIME] = 0;
    }
    if (::tcsetattr(0, TCSADRAIN, &now) != 0) return false;
    state_->raw = on;
    return true;
}

int Input::byte() {
    while (state_->at >= state_->buffer.size())
        if (state_->ended || !state_->fill()) return -1;
    return static_cast<unsigned char>(state_->buffer[state_->at++]);
}

bool Input::ready(int milliseconds) {
    return state_->at < state_->buffer.size() || (!state_->ended && state_->wait(milliseconds));
}

bool Input::line(std::string &text) {
    text.clear();
    for (int c; (c = byte()) != '\n'; text += static_cast<char>(c))
        if (c < 0) return !text.empty();
    if (!text.empty() && text.back() == '\r') text.pop_back();
    return true;
}

int Input::columns() const {
    struct winsize size = {};
    return ::ioctl(2, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::vector<std::string> start(int argc, char **argv) {
    // A closed standard stream must not become the number of a file opened later.
    for (int fd = 0; fd < 3; ++fd)
        if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) < 0) std::abort();
    std::signal(SIGPIPE, SIG_IGN); // a closed pipe is an error of fwrite, said in one line
    std::signal(SIGXFSZ, SIG_IGN); // and so is a file-size limit
#ifdef __GLIBC__
    // Threads of ours need little, and one huge page under each stack would be 2 MiB of RAM for it.
    pthread_attr_t attributes;
    if (::pthread_attr_init(&attributes) == 0) {
        ::pthread_attr_setstacksize(&attributes, THREAD_STACK);
        ::pthread_setattr_default_np(&attributes);
        ::pthread_attr_destroy(&attributes);
    }
#endif
    return std::vector<std::string>(argv, argv + argc);
}

} // namespace n730::platform
