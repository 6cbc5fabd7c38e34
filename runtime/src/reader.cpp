#include "reader.h"
#include "platform.h"
#include "progress.h"

#include <algorithm>
#include <chrono>
#include <system_error>

namespace n730 {

namespace {
constexpr int SPINS = 200;                                 // a few microseconds, before somebody goes to sleep
constexpr auto LOOK_AGAIN = std::chrono::milliseconds(50); // whether the user gave up
} // namespace

Reader::Reader(const Package &package, size_t plan, uint8_t *arena, int readers, int threads, double slow_seconds)
    : package_(package), read_bytes_(package.plans[plan].read_bytes), readers_(readers), slow_seconds_(slow_seconds),
      progress_(static_cast<size_t>(threads)) {
    for (uint32_t i = 0; i < package.segments.size(); ++i) {
        const Placement &place = package.placement(plan, i);
        if (place.tier == Tier::RAM) add(loads_, load_parts_, i, 0, arena + place.offset);
    }
    for (const Read &read : package.reads[plan])
        add(streams_, stream_parts_, read.segment, read.lead, arena + package.placement(plan, read.segment).offset);
    for (const Part &part : load_parts_) load_bytes_ += part.size;
    for (const Part &part : stream_parts_) pass_bytes_ += part.size;
    done_ = std::make_unique<std::atomic<uint64_t>[]>(streams_.size());
    for (size_t i = 0; i < streams_.size(); ++i) done_[i].store(0, std::memory_order_relaxed);
}

void Reader::add(std::vector<Item> &items, std::vector<Part> &parts, uint32_t segment, uint32_t lead, uint8_t *place) {
    // Parts of one size, as near to read_bytes as whole pieces allow: a short last one would cost nearly as much.
    const uint64_t size = package_.segments[segment].size;
    const uint64_t each = round_up(ceil_div(size, ceil_div(size, read_bytes_)), PIECE);
    for (uint64_t at = 0; at < size; at += each)
        parts.push_back({static_cast<uint32_t>(items.size()),
                         static_cast<uint32_t>(std::min<uint64_t>(each, size - at)), at});
    items.push_back({segment, lead, static_cast<uint32_t>(ceil_div(size, each)), place});
}

Reader::~Reader() {
    fail(nullptr);
    for (std::thread &worker : workers_) worker.join();
}

void Reader::fail(std::exception_ptr failure) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!failure_) failure_ = failure;
    stopped_.store(true);
    room_.notify_all();
    arrived_.notify_all();
}

void Reader::rethrow() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (failure_) std::rethrow_exception(failure_);
}

void Reader::work() {
    try {
        for (;;) {
            const uint64_t n = next_load_.fetch_add(1, std::memory_order_relaxed);
            if (n >= load_parts_.size()) break;
            if (stopped_.load()) return;
            const Part &part = load_parts_[n];
            read(loads_[part.item], part);
            loaded_.fetch_add(part.size);
            if (waiters_.load() > 0) {
                const std::lock_guard<std::mutex> lock(mutex_);
                arrived_.notify_all();
            }
        }
        while (!stream_parts_.empty()) {
            const uint64_t n = next_stream_.fetch_add(1, std::memory_order_relaxed);
            const Part &part = stream_parts_[n % stream_parts_.size()];
            const Item &item = streams_[part.item];
            // The reads before this one, less those that its place leaves alone.
            const uint64_t before = n / stream_parts_.size() * streams_.size() + part.item + 1;
            if (!wait_for_room(before - std::min<uint64_t>(before, item.lead))) return;
            read(item, part);
            bytes_read_.fetch_add(part.size, std::memory_order_relaxed);
            // A segment's parts of two passes are never under way together: its place has to be released between.
            const bool whole = (done_[part.item].fetch_add(1) + 1) % item.parts == 0;
            if (whole && waiters_.load() > 0) {
                const std::lock_guard<std::mutex> lock(mutex_);
                arrived_.notify_all();
            }
        }
    } catch (...) {
        fail(std::current_exception());
    }
}

void Reader::read(const Item &item, const Part &part) {
    read_weights(package_, item.segment, part.at, item.place + part.at, part.size);
}

uint64_t Reader::released() const {
    uint64_t least = ~uint64_t(0);
    for (const Progress &progress : progress_) least = std::min(least, progress.released.load());
    return least;
}

// Counters are published before the sleepers are counted, and sleepers count themselves before they look at the
// counters (both sequentially consistent): one of the two sees the other.
void Reader::release(int thread, uint64_t count) {
    progress_[static_cast<size_t>(thread)].released.store(count);
    if (readers_asleep_.load() > 0 && released() >= count) { // the last of the threads to come this far
        const std::lock_guard<std::mutex> lock(mutex_);
        room_.notify_all();
    }
    if (thread == 0 && watcher_) watcher_();
}

bool Reader::wait_for_room(uint64_t count) {
    for (int i = 0; i < SPINS; ++i) {
        if (released() >= count) return !stopped_.load();
        platform::cpu_pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    readers_asleep_.fetch_add(1);
    room_.wait(lock, [&] { return stopped_.load() || released() >= count; });
    readers_asleep_.fetch_sub(1);
    return !stopped_.load();
}

void Reader::look_for_progress(const std::string &what, uint64_t &bytes, double &since) {
    const uint64_t now_read = loaded_.load() + bytes_read_.load();
    const double now = platform::seconds();
    if (now_read != bytes) bytes = now_read, since = now;
    if (now - since < slow_seconds_ || said_slow_) return;
    said_slow_ = true;
    say("the disk is slow: nothing came for " + std::to_string(static_cast<int>(now - since)) +
        " s, still waiting for " + what);
}

// Sleeps until `done()`; false if that will not come true.
template <class Done> bool Reader::sleep_until(int thread, uint32_t segment, Done done) {
    uint64_t bytes = ~uint64_t(0);
    double since = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    waiters_.fetch_add(1);
    bool good;
    while (!(good = done()) && !stopped_.load() &&
           (finish_passes_.load() || !platform::interrupted())) {
        arrived_.wait_for(lock, LOOK_AGAIN);
        if (thread != 0) continue;
        lock.unlock(); // a terminal may be slow
        look_for_progress(segment_label(package_, segment), bytes, since);
        if (watcher_) watcher_();
        lock.lock();
    }
    waiters_.fetch_sub(1);
    return good;
}

bool Reader::wait_slowly(int thread, size_t read, uint64_t want) {
    for (int i = 0; i < SPINS; ++i) {
        if (done_[read].load(std::memory_order_acquire) >= want) return true;
        platform::cpu_pause();
    }
    const double start = platform::seconds();
    const bool good = sleep_until(thread, streams_[read].segment, [&] { return done_[read].load() >= want; });
    if (thread == 0) waited_ += platform::seconds() - start;
    return good;
}

void Reader::load(const Advance &advance) {
    try {
        for (int i = 0; i < readers_; ++i) workers_.emplace_back([this] { work(); });
    } catch (const std::system_error &) {
        throw Error("cannot start " + std::to_string(readers_) + " threads to read", "", "",
                    "Take fewer with --readers.");
    }
    uint64_t told = 0;
    while (told < load_bytes_) {
        const uint64_t before = told;
        const uint64_t at = std::min<uint64_t>(next_load_.load(), load_parts_.size());
        const uint32_t latest = loads_[load_parts_[at > 0 ? at - 1 : 0].item].segment;
        const bool more = sleep_until(0, latest, [&] { return loaded_.load() != before; });
        if (!more) {
            rethrow();
            throw Interrupted();
        }
        told = loaded_.load();
        if (advance) advance(told - before);
    }
}

} // namespace n730
