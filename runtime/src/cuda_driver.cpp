#include "cuda_driver.h"
#include "platform.h"
#include "text.h"

namespace n730 {

namespace {
constexpr int OUT_OF_MEMORY = 2, CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76, MULTIPROCESSORS = 16;
constexpr int OLDEST_DRIVER = 11000;          // R450: the first that takes what CUDA 11 compiled
constexpr int OLDEST_MAJOR = 3, OLDEST_MINOR = 5; // Kepler GK208 and GK110
constexpr unsigned EVENT_WITHOUT_TIMING = 2, STREAM_NON_BLOCKING = 1;

std::string version(int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }
} // namespace

// Every entry of the driver that is used; the names end as the library has them.
#define N730_CUDA_CALLS(X)                                                                                             \
    X(cuInit, (unsigned))                                                                                              \
    X(cuDriverGetVersion, (int *))                                                                                     \
    X(cuDeviceGetCount, (int *))                                                                                       \
    X(cuDeviceGet, (int *, int))                                                                                       \
    X(cuDeviceGetName, (char *, int, int))                                                                             \
    X(cuDeviceGetAttribute, (int *, int, int))                                                                         \
    X(cuDeviceTotalMem_v2, (size_t *, int))                                                                            \
    X(cuCtxCreate_v2, (void **, unsigned, int))                                                                        \
    X(cuCtxDestroy_v2, (void *))                                                                                       \
    X(cuMemGetInfo_v2, (size_t *, size_t *))                                                                           \
    X(cuMemAlloc_v2, (CudaPointer *, size_t))                                                                          \
    X(cuMemFree_v2, (CudaPointer))                                                                                     \
    X(cuMemHostAlloc, (void **, size_t, unsigned))                                                                     \
    X(cuMemFreeHost, (void *))                                                                                         \
    X(cuMemHostRegister_v2, (void *, size_t, unsigned))                                                                \
    X(cuMemHostUnregister, (void *))                                                                                   \
    X(cuStreamCreate, (CudaStream *, unsigned))                                                                        \
    X(cuStreamDestroy_v2, (CudaStream))                                                                                \
    X(cuStreamSynchronize, (CudaStream))                                                                               \
    X(cuStreamWaitEvent, (CudaStream, CudaEvent, unsigned))                                                            \
    X(cuEventCreate, (CudaEvent *, unsigned))                                                                          \
    X(cuEventDestroy_v2, (CudaEvent))                                                                                  \
    X(cuEventRecord, (CudaEvent, CudaStream))                                                                          \
    X(cuEventSynchronize, (CudaEvent))                                                                                 \
    X(cuMemcpyHtoDAsync_v2, (CudaPointer, const void *, size_t, CudaStream))                                           \
    X(cuMemcpyDtoHAsync_v2, (void *, CudaPointer, size_t, CudaStream))                                                 \
    X(cuModuleLoadData, (CudaModule *, const void *))                                                                  \
    X(cuModuleGetFunction, (CudaFunction *, CudaModule, const char *))                                                 \
    X(cuLaunchKernel, (CudaFunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CudaStream, \
                       void **, void **))                                                                              \
    X(cuGetErrorName, (int, const char **))

struct Cuda::Api {
    void *library = nullptr;
#define X(name, arguments) int(*name) arguments = nullptr;
    N730_CUDA_CALLS(X)
#undef X
    ~Api() {
        if (library != nullptr) platform::close_library(library);
    }
    std::string open() { // empty, or what is missing
#ifdef _WIN32
        const char *file = "nvcuda.dll";
#else
        const char *file = "libcuda.so.1";
#endif
        library = platform::open_library(file);
        if (library == nullptr) return std::string("no NVIDIA driver (expected ") + file + ", found none)";
#define X(name, arguments)                                                                                             \
    name = reinterpret_cast<int(*) arguments>(platform::library_symbol(library, #name));                               \
    if (name == nullptr) return "the NVIDIA driver is too old (expected " #name " in it, found none)";
        N730_CUDA_CALLS(X)
#undef X
        return "";
    }
};

Cuda::Cuda() : api_(std::make_unique<Api>()) {}

Cuda::~Cuda() {
    if (context_ != nullptr) api_->cuCtxDestroy_v2(context_);
}

void Cuda::check(int result, const char *call) const {
    if (result == 0) return;
    const char *name = nullptr;
    if (api_->cuGetErrorName(result, &name) != 0 || name == nullptr) name = "an unknown error";
    throw CardFailed(call, std::string(name) + ", " + std::to_string(result));
}
#define CHECK(call, arguments) check(api_->call arguments, #call)

std::unique_ptr<Cuda> Cuda::open(std::string &why) {
    std::unique_ptr<Cuda> cuda(new Cuda);
    why = cuda->api_->open();
    if (!why.empty()) return nullptr;
    try {
        if (!cuda->find_card(why)) return nullptr;
    } catch (const CardFailed &failure) {
        why = failure.what();
        return nullptr;
    }
    return cuda;
}

bool Cuda::find_card(std::string &why) {
    if (const int result = api_->cuInit(0); result != 0) {
        const char *name = nullptr;
        if (api_->cuGetErrorName(result, &name) != 0 || name == nullptr) name = "an unknown error";
        why = std::string("no graphics card that the NVIDIA driver can use (found ") + name + ")";
        return false;
    }
    CHECK(cuDriverGetVersion, (&driver_));
    int count = 0, device = 0;
    CHECK(cuDeviceGetCount, (&count));
    bool found = false;
    for (int i = 0; i < count && !found; ++i) {
        char name[256] = "";
        CHECK(cuDeviceGet, (&device, i));
        CHECK(cuDeviceGetName, (name, int(sizeof name) - 1, device));
        CHECK(cuDeviceGetAttribute, (&major_, CAPABILITY_MAJOR, device));
        CHECK(cuDeviceGetAttribute, (&minor_, CAPABILITY_MINOR, device));
        name_ = name;
        found = major_ > OLDEST_MAJOR || (major_ == OLDEST_MAJOR && minor_ >= OLDEST_MINOR);
        if (!found)
            why = name_ + (major_ == 2 ? " is a Fermi card" : " is too old a card") + " (expected compute capability 3.5 or later, found " +
                  std::to_string(major_) + "." + std::to_string(minor_) + ")";
    }
    if (count == 0) why = "no graphics card (found none that the NVIDIA driver knows)";
    if (!found) return false;
    if (driver_ < OLDEST_DRIVER) {
        why = "the NVIDIA driver is too old (expected R450 for CUDA 11.0 or later, found one for CUDA " + version(driver_) + ")";
        return false;
    }
    size_t bytes = 0;
    CHECK(cuDeviceTotalMem_v2, (&bytes, device));
    vram_ = bytes;
    CHECK(cuDeviceGetAttribute, (&multiprocessors_, MULTIPROCESSORS, device));
    CHECK(cuCtxCreate_v2, (&context_, 0, device));
    return true;
}

std::string Cuda::describe() const {
    return name_ + " (compute capability " + std::to_string(major_) + "." + std::to_string(minor_) + ", " + format_size(vram_) +
           "), driver for CUDA " + version(driver_);
}

uint64_t Cuda::free_vram() const {
    size_t free = 0, total = 0;
    CHECK(cuMemGetInfo_v2, (&free, &total));
    return free;
}
CudaPointer Cuda::allocate(uint64_t bytes) const {
    CudaPointer memory = 0;
    const int result = api_->cuMemAlloc_v2(&memory, bytes);
    if (result == OUT_OF_MEMORY) return 0;
    check(result, "cuMemAlloc");
    return memory;
}
void Cuda::release(CudaPointer memory) const { api_->cuMemFree_v2(memory); }
void *Cuda::allocate_pinned(uint64_t bytes) const {
    void *memory = nullptr;
    CHECK(cuMemHostAlloc, (&memory, bytes, 0));
    return memory;
}
void Cuda::release_pinned(void *memory) const { api_->cuMemFreeHost(memory); }
void Cuda::pin(void *memory, uint64_t bytes) const { CHECK(cuMemHostRegister_v2, (memory, bytes, 0)); }
void Cuda::unpin(void *memory) const { api_->cuMemHostUnregister(memory); }
CudaStream Cuda::stream() const {
    CudaStream stream = nullptr;
    CHECK(cuStreamCreate, (&stream, STREAM_NON_BLOCKING));
    return stream;
}
void Cuda::destroy(CudaStream stream) const { api_->cuStreamDestroy_v2(stream); }
CudaEvent Cuda::event() const {
    CudaEvent event = nullptr;
    CHECK(cuEventCreate, (&event, EVENT_WITHOUT_TIMING));
    return event;
}
void Cuda::destroy(CudaEvent event) const { api_->cuEventDestroy_v2(event); }
void Cuda::record(CudaEvent event, CudaStream stream) const { CHECK(cuEventRecord, (event, stream)); }
void Cuda::wait(CudaEvent event) const { CHECK(cuEventSynchronize, (event)); }
void Cuda::wait(CudaStream stream, CudaEvent event) const { CHECK(cuStreamWaitEvent, (stream, event, 0)); }
void Cuda::wait(CudaStream stream) const { CHECK(cuStreamSynchronize, (stream)); }
void Cuda::copy_to_device(CudaPointer to, const void *pinned, uint64_t bytes, CudaStream stream) const {
    CHECK(cuMemcpyHtoDAsync_v2, (to, pinned, bytes, stream));
}
void Cuda::copy_to_host(void *pinned, CudaPointer from, uint64_t bytes, CudaStream stream) const {
    CHECK(cuMemcpyDtoHAsync_v2, (pinned, from, bytes, stream));
}
CudaModule Cuda::load(const void *cubin) const {
    CudaModule module = nullptr;
    CHECK(cuModuleLoadData, (&module, cubin));
    return module;
}
CudaFunction Cuda::function(CudaModule module, const std::string &name) const {
    CudaFunction function = nullptr;
    check(api_->cuModuleGetFunction(&function, module, name.c_str()), ("cuModuleGetFunction of " + name).c_str());
    return function;
}
void Cuda::launch(CudaFunction function, uint32_t grid_x, uint32_t grid_y, uint32_t threads, const void *call,
                  CudaStream stream) const {
    void *parameters[] = {const_cast<void *>(call)};
    CHECK(cuLaunchKernel, (function, grid_x, grid_y, 1, threads, 1, 1, 0, stream, parameters, nullptr));
}

} // namespace n730
