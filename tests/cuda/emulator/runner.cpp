/* Runs kernels that others ask for on stdin; see emulator.py, which speaks to it. Linked with the kernels' registry.
 *
 * A job: u32 length and name of the kernel · u32 grid x, y, threads · u32 buffers, each u64 size and its bytes · the call.
 * A pointer in the call is 0 or (buffer + 1) << 40 | offset. Answer: u8 1 and all buffers' bytes, or u8 0, u32 length and what is wrong. */
#include <cstdio>
#include <cstdlib>
#include "call.h"
#include "registry.h"

static void read_all(void *p, size_t n) {
    if (n && fread(p, 1, n, stdin) != n) exit(0);
}
static void write_all(const void *p, size_t n) {
    if (n && fwrite(p, 1, n, stdout) != n) exit(1);
}
static unsigned read_u32() {
    unsigned v;
    read_all(&v, 4);
    return v;
}

struct Memory { /* exactly as large as asked, so that AddressSanitizer sees the first byte beyond */
    explicit Memory(size_t n) : size(n) {
        void *p = nullptr;
        if (posix_memalign(&p, 64, n ? n : 1)) exit(1);
        data = static_cast<unsigned char *>(p);
    }
    Memory(Memory &&other) noexcept : size(other.size), data(other.data) { other.data = nullptr; }
    ~Memory() { free(data); }
    size_t size;
    unsigned char *data = nullptr;
};

template <class T>
static void resolve(T *&pointer, const std::vector<Memory> &buffers) {
    const uint64_t v = reinterpret_cast<uint64_t>(pointer);
    pointer = v ? reinterpret_cast<T *>(buffers.at((v >> 40) - 1).data + (v & ((1ull << 40) - 1))) : nullptr;
}

int main() {
    for (;;) {
        std::string name(read_u32(), '\0');
        read_all(&name[0], name.size());
        const unsigned x = read_u32(), y = read_u32(), threads = read_u32(), count = read_u32();
        std::vector<Memory> buffers;
        for (unsigned i = 0; i < count; i++) {
            uint64_t size;
            read_all(&size, 8);
            buffers.emplace_back(size);
            read_all(buffers.back().data, size);
        }
        n730_cuda_call call;
        read_all(&call, sizeof call);
        for (auto &p : call.in) resolve(p, buffers);
        resolve(call.out, buffers);
        resolve(call.weight, buffers);
        resolve(call.bias, buffers);
        resolve(call.k_cache, buffers);
        resolve(call.v_cache, buffers);
        resolve(call.ids, buffers);
        std::string wrong = "no kernel of this name";
        for (const emulator::Entry *e = n730_registry; e->name; e++)
            if (name == e->name) {
                wrong.clear();
                try {
                    e->run(&call, x, y, threads);
                } catch (const emulator::Fault &fault) {
                    wrong = fault.what();
                }
            }
        const unsigned char ok = wrong.empty();
        const unsigned length = unsigned(wrong.size());
        write_all(&ok, 1);
        if (ok) {
            for (const Memory &buffer : buffers) write_all(buffer.data, buffer.size);
        } else {
            write_all(&length, 4);
            write_all(wrong.data(), length);
        }
        fflush(stdout);
    }
}
