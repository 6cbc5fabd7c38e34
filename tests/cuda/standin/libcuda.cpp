/* A stand-in for libcuda.so.1: the driver calls that the runtime makes, with kernels run by fibers (../emulator).
 *
 * Streams are worker threads and everything on them is asynchronous. A module is found by the hash (FNV-1a, 64 bits) of its image: the
 * kernels' g++-built twin is N730_CUDA_TWINS/HASH.so. What else the environment sets:
 *     N730_CUDA_DEVICE   name,major,minor (default "GeForce GT 730,3,5"); "none": no device
 *     N730_CUDA_DRIVER   version (default 11040, that of R470)
 *     N730_CUDA_VRAM     bytes that can be allocated (default 2 GiB)
 *     N730_CUDA_DELAY    microseconds that each piece of work on a stream takes longer
 *     N730_CUDA_TIMES    a file of lines NAME FIXED EACH EACH_TOKEN: kernels and copies (copy_up, copy_down) do nothing but take a card's
 *                        time on the clock, FIXED + units × max(EACH, tokens × EACH_TOKEN) seconds; a unit is a work item or a byte.
 *                        FIXED of "call" is what asking for either takes of the caller
 *     N730_CUDA_FAIL     name:n:code, the n-th call (from 1) of that name fails so; commas between several. A failing launch or
 *                        asynchronous copy fails when it runs, and like a lost device everything after it.
 * What a real driver leaves undefined ends the process with a message: memory that is not the device's, asynchronous copies
 * from memory that is not pinned, use of what was freed. */
#include <dlfcn.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include "call.h"
#include "registry.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_IMAGE = 200, NOT_FOUND = 500, NOT_READY = 600, LAUNCH_FAILED = 719 };
typedef int Result;
typedef unsigned long long Pointer; /* CUdeviceptr */

[[noreturn]] void die(const std::string &what) {
    fprintf(stderr, "stand-in libcuda: %s\n", what.c_str());
    abort();
}
std::string setting(const char *name, const char *otherwise) {
    const char *v = getenv(name);
    return v && *v ? v : otherwise;
}

struct Memory {
    std::mutex mutex;
    std::map<Pointer, size_t> device, pinned; /* start → bytes */
    size_t used = 0, most = 0, copied = 0; /* bytes: allocated now, at most; brought to the device */
};
typedef std::chrono::steady_clock Clock;
typedef std::chrono::nanoseconds Nanoseconds;
struct Event {
    std::atomic<unsigned> asked{0}, reached{0}; /* times that it was recorded, and that a stream came to that */
    std::atomic<Clock::time_point> when{};      /* the stream's time then */
    bool done() const { return reached >= asked && Clock::now() >= when.load(); }
};
struct Stream {
    std::mutex mutex;
    std::condition_variable more, idle;
    std::deque<std::function<void()>> work;
    bool busy = false, stop = false;
    Clock::time_point time{}; /* when what it has done is over */
    std::thread thread;
};
struct Times {
    double fixed, each, each_token;
};
struct Module {
    void *library;
    const emulator::Entry *registry;
};

Memory memory;
std::atomic<long long> busy{0}, computing{0}; /* nanoseconds that streams were at work, delays included; of it in kernels */
std::atomic<int> lost{0}; /* the error that ended the device */
std::mutex counts_mutex;
std::map<std::string, int> counts;
std::set<Stream *> streams;
std::mutex streams_mutex;

/* What the environment wants of this call of `name`, 0 if nothing. */
int wanted(const std::string &name) {
    std::lock_guard<std::mutex> hold(counts_mutex);
    const int n = ++counts[name];
    std::string rest = setting("N730_CUDA_FAIL", "");
    while (!rest.empty()) {
        const size_t comma = rest.find(',');
        const std::string one = rest.substr(0, comma);
        rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
        const size_t a = one.find(':'), b = one.rfind(':');
        if (a == std::string::npos || a == b) die("N730_CUDA_FAIL wants name:n:code");
        if (one.substr(0, a) == name && atoi(one.c_str() + a + 1) == n) return atoi(one.c_str() + b + 1);
    }
    return 0;
}
#define CHECK(name)                                     \
    do {                                                \
        if (const int code = wanted(name)) return code; \
        if (const int code = lost.load()) return code;  \
    } while (0)

bool inside(const std::map<Pointer, size_t> &ranges, Pointer p, size_t bytes) {
    auto after = ranges.upper_bound(p);
    if (after == ranges.begin()) return false;
    --after;
    return p + bytes <= after->first + after->second;
}
void need_device(Pointer p, size_t bytes, const char *what) {
    std::lock_guard<std::mutex> hold(memory.mutex);
    if (!inside(memory.device, p, bytes)) die(std::string(what) + " touches memory that is not the device's");
}
void need_pinned(const void *p, size_t bytes, const char *what) {
    std::lock_guard<std::mutex> hold(memory.mutex);
    if (!inside(memory.pinned, reinterpret_cast<Pointer>(p), bytes)) die(std::string(what) + " from or to memory that is not pinned");
}

/* What N730_CUDA_TIMES says; empty: work takes the time that it takes here. */
const std::map<std::string, Times> &times() {
    static const std::map<std::string, Times> all = [] {
        std::map<std::string, Times> read;
        std::ifstream file(setting("N730_CUDA_TIMES", "/dev/null"));
        std::string name;
        for (Times t; file >> name >> t.fixed >> t.each >> t.each_token;) read[name] = t;
        return read;
    }();
    return all;
}
/* What work takes on the clock of its stream; 0 without N730_CUDA_TIMES. */
Nanoseconds modelled(const std::string &name, double units, double tokens) {
    if (times().empty()) return {};
    const auto found = times().find(name);
    if (found == times().end()) die("N730_CUDA_TIMES has no " + name);
    const Times &t = found->second;
    return Nanoseconds((long long)(1e9 * (t.fixed + units * std::max(t.each, tokens * t.each_token))));
}
/* Whoever waits for a card that is still at work does so awake, as with a real driver, unless it takes long. */
void wait_until(Clock::time_point when) {
    const auto left = when - Clock::now();
    if (left > std::chrono::milliseconds(5)) std::this_thread::sleep_for(left - std::chrono::milliseconds(2));
    while (Clock::now() < when) {
    }
}

void serve(Stream *s) {
    std::unique_lock<std::mutex> hold(s->mutex);
    for (;;) {
        s->more.wait(hold, [&] { return s->stop || !s->work.empty(); });
        if (s->work.empty()) return;
        auto next = std::move(s->work.front());
        s->work.pop_front();
        s->busy = true;
        hold.unlock();
        const int delay = atoi(setting("N730_CUDA_DELAY", "0").c_str());
        const auto start = Clock::now();
        if (delay) std::this_thread::sleep_for(std::chrono::microseconds(delay));
        next();
        s->time = Clock::now();
        busy += Nanoseconds(s->time - start).count();
        hold.lock();
        s->busy = false;
        if (s->work.empty()) s->idle.notify_all();
    }
}
/* `takes`: on the stream's clock, where that is modelled: what is asked for is over at once then, and whoever waits for it waits for the clock. */
void enqueue(Stream *s, std::function<void()> work, Nanoseconds takes = {}) {
    if (!s) die("work on the default stream, which waits for all others");
    if (!times().empty()) {
        const auto now = Clock::now();
        work();
        if (takes == Nanoseconds()) return;
        s->time = std::max(s->time, now) + takes;
        busy += takes.count();
        wait_until(now + modelled("call", 0, 0));
        return;
    }
    std::lock_guard<std::mutex> hold(s->mutex);
    s->work.push_back(std::move(work));
    s->more.notify_one();
}
void drain(Stream *s) {
    std::unique_lock<std::mutex> hold(s->mutex);
    s->idle.wait(hold, [&] { return s->work.empty() && !s->busy; });
    wait_until(s->time);
}

/* Bytes of an image: an ELF file to the end of its last section or section table, PTX to its zero. */
size_t image_bytes(const void *image) {
    const auto *p = static_cast<const unsigned char *>(image);
    if (memcmp(p, "\x7f" "ELF", 4) != 0) return strlen(static_cast<const char *>(image));
    uint64_t sections, end = 0;
    uint16_t size, count;
    memcpy(&sections, p + 40, 8);
    memcpy(&size, p + 58, 2);
    memcpy(&count, p + 60, 2);
    end = sections + uint64_t(size) * count;
    for (unsigned i = 0; i < count; i++) {
        uint32_t kind;
        uint64_t offset, bytes;
        memcpy(&kind, p + sections + i * size + 4, 4);
        memcpy(&offset, p + sections + i * size + 24, 8);
        memcpy(&bytes, p + sections + i * size + 32, 8);
        if (kind != 8 && offset + bytes > end) end = offset + bytes;
    }
    uint64_t segments;
    memcpy(&segments, p + 32, 8);
    memcpy(&size, p + 54, 2);
    memcpy(&count, p + 56, 2);
    if (count && segments + uint64_t(size) * count > end) end = segments + uint64_t(size) * count;
    return end;
}
std::string image_hash(const void *image) {
    const auto *p = static_cast<const unsigned char *>(image);
    uint64_t h = 0xcbf29ce484222325ull;
    for (size_t i = 0, n = image_bytes(image); i < n; i++) h = (h ^ p[i]) * 0x100000001b3ull;
    char text[17];
    snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(h));
    return text;
}

} // namespace

EXPORT Result cuInit(unsigned) {
    CHECK("cuInit");
    return setting("N730_CUDA_DEVICE", "") == "none" ? NO_DEVICE : SUCCESS;
}
EXPORT Result cuDriverGetVersion(int *version) {
    CHECK("cuDriverGetVersion");
    *version = atoi(setting("N730_CUDA_DRIVER", "11040").c_str());
    return SUCCESS;
}
EXPORT Result cuDeviceGetCount(int *count) {
    CHECK("cuDeviceGetCount");
    *count = 1;
    return SUCCESS;
}
EXPORT Result cuDeviceGet(int *device, int ordinal) {
    CHECK("cuDeviceGet");
    *device = ordinal;
    return ordinal == 0 ? SUCCESS : INVALID_VALUE;
}
static std::string device_setting(int field) {
    std::string text = setting("N730_CUDA_DEVICE", "GeForce GT 730,3,5");
    for (; field > 0; field--) text = text.substr(text.find(',') + 1);
    return text.substr(0, text.find(','));
}
EXPORT Result cuDeviceGetName(char *name, int bytes, int) {
    CHECK("cuDeviceGetName");
    snprintf(name, size_t(bytes), "%s", device_setting(0).c_str());
    return SUCCESS;
}
EXPORT Result cuDeviceGetAttribute(int *value, int attribute, int) {
    CHECK("cuDeviceGetAttribute");
    switch (attribute) {
    case 16: *value = 2; return SUCCESS;                                  /* multiprocessors */
    case 75: *value = atoi(device_setting(1).c_str()); return SUCCESS;    /* compute capability, major */
    case 76: *value = atoi(device_setting(2).c_str()); return SUCCESS;    /* minor */
    case 8: *value = 48 << 10; return SUCCESS;                            /* shared memory a block */
    default: return INVALID_VALUE;
    }
}
EXPORT Result cuDeviceTotalMem_v2(size_t *bytes, int) {
    CHECK("cuDeviceTotalMem_v2");
    *bytes = strtoull(setting("N730_CUDA_VRAM", "2147483648").c_str(), nullptr, 10);
    return SUCCESS;
}
EXPORT Result cuCtxCreate_v2(void **context, unsigned, int) {
    CHECK("cuCtxCreate_v2");
    *context = &memory;
    return SUCCESS;
}
EXPORT Result cuCtxDestroy_v2(void *) {
    if (getenv("N730_CUDA_REPORT")) {
        std::lock_guard<std::mutex> hold(memory.mutex);
        fprintf(stderr, "stand-in libcuda: at most %zu bytes of VRAM, streams busy for %.6f s, of it %.6f s in kernels, %zu bytes brought\n", memory.most,
                double(busy) / 1e9, double(computing) / 1e9, memory.copied);
    }
    return SUCCESS;
}
EXPORT Result cuCtxSetCurrent(void *) {
    CHECK("cuCtxSetCurrent");
    return SUCCESS;
}
EXPORT Result cuMemGetInfo_v2(size_t *free, size_t *total) {
    CHECK("cuMemGetInfo_v2");
    std::lock_guard<std::mutex> hold(memory.mutex);
    *total = strtoull(setting("N730_CUDA_VRAM", "2147483648").c_str(), nullptr, 10);
    *free = *total - memory.used;
    return SUCCESS;
}
EXPORT Result cuMemAlloc_v2(Pointer *out, size_t bytes) {
    CHECK("cuMemAlloc_v2");
    std::lock_guard<std::mutex> hold(memory.mutex);
    if (bytes == 0) return INVALID_VALUE;
    if (memory.used + bytes > strtoull(setting("N730_CUDA_VRAM", "2147483648").c_str(), nullptr, 10)) return OUT_OF_MEMORY;
    void *p = nullptr;
    if (posix_memalign(&p, 256, bytes)) return OUT_OF_MEMORY;
    memset(p, times().empty() ? 0xff : 0, bytes); /* NaN: what was never written is seen */
    *out = reinterpret_cast<Pointer>(p);
    memory.device[*out] = bytes;
    memory.used += bytes;
    if (memory.used > memory.most) memory.most = memory.used;
    return SUCCESS;
}
EXPORT Result cuMemFree_v2(Pointer p) {
    std::lock_guard<std::mutex> hold(memory.mutex);
    const auto found = memory.device.find(p);
    if (found == memory.device.end()) die("cuMemFree of what is not allocated");
    memory.used -= found->second;
    memory.device.erase(found);
    free(reinterpret_cast<void *>(p));
    return SUCCESS;
}
EXPORT Result cuMemHostAlloc(void **out, size_t bytes, unsigned) {
    CHECK("cuMemHostAlloc");
    if (posix_memalign(out, 4096, bytes ? bytes : 1)) return OUT_OF_MEMORY;
    if (!times().empty()) memset(*out, 0, bytes); /* results that nothing computes */
    std::lock_guard<std::mutex> hold(memory.mutex);
    memory.pinned[reinterpret_cast<Pointer>(*out)] = bytes;
    return SUCCESS;
}
EXPORT Result cuMemFreeHost(void *p) {
    std::lock_guard<std::mutex> hold(memory.mutex);
    if (!memory.pinned.erase(reinterpret_cast<Pointer>(p))) die("cuMemFreeHost of what is not allocated");
    free(p);
    return SUCCESS;
}
EXPORT Result cuMemHostRegister_v2(void *p, size_t bytes, unsigned) {
    CHECK("cuMemHostRegister_v2");
    if (reinterpret_cast<Pointer>(p) % 4096 || bytes == 0) return INVALID_VALUE;
    std::lock_guard<std::mutex> hold(memory.mutex);
    memory.pinned[reinterpret_cast<Pointer>(p)] = bytes;
    return SUCCESS;
}
EXPORT Result cuMemHostUnregister(void *p) {
    std::lock_guard<std::mutex> hold(memory.mutex);
    if (!memory.pinned.erase(reinterpret_cast<Pointer>(p))) die("cuMemHostUnregister of what is not registered");
    return SUCCESS;
}
EXPORT Result cuStreamCreate(Stream **out, unsigned) {
    CHECK("cuStreamCreate");
    *out = new Stream;
    (*out)->thread = std::thread(serve, *out);
    return SUCCESS;
}
EXPORT Result cuStreamDestroy_v2(Stream *s) {
    {
        std::lock_guard<std::mutex> hold(s->mutex);
        s->stop = true;
        s->more.notify_one();
    }
    s->thread.join();
    delete s;
    return SUCCESS;
}
EXPORT Result cuStreamSynchronize(Stream *s) {
    if (const int code = wanted("cuStreamSynchronize")) return code;
    drain(s);
    return lost.load();
}
EXPORT Result cuEventCreate(Event **out, unsigned) {
    CHECK("cuEventCreate");
    *out = new Event;
    return SUCCESS;
}
EXPORT Result cuEventDestroy_v2(Event *e) {
    if (e->reached < e->asked) die("cuEventDestroy while it is being recorded");
    delete e;
    return SUCCESS;
}
EXPORT Result cuEventRecord(Event *e, Stream *s) {
    CHECK("cuEventRecord");
    const unsigned turn = ++e->asked;
    enqueue(s, [=] {
        e->when = times().empty() ? Clock::now() : s->time;
        e->reached = turn;
    });
    return SUCCESS;
}
EXPORT Result cuEventQuery(Event *e) {
    CHECK("cuEventQuery");
    return e->done() ? lost.load() : NOT_READY;
}
/* Until a stream has come to the `turn`-th record. */
static void reach(const Event *e, unsigned turn) {
    while (e->reached < turn) std::this_thread::sleep_for(std::chrono::microseconds(20));
}
EXPORT Result cuEventSynchronize(Event *e) {
    if (const int code = wanted("cuEventSynchronize")) return code;
    reach(e, e->asked);
    wait_until(e->when.load());
    return lost.load();
}
EXPORT Result cuEventElapsedTime(float *milliseconds, Event *from, Event *to) {
    CHECK("cuEventElapsedTime");
    if (!from->done() || !to->done()) return NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(to->when.load() - from->when.load()).count();
    return SUCCESS;
}
EXPORT Result cuStreamWaitEvent(Stream *s, Event *e, unsigned) {
    CHECK("cuStreamWaitEvent");
    const unsigned turn = e->asked; /* later records are of no concern */
    enqueue(s, [=] {
        reach(e, turn);
        s->time = std::max(s->time, e->when.load());
    });
    return SUCCESS;
}
static Result copy_later(const char *name, const char *kind, void *to, const void *from, size_t bytes, Stream *s) {
    if (const int code = lost.load()) return code;
    const int fails = wanted(name);
    enqueue(s, [=] {
        if (lost.load()) return;
        if (fails)
            lost = fails;
        else if (times().empty())
            memcpy(to, from, bytes);
    }, modelled(kind, double(bytes), 0));
    return SUCCESS;
}
EXPORT Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t bytes, Stream *s) {
    need_device(to, bytes, "cuMemcpyHtoDAsync");
    need_pinned(from, bytes, "cuMemcpyHtoDAsync");
    {
        std::lock_guard<std::mutex> hold(memory.mutex);
        memory.copied += bytes;
    }
    return copy_later("cuMemcpyHtoDAsync_v2", "copy_up", reinterpret_cast<void *>(to), from, bytes, s);
}
EXPORT Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t bytes, Stream *s) {
    need_device(from, bytes, "cuMemcpyDtoHAsync");
    need_pinned(to, bytes, "cuMemcpyDtoHAsync");
    return copy_later("cuMemcpyDtoHAsync_v2", "copy_down", to, reinterpret_cast<const void *>(from), bytes, s);
}
EXPORT Result cuModuleLoadData(Module **out, const void *image) {
    CHECK("cuModuleLoadData");
    const std::string path = setting("N730_CUDA_TWINS", ".") + "/" + image_hash(image) + ".so";
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) return INVALID_IMAGE;
    const auto *registry = static_cast<const emulator::Entry *>(dlsym(library, "n730_registry"));
    if (!registry) die(path + " has no registry");
    *out = new Module{library, registry};
    return SUCCESS;
}
EXPORT Result cuModuleUnload(Module *m) {
    delete m; /* the library stays: a worker may still return through it */
    return SUCCESS;
}
EXPORT Result cuModuleGetFunction(const emulator::Entry **out, Module *m, const char *name) {
    CHECK("cuModuleGetFunction");
    for (const emulator::Entry *e = m->registry; e->name; e++)
        if (std::string(name) == e->name) {
            *out = e;
            return SUCCESS;
        }
    return NOT_FOUND;
}
EXPORT Result cuLaunchKernel(const emulator::Entry *kernel, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                             unsigned threads_z, unsigned shared, Stream *s, void **parameters, void **extra) {
    if (const int code = lost.load()) return code;
    if (z != 1 || threads_y != 1 || threads_z != 1 || shared || extra || x == 0 || y == 0 || y > 65535 || threads == 0 || threads > 1024)
        return INVALID_VALUE;
    n730_cuda_call call;
    memcpy(&call, parameters[0], sizeof call);
    const int fails = wanted("cuLaunchKernel");
    const Nanoseconds takes = modelled(kernel->name, call.end - call.begin, call.tokens);
    enqueue(s, [=] {
        if (lost.load()) return;
        if (fails) {
            lost = fails;
            return;
        }
        if (!times().empty()) {
            computing += takes.count();
            return;
        }
        const auto start = Clock::now();
        try {
            kernel->run(&call, x, y, threads);
        } catch (const emulator::Fault &fault) {
            die(std::string(kernel->name) + ": " + fault.what());
        }
        computing += Nanoseconds(Clock::now() - start).count();
    }, takes);
    return SUCCESS;
}
EXPORT Result cuGetErrorName(int code, const char **name) {
    switch (code) {
    case SUCCESS: *name = "CUDA_SUCCESS"; return SUCCESS;
    case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; return SUCCESS;
    case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; return SUCCESS;
    case NO_DEVICE: *name = "CUDA_ERROR_NO_DEVICE"; return SUCCESS;
    case INVALID_IMAGE: *name = "CUDA_ERROR_INVALID_IMAGE"; return SUCCESS;
    case NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; return SUCCESS;
    case NOT_READY: *name = "CUDA_ERROR_NOT_READY"; return SUCCESS;
    case LAUNCH_FAILED: *name = "CUDA_ERROR_LAUNCH_FAILED"; return SUCCESS;
    default: *name = "CUDA_ERROR_UNKNOWN"; return INVALID_VALUE;
    }
}
