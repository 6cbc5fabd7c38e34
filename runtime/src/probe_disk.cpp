// The disk: a file is written, then read back past the page cache in the ways in which a package may be read.
#include "disk_file.h"
#include "error.h"
#include "platform.h"
#include "probe.h"
#include "progress.h"
#include "text.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <thread>

namespace n730 {

namespace {

namespace fs = std::filesystem;
using platform::DiskFile;

constexpr uint32_t SIZES[] = {256u << 10, 512u << 10, 1u << 20, 2u << 20, 4u << 20, 8u << 20};
constexpr int DEPTHS[] = {1, 2, 4, 8};
constexpr uint32_t MOST = 8u << 20; // bytes of the largest read
constexpr int DEEPEST = 8;
constexpr uint64_t LEAST_FILE = 2 * uint64_t(MOST);
constexpr double WRITE_SECONDS = 15;  // a slow disk gets a smaller file
constexpr double LOOK_SECONDS = 0.2;  // of each combination, to find the few that may be the best
constexpr double ROUND_SECONDS = 0.4; // of those, and of the seeks
constexpr int ROUNDS = 5;
constexpr double NEAR_BEST = 0.85, AS_GOOD = 0.94; // more in flight takes threads and places from the kernels
constexpr size_t MOST_FINALISTS = 6;
constexpr uint64_t SKIP = 4; // a skipping read starts this many read sizes behind the one before

// Fills the file with what no disk can compress away. Stops early on a slow disk.
void fill(DiskFile &file, uint64_t bytes, uint8_t *part) {
    uint64_t state = 0x9E3779B97F4A7C15u;
    Progress progress("writing a test file", bytes, "");
    const double start = platform::seconds();
    for (uint64_t done = 0; done < bytes; done += MOST) {
        stop_if_interrupted();
        if (done >= LEAST_FILE && platform::seconds() - start > WRITE_SECONDS) return;
        for (uint32_t i = 0; i < MOST; i += 8) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17; // xorshift64
            std::memcpy(part + i, &state, 8);
        }
        if (!file.append(part, MOST))
            throw Error("cannot write the test file", "", std::strerror(errno),
                        "Name another folder with --disk, or a smaller --disk-bytes.");
        progress.advance(MOST);
    }
}

struct Round {
    double seconds = 0;
    uint64_t reads = 0;
};

class Reader {
  public:
    Reader(DiskFile &file, bool direct, uint8_t *memory)
        : file_(file), direct_(direct), memory_(memory), pages_(file.size() / MOST * MOST) {}

    uint64_t bytes() const { return pages_; }

    // `depth` threads read for about `seconds`, but no more than the file holds; each read `stride` read sizes behind
    // the one before.
    Round run(uint32_t size, int depth, uint64_t stride, double seconds) {
        stop_if_interrupted();
        if (!direct_) file_.forget();
        std::atomic<uint64_t> next{0};
        std::atomic<bool> failed{false};
        const uint64_t places = pages_ / size, first = next_ / size;
        const double start = platform::seconds(), end = start + seconds;
        auto work = [&] {
            do {
                const uint64_t i = next.fetch_add(1), far = i * stride;
                if (i >= places) return;
                const uint64_t place = (first + far + (stride > 1 ? far / places : 0)) % places;
                // Each to another place, as what is read is kept: into one that is still in a cache it would be faster.
                uint8_t *to = memory_ + i % (uint64_t(MOST) * DEEPEST / size) * size;
                if (!file_.read(place * size, to, size)) failed = true;
            } while (!failed && platform::seconds() < end && !platform::interrupted());
        };
        std::vector<std::thread> threads;
        for (int i = 1; i < depth; ++i) threads.emplace_back(work);
        work();
        for (std::thread &thread : threads) thread.join();
        stop_if_interrupted();
        if (failed) throw Error("cannot read the test file back", "", "", "Name another folder with --disk.");
        const double took = platform::seconds() - start;
        const uint64_t reads = std::min(next.load(), places);
        next_ = (next_ + reads * stride * size) % pages_; // what the disk itself may still hold is not read again
        return {took, reads};
    }

    double rate(uint32_t size, int depth, double seconds) {
        const Round round = run(size, depth, 1, seconds);
        return static_cast<double>(round.reads * size) / round.seconds;
    }

  private:
    DiskFile &file_;
    const bool direct_;
    uint8_t *const memory_;
    const uint64_t pages_; // bytes that are read of the file
    uint64_t next_ = 0;
};

using Cell = DiskNumbers::Cell;

// Of the cells that are as good as the best, the one that needs the least memory for what is in flight.
const Cell &choose(const std::vector<Cell> &cells) {
    const auto slower = [](const Cell &a, const Cell &b) { return a.rate < b.rate; };
    const double best = std::max_element(cells.begin(), cells.end(), slower)->rate;
    const Cell *chosen = nullptr;
    const auto weight = [](const Cell &c) { return uint64_t(c.bytes) * static_cast<uint64_t>(c.in_flight); };
    for (const Cell &cell : cells)
        if (cell.rate >= AS_GOOD * best && (chosen == nullptr || weight(cell) < weight(*chosen) ||
                                            (weight(cell) == weight(*chosen) && cell.in_flight < chosen->in_flight)))
            chosen = &cell;
    return *chosen;
}

void measure_reads(Reader &reader, DiskNumbers &out) {
    Progress progress("reading it back", std::size(SIZES) * std::size(DEPTHS) + ROUNDS * MOST_FINALISTS, "rounds");
    for (const uint32_t size : SIZES)
        for (const int depth : DEPTHS) {
            out.cells.push_back({size, depth, reader.rate(size, depth, LOOK_SECONDS)});
            progress.advance(1);
        }
    std::vector<Cell> finalists = out.cells;
    std::sort(finalists.begin(), finalists.end(), [](const Cell &a, const Cell &b) { return a.rate > b.rate; });
    while (finalists.size() > MOST_FINALISTS || finalists.back().rate < NEAR_BEST * finalists[0].rate)
        finalists.pop_back();
    std::vector<std::vector<double>> rates(finalists.size());
    for (int round = 0; round < ROUNDS; ++round) // in turn: a busy period hits all of them
        for (size_t i = 0; i < finalists.size(); ++i) {
            rates[i].push_back(reader.rate(finalists[i].bytes, finalists[i].in_flight, ROUND_SECONDS));
            progress.advance(1);
        }
    for (size_t i = 0; i < finalists.size(); ++i) {
        finalists[i].rate = median(rates[i]);
        for (Cell &cell : out.cells)
            if (cell.bytes == finalists[i].bytes && cell.in_flight == finalists[i].in_flight) cell = finalists[i];
    }
    const Cell &chosen = choose(finalists);
    out.read_bytes = chosen.bytes, out.in_flight = chosen.in_flight, out.bytes_per_s = chosen.rate;
}

// The disk's share of its speed while all cores read RAM: a disk that is fast beside the RAM has to share it.
double measure_beside_ram(Reader &reader, uint32_t size, int depth) {
    Progress progress("reading beside RAM", ROUNDS, "rounds");
    std::vector<double> shares;
    for (int i = 0; i < ROUNDS; ++i) {
        const double alone = reader.rate(size, depth, ROUND_SECONDS);
        const RamTraffic traffic;
        shares.push_back(reader.rate(size, depth, ROUND_SECONDS) / alone);
        progress.advance(1);
    }
    return std::min(1.0, median(shares));
}

// What one read costs more that does not start where the one before ended, with as many in flight as were found best.
double measure_seek(Reader &reader, uint32_t size, int depth) {
    Progress progress("skipping through it", ROUNDS, "rounds");
    std::vector<double> costs;
    for (int i = 0; i < ROUNDS; ++i) {
        const Round straight = reader.run(size, depth, 1, ROUND_SECONDS);
        const Round skipping = reader.run(size, depth, SKIP, ROUND_SECONDS);
        costs.push_back(skipping.seconds / static_cast<double>(skipping.reads) -
                        straight.seconds / static_cast<double>(straight.reads));
        progress.advance(1);
    }
    return std::max(0.0, median(costs));
}

uint64_t size_of_test_file(const std::string &folder, uint64_t bytes) {
    std::error_code error;
    const uint64_t free = fs::space(fs::u8path(folder), error).available;
    if (error) throw Error("cannot measure the disk of " + folder, "", error.message(), "Name a folder with --disk.");
    const uint64_t size = std::min(bytes, free / 4) / MOST * MOST;
    if (size < LEAST_FILE)
        throw Error("the disk of " + folder + " is too full to measure", format_size(4 * LEAST_FILE) + " free",
                    format_size(free), "Name another folder with --disk.");
    return size;
}

} // namespace

DiskNumbers probe_disk(const std::string &where, uint64_t bytes) {
    const Pages memory(uint64_t(MOST) * DEEPEST);
    std::error_code error;
    const bool folder = !fs::is_regular_file(fs::u8path(where), error);
    const uint64_t wanted = folder ? size_of_test_file(where, std::max(bytes, LEAST_FILE)) : 0;
    DiskFile file(where, folder ? DiskFile::Kind::TEMPORARY : DiskFile::Kind::EXISTING);
    if (folder) fill(file, wanted, memory.data());
    if (file.size() < LEAST_FILE)
        throw Error(where + " is too small to measure the disk with", format_size(LEAST_FILE),
                    format_size(file.size()), "Name a folder with --disk.");
    DiskNumbers out;
    file.forget();
    out.direct = file.go_direct();
    if (!out.direct)
        say("the file system refuses direct reads; measured through the page cache, emptied before each round");
    Reader reader(file, out.direct, memory.data());
    out.file_bytes = reader.bytes();
    measure_reads(reader, out);
    out.bytes_per_s_beside_ram = out.bytes_per_s * measure_beside_ram(reader, out.read_bytes, out.in_flight);
    out.seek_s = measure_seek(reader, out.read_bytes, out.in_flight);
    return out;
}

} // namespace n730
