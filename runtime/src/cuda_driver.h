// NVIDIA's driver, opened at run time and never linked: the few calls that are needed, each checked.
#pragma once
#include "error.h"

#include <cstdint>
#include <memory>
#include <string>

namespace n730 {

using CudaPointer = unsigned long long; // CUdeviceptr
struct CudaStreamTag;
struct CudaEventTag;
struct CudaModuleTag;
struct CudaFunctionTag;
using CudaStream = CudaStreamTag *;
using CudaEvent = CudaEventTag *;
using CudaModule = CudaModuleTag *;
using CudaFunction = CudaFunctionTag *;

// The driver refused a call, or the card was lost: "the graphics card failed: cuLaunchKernel (found CUDA_ERROR_LAUNCH_FAILED, 719)."
class CardFailed : public Error {
  public:
    CardFailed(const std::string &call, const std::string &found) : Error(what_of(call), "", found), call_(call), found_(found) {}
    Error without_cpu() const { return Error(what_of(call_), "", found_, "Run with --device cpu."); } // where nothing else can go on

  private:
    static std::string what_of(const std::string &call) { return "the graphics card failed: " + call; }
    const std::string call_, found_;
};

// The first card that can run our kernels, with a context on it. Calls throw CardFailed.
class Cuda {
  public:
    // nullptr: there is none, and `why` says in one line what was looked for and found.
    static std::unique_ptr<Cuda> open(std::string &why);
    ~Cuda();
    Cuda(const Cuda &) = delete;
    Cuda &operator=(const Cuda &) = delete;

    const std::string &name() const { return name_; }
    int major() const { return major_; }
    int minor() const { return minor_; }
    int multiprocessors() const { return multiprocessors_; }
    uint64_t vram() const { return vram_; } // bytes in all
    std::string describe() const;           // "GeForce GT 730 (compute capability 3.5, 2.0 GiB), driver for CUDA 11.4"

    uint64_t free_vram() const;
    CudaPointer allocate(uint64_t bytes) const; // 0: the card has not that much left
    void release(CudaPointer memory) const;
    void *allocate_pinned(uint64_t bytes) const;
    void release_pinned(void *memory) const;
    void pin(void *memory, uint64_t bytes) const; // whole pages, so that copies from there need no staging
    void unpin(void *memory) const;
    CudaStream stream() const;
    void destroy(CudaStream stream) const;
    CudaEvent event() const;
    void destroy(CudaEvent event) const;
    void record(CudaEvent event, CudaStream stream) const;
    void wait(CudaEvent event) const;
    void wait(CudaStream stream) const;
    void wait(CudaStream stream, CudaEvent event) const; // the stream does, not the caller
    void copy_to_device(CudaPointer to, const void *pinned, uint64_t bytes, CudaStream stream) const;
    void copy_to_host(void *pinned, CudaPointer from, uint64_t bytes, CudaStream stream) const;
    CudaModule load(const void *cubin) const;
    CudaFunction function(CudaModule module, const std::string &name) const;
    void launch(CudaFunction function, uint32_t grid_x, uint32_t grid_y, uint32_t threads, const void *call, CudaStream stream) const;

  private:
    struct Api;
    Cuda();
    bool find_card(std::string &why);
    void check(int result, const char *call) const;

    std::unique_ptr<Api> api_;
    void *context_ = nullptr;
    std::string name_;
    int driver_ = 0, major_ = 0, minor_ = 0, multiprocessors_ = 0;
    uint64_t vram_ = 0;
};

} // namespace n730
