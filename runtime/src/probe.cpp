// Measures this PC and writes it down as a target file: what n730c/target.py reads.
#include "probe.h"
#include "builtin_kernels.h"
#include "commands.h"
#include "output_path.h"
#include "progress.h"
#include "text.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>

namespace n730 {

namespace {

constexpr char FIRST_LINE[] = "# Measured by n730-exec probe.";

// Numbers as TOML wants them: four digits are more than any of them repeats.
std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3e", value);
    return text;
}

std::string today() {
    const std::time_t now = std::time(nullptr);
    char text[32];
    std::strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", std::gmtime(&now));
    return text;
}

std::string short_size(uint64_t bytes) { return std::to_string(bytes >> 10) + "K"; }

// TOML takes JSON's strings but for one character.
std::string toml_string(std::string text) {
    std::replace(text.begin(), text.end(), '\x7F', '?');
    return json_string(text);
}

// What every way of reading gave, as comments: the reader of the file sees how sharp the optimum is.
std::string disk_table(const DiskNumbers &disk) {
    std::string text = "# disk, MB/s at bytes of one read x reads in flight:\n";
    uint32_t row = 0;
    for (const DiskNumbers::Cell &cell : disk.cells) {
        if (cell.bytes != row) text += (row == 0 ? "# " : "\n# ") + short_size(cell.bytes) + ":";
        row = cell.bytes;
        text += "  x" + std::to_string(cell.in_flight) + " " + format_number(cell.rate / 1e6);
    }
    return text + "\n";
}

class Toml {
  public:
    explicit Toml(std::string start) : text_(std::move(start)) {}
    Toml &raw(const std::string &name, const std::string &value) {
        text_ += name + " = " + value + "\n";
        return *this;
    }
    Toml &add(const std::string &name, const std::string &value) { return raw(name, toml_string(value)); }
    Toml &add(const std::string &name, uint64_t value) { return raw(name, std::to_string(value)); }
    Toml &add(const std::string &name, double value) { return raw(name, number(value)); }
    Toml &line(const std::string &text) {
        text_ += text + "\n";
        return *this;
    }
    const std::string &text() const { return text_; }

  private:
    std::string text_;
};

using Gpu = std::optional<GpuNumbers>;

void add_rates(Toml &toml, const char *table, const double (&rates)[LAST_FORMAT + 1]) {
    toml.line(std::string("\n[") + table + "]");
    for (uint8_t format = static_cast<uint8_t>(Format::F16); format <= LAST_FORMAT; ++format)
        toml.add(format_name(static_cast<Format>(format)), rates[format]);
}

// The table of the card and what it holds.
void add_card(Toml &toml, const GpuNumbers &gpu) {
    toml.line("\n[gpu]").add("arch", gpu.arch).add("launch_s", gpu.launch_s).add("copy_s", gpu.copy_s);
    toml.add("driver_ram_bytes", gpu.driver_ram_bytes);
    add_rates(toml, "gpu.kernel_rates", gpu.rates);
    add_rates(toml, "gpu.batch_rates", gpu.batch_rates);
}

void add_card_sources(Toml &toml, const std::string &measured, const GpuNumbers &gpu) {
    const std::string product = "INT4 product of a matrix in its cache, median of up to 9; the other formats by the instructions "
                                "that a weight takes more (benchmarks/cuda/floors.py)";
    toml.add("vram_bytes", measured + gpu.card + ": what is free, less a sixteenth of all")
        .add("vram_bytes_per_s",
             measured + "a kernel that reads " + std::to_string(gpu.read_bytes >> 20) + " MiB, median of up to 9")
        .add("pcie_bytes_per_s", measured + "copies of 16 MiB from pinned memory, median of up to 9; the way back " +
                                     number(gpu.to_host))
        .add("\"gpu.arch\"", measured + gpu.card)
        .add("\"gpu.launch_s\"", measured + "100 launches of a kernel that does nothing, until they are done")
        .add("\"gpu.copy_s\"", measured + "a copy of 4 KiB, until it is done")
        .add("\"gpu.driver_ram_bytes\"", measured + "how much this process grew by the card, and 8 MiB for buffers")
        .add("\"gpu.kernel_rates\"", measured + product)
        .add("\"gpu.batch_rates\"", measured + "the same for eight tokens at once");
}

std::string describe(const std::string &name, const ComputeNumbers &cpu, const DiskNumbers &disk, const Gpu &gpu,
                     const std::string &no_gpu) {
    const std::string measured = "measured by n730-exec probe " + today() + ": ";
    const std::string isa = isa_name(cpu.isa), kernels = isa_name(builtin_isa(cpu.isa));
    const auto mib = [](uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; };
    const std::string how =
        disk.direct ? "past the page cache" : "through the emptied page cache (direct reads refused)";
    const std::string reads = short_size(disk.read_bytes) + " reads, " + std::to_string(disk.in_flight) + " in flight";
    Toml toml(std::string(FIRST_LINE) + " Build for this PC: n730c build MODEL --target THIS_FILE.toml\n" +
              disk_table(disk));
    toml.add("name", name)
        .add("description", cpu.cpu + ", " + std::to_string(cpu.cores) + " cores, as it was on " + today())
        .add("isa", isa)
        .add("cores", static_cast<uint64_t>(cpu.cores))
        .add("ram_bytes", cpu.ram_bytes)
        .add("ram_bytes_per_s", cpu.ram_bytes_per_s)
        .add("disk_bytes_per_s", disk.bytes_per_s)
        .add("disk_bytes_per_s_beside_ram", disk.bytes_per_s_beside_ram)
        .add("disk_seek_s", disk.seek_s)
        .add("disk_read_bytes", static_cast<uint64_t>(disk.read_bytes))
        .add("disk_reads_in_flight", static_cast<uint64_t>(disk.in_flight))
        .add("vram_bytes", gpu ? gpu->vram_bytes : 0)
        .add("vram_bytes_per_s", gpu ? gpu->vram_bytes_per_s : 0.0)
        .add("pcie_bytes_per_s", gpu ? gpu->to_device : 0.0)
        .add("step_seconds", cpu.step_seconds);
    add_rates(toml, "kernel_rates", cpu.rates);
    if (gpu) add_card(toml, *gpu);
    toml.line("\n[sources]")
        .add("isa", measured + "CPUID and XGETBV, the highest level that this CPU and system run")
        .add("cores", measured + "physical cores that this process may use")
        .add("ram_bytes", measured + mib(cpu.free_bytes) + " free (limits of control groups included) less " +
                              mib(cpu.margin_bytes) + ", the larger of 256 MiB and a sixteenth")
        .add("ram_bytes_per_s", measured + "read loop over " + mib(cpu.ram_read_bytes) +
                                    " on huge pages, all cores, median of 9 rounds")
        .add("disk_bytes_per_s", measured + "sequential reads of a file of " + mib(disk.file_bytes) + ", " + how + ", " +
                                     reads + ", median of 5 rounds of 0.4 s")
        .add("disk_bytes_per_s_beside_ram",
             measured + reads + ", while all cores read RAM against alone, in turn, median of 5")
        .add("disk_seek_s",
             measured + reads + ", every fourth place of the file against all in order, a read, median of 5")
        .add("disk_read_bytes", measured + "the least memory in flight within 6 % of the best of 24 combinations")
        .add("disk_reads_in_flight", measured + "as disk_read_bytes")
        .add("step_seconds", measured + "hand-out and barrier of " + std::to_string(cpu.cores) +
                                 " threads, median of 9 rounds of 2000")
        .add("kernel_rates", measured + "built-in " + kernels +
                                 " kernels, a 64 x 1024 matrix times one vector in cache, one core while all are at "
                                 "work, median of 9 rounds of 20 ms");
    if (gpu) add_card_sources(toml, measured, *gpu);
    for (const char *field : {"vram_bytes", "vram_bytes_per_s", "pcie_bytes_per_s"})
        if (!gpu) toml.add(field, "none is used: " + no_gpu);
    return toml.text();
}

// Whole or not at all.
void write(const std::string &path, const std::string &text) {
    const std::string unfinished = path + ".unfinished";
    const auto fail = [&] {
        const std::string why = std::strerror(errno);
        platform::remove_file(unfinished);
        throw Error("cannot write " + path, "", why, "Name another file with -o.");
    };
    std::FILE *file = platform::open_write(unfinished);
    if (file == nullptr) fail();
    const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size() && std::fflush(file) == 0;
    const bool closed = std::fclose(file) == 0;
    if (!written || !closed || !platform::replace_file(unfinished, path)) fail();
}

} // namespace

int probe(const ProbeOptions &options) {
    std::string output, name = "host";
    if (options.output) { // before the work: a bad name is better said at once
        output = output_path(*options.output, FIRST_LINE, "target file of probe", "-o");
        name = std::filesystem::u8path(*options.output).stem().u8string();
    }
    const DiskNumbers disk = probe_disk(options.disk, options.disk_bytes); // first: it is what may be named wrongly
    const ComputeNumbers compute = probe_compute();
    std::string no_gpu;
    const Gpu gpu = probe_gpu(no_gpu);
    const std::string text = describe(name, compute, disk, gpu, no_gpu);
    if (options.output) {
        write(output, text);
    } else {
        put(text);
        put_flush();
    }
    return 0;
}

} // namespace n730
