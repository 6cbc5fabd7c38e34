/* Preloaded into n730-exec: reads of the package's weights go wrong as $FAULT says.
 * eio:N, corrupt:N   the N-th read fails, or one byte of it is another (from 1)
 * short, eintr       most reads bring less than asked; or are interrupted first, now and then
 * delay:US           each takes a random time up to so many microseconds
 * slow:BYTES         each takes as long as a disk of so many bytes a second
 * nodirect, einval   O_DIRECT is refused when the file is opened; or not before it is read
 * This holds for bytes $FAULT_FROM … $FAULT_END of the file; the random numbers begin with $FAULT_SEED. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef ssize_t (*pread_fn)(int, void *, size_t, off_t);
typedef int (*open_fn)(const char *, int, ...);

static atomic_ulong count, draws;

static unsigned draw(void) { /* splitmix64 of the seed and a counter: any thread may draw */
    const char *seed = getenv("FAULT_SEED");
    uint64_t x = strtoull(seed ? seed : "0", NULL, 10) + 0x9E3779B97F4A7C15u * (atomic_fetch_add(&draws, 1) + 1);
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return (unsigned)(x >> 33);
}

static const char *fault(const char *name) { /* what follows "name:", or NULL */
    const char *now = getenv("FAULT");
    const size_t n = strlen(name);
    if (now == NULL || strncmp(now, name, n) != 0 || (now[n] != ':' && now[n] != '\0')) return NULL;
    return now[n] == ':' ? now + n + 1 : now + n;
}

ssize_t pread(int fd, void *out, size_t n, off_t at) {
    static pread_fn real;
    if (real == NULL) real = (pread_fn)dlsym(RTLD_NEXT, "pread");
    const char *from = getenv("FAULT_FROM"), *value;
    const char *end = getenv("FAULT_END");
    if (from == NULL || end == NULL || at < strtoll(from, NULL, 10) || at >= strtoll(end, NULL, 10))
        return real(fd, out, n, at);
    const unsigned long now = atomic_fetch_add(&count, 1) + 1;
    if ((value = fault("eio")) && now == strtoul(value, NULL, 10)) return errno = EIO, -1;
    if (fault("einval") && (fcntl(fd, F_GETFL) & O_DIRECT)) return errno = EINVAL, -1;
    if (fault("eintr") && draw() % 3 == 0) return errno = EINTR, -1;
    if (fault("short") && draw() % 4 != 0) n = (draw() % (n / 512) + 1) * 512;
    if ((value = fault("delay"))) usleep(draw() % (unsigned)atoi(value));
    if ((value = fault("slow"))) usleep((useconds_t)(1e6 * (double)n / atof(value)));
    const ssize_t got = real(fd, out, n, at);
    if ((value = fault("corrupt")) && now == strtoul(value, NULL, 10) && got > 0) ((char *)out)[got / 2] ^= 4;
    return got;
}
ssize_t pread64(int fd, void *out, size_t n, off_t at) { return pread(fd, out, n, at); }

int open(const char *path, int flags, ...) {
    static open_fn real;
    if (real == NULL) real = (open_fn)dlsym(RTLD_NEXT, "open");
    va_list rest;
    va_start(rest, flags);
    const mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    if (fault("nodirect") && (flags & O_DIRECT)) return errno = EINVAL, -1;
    return real(path, flags, mode);
}
int open64(const char *path, int flags, ...) { return open(path, flags, 0); }
