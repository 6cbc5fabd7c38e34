/* raw_read FILE READ_BYTES IN_FLIGHT SECONDS: reads FILE in order past the page cache and prints bytes a second.
 * In C, because threads of Python would wait for each other more than for a fast disk; into huge pages, because the
 * kernel cuts a read into small pages into so many parts that a fast disk loses half of its rate; each read to another
 * place of 64 MiB, because into memory that is still in a cache a fast disk reads faster than anybody can keep. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HUGE_PAGE (2l << 20)
#define REGION (64l << 20)

static int fd;
static long bytes, places;
static double began, span;
static atomic_long next, done;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *work(void *memory) {
    while (now() - began < span) {
        const long i = atomic_fetch_add(&next, 1);
        if (pread(fd, (char *)memory + i % (REGION / bytes) * bytes, (size_t)bytes, i % places * bytes) != bytes) {
            perror("raw_read");
            exit(1);
        }
        atomic_fetch_add(&done, 1);
    }
    return NULL;
}

int main(int argc, char **argv) {
    struct stat info;
    pthread_t threads[64];
    if (argc != 5) return 2;
    bytes = atol(argv[2]);
    const int depth = atoi(argv[3]);
    span = atof(argv[4]);
    fd = open(argv[1], O_RDONLY | O_DIRECT);
    if (fd < 0 || fstat(fd, &info) != 0) {
        perror(argv[1]);
        return 1;
    }
    places = info.st_size / bytes;
    if (depth < 1 || depth > 64 || bytes < 4096 || places < 1) return 2;
    if (bytes * depth > REGION) return 2;
    void *memory;
    if (posix_memalign(&memory, HUGE_PAGE, REGION) != 0) return 1;
    madvise(memory, REGION, MADV_HUGEPAGE);
    memset(memory, 1, REGION);
    began = now();
    for (int i = 0; i < depth; ++i)
        if (pthread_create(&threads[i], NULL, work, memory) != 0) return 1;
    for (int i = 0; i < depth; ++i) pthread_join(threads[i], NULL);
    printf("%.0f\n", (double)done * (double)bytes / (now() - began));
    return 0;
}
