// What n730-exec measures of the PC it runs on; probe.cpp writes it down as a target file for n730c.
#pragma once
#include "error.h"
#include "n730/format.h"
#include "platform.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace n730 {

// The middle one; the mean of the two in the middle of an even count.
inline double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    const size_t n = values.size();
    return n == 0 ? 0 : (values[n / 2] + values[(n - 1) / 2]) / 2;
}

inline void stop_if_interrupted() {
    if (platform::interrupted()) throw Interrupted();
}

// Memory to measure with, on huge pages where there are any.
class Pages {
  public:
    explicit Pages(uint64_t bytes) : bytes_(bytes), data_(static_cast<uint8_t *>(platform::allocate(bytes))) {
        if (data_ == nullptr)
            throw Error("no memory to measure with", std::to_string(bytes) + " bytes", "", "Close other programs.");
    }
    ~Pages() { platform::release(data_, bytes_); }
    Pages(const Pages &) = delete;
    Pages &operator=(const Pages &) = delete;
    uint8_t *data() const { return data_; }

  private:
    const uint64_t bytes_;
    uint8_t *const data_;
};

// CPU and memory. Bytes, seconds, weights a second.
struct ComputeNumbers {
    int cores = 0;
    Isa isa = Isa::SSE2;
    std::string cpu;
    uint64_t ram_bytes = 0;    // left for a model
    uint64_t free_bytes = 0;   // what the system said was free
    uint64_t margin_bytes = 0; // what we leave alone of it
    uint64_t ram_read_bytes = 0;
    double ram_bytes_per_s = 0;
    double step_seconds = 0;
    double rates[LAST_FORMAT + 1] = {}; // of one core while all are at work; index: Format
};
// Takes a few seconds. Throws Error, Interrupted.
ComputeNumbers probe_compute();

// All cores read RAM for as long as it lives.
class RamTraffic {
  public:
    RamTraffic();
    ~RamTraffic();
    RamTraffic(const RamTraffic &) = delete;
    RamTraffic &operator=(const RamTraffic &) = delete;

  private:
    const Isa isa_;
    const Pages memory_;
    std::atomic<bool> stopped_{false};
    std::atomic<uint64_t> kept_{0};
    std::vector<std::thread> threads_;
};

// How reads were found to be fastest.
struct DiskNumbers {
    struct Cell {
        uint32_t bytes; // of one read
        int in_flight;  // at once
        double rate;    // bytes/s
    };
    uint32_t read_bytes = 0;
    int in_flight = 0;
    double bytes_per_s = 0;
    double bytes_per_s_beside_ram = 0; // while all cores read RAM
    double seek_s = 0;
    bool direct = false; // past the page cache
    uint64_t file_bytes = 0;
    std::vector<Cell> cells; // all that was tried
};
// `where`: a folder to write a temporary file of at most `bytes` in, or a file to read. Takes less than a minute.
// Throws Error, Interrupted.
DiskNumbers probe_disk(const std::string &where, uint64_t bytes);

// What a graphics card does. Bytes, seconds, weights a second of the whole card.
struct GpuNumbers {
    std::string card, arch; // "GeForce GT 730 (…), driver for CUDA 11.4", "sm_35"
    uint64_t vram_bytes = 0;
    uint64_t driver_ram_bytes = 0; // of main memory, with room for a run's pinned buffers
    uint64_t read_bytes = 0; // what its memory was measured with
    double vram_bytes_per_s = 0, to_device = 0, to_host = 0;
    double launch_s = 0, copy_s = 0;                                     // until they are done
    double rates[LAST_FORMAT + 1] = {}, batch_rates[LAST_FORMAT + 1] = {}; // one token; eight, times tokens. Index: Format
};
// None: there is no card that can be used, and `why` says so in one line. Takes a second or two. Throws Interrupted.
std::optional<GpuNumbers> probe_gpu(std::string &why);

} // namespace n730
