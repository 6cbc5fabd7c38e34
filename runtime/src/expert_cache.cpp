#include "expert_cache.h"

#include <algorithm>

namespace n730 {

ExpertCache::ExpertCache(const Package &package, size_t plan, uint8_t *arena)
    : package_(package), base_(arena + package.plans[plan].experts_offset) {
    const Plan &p = package.plans[plan];
    if (p.expert_places == 0) return;
    where_.assign(package.segments.size(), RESIDENT);
    for (size_t i = 0; i < where_.size(); ++i) {
        if (package.placement(plan, i).tier != Tier::EXPERT) continue;
        where_[i] = NONE;
        place_bytes_ = std::max(place_bytes_, package.segments[i].size);
    }
    places_.resize(p.expert_places);
    expected_.reserve(where_.size());
    guessed_.reserve(where_.size());
    to_read_.reserve(places_.size());
    const size_t readers = std::min<size_t>(p.reads_in_flight, p.expert_places);
    for (size_t i = 0; i < readers; ++i) workers_.emplace_back([this] { work(); });
}

ExpertCache::~ExpertCache() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stopped_ = true;
    }
    work_.notify_all();
    for (std::thread &worker : workers_) worker.join();
}

void ExpertCache::work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        work_.wait(lock, [&] { return stopped_ || !to_read_.empty(); });
        if (stopped_) return;
        const uint32_t place = to_read_.front();
        to_read_.erase(to_read_.begin());
        const uint32_t segment = places_[place].segment;
        const size_t size = static_cast<size_t>(package_.segments[segment].size);
        lock.unlock();
        std::exception_ptr failure;
        try {
            read_weights(package_, segment, 0, base_ + place * place_bytes_, size);
        } catch (...) {
            failure = std::current_exception();
        }
        lock.lock();
        places_[place].loading = false;
        bytes_read_ += size;
        if (failure && !failure_) failure_ = failure;
        feed();
        arrived_.notify_all();
    }
}

bool ExpertCache::start(uint32_t segment, bool urgent) {
    size_t best = places_.size(), last = places_.size();
    for (size_t i = 0; i < places_.size(); ++i) {
        const Place &p = places_[i];
        if (p.loading || i == held_) continue;
        if (p.expected) {
            if (last == places_.size() || p.segment > places_[last].segment) last = i;
        } else if (best == places_.size() || p.used < places_[best].used) {
            best = i;
        }
    }
    if (best == places_.size() && urgent) best = last;
    if (best == places_.size()) return false;
    Place &place = places_[best];
    if (place.segment != NONE) where_[place.segment] = NONE;
    if (place.expected) expected_.push_back(place.segment);
    place = {segment, true, true, ++clock_};
    where_[segment] = static_cast<uint32_t>(best);
    to_read_.push_back(static_cast<uint32_t>(best));
    work_.notify_one();
    return true;
}

void ExpertCache::feed() {
    while (!expected_.empty()) {
        const uint32_t segment = expected_.front();
        if (where_[segment] == NONE && !start(segment, false)) return;
        expected_.erase(expected_.begin());
    }
    // One guess at a time, so that no expert that turns out to be wanted waits for many that are not.
    const bool idle = std::none_of(places_.begin(), places_.end(), [](const Place &p) { return p.loading; });
    while (idle && !guessed_.empty()) {
        const uint32_t segment = guessed_.front();
        guessed_.erase(guessed_.begin());
        if (where_[segment] == NONE) {
            if (start(segment, false)) places_[where_[segment]].expected = false;
            return;
        }
    }
}

void ExpertCache::expect(const std::vector<uint32_t> &segments) {
    const std::lock_guard<std::mutex> lock(mutex_);
    held_ = NONE; // the steps before are done with it
    for (Place &place : places_) place.expected = false;
    expected_.clear();
    guessed_.clear();
    for (const uint32_t segment : segments) {
        if (where_[segment] == NONE) expected_.push_back(segment);
        else places_[where_[segment]].expected = true;
    }
    feed();
}

void ExpertCache::guess(const std::vector<uint32_t> &segments) {
    const std::lock_guard<std::mutex> lock(mutex_);
    guessed_.assign(segments.begin(), segments.end());
    feed();
}

const uint8_t *ExpertCache::get(uint32_t segment) {
    std::unique_lock<std::mutex> lock(mutex_);
    ++asked_;
    held_ = NONE;
    const bool there = where_[segment] != NONE && !places_[where_[segment]].loading;
    missed_ += !there;
    if (where_[segment] == NONE) {
        expected_.erase(std::remove(expected_.begin(), expected_.end(), segment), expected_.end());
        arrived_.wait(lock, [&] { return failure_ || start(segment, true); });
    }
    arrived_.wait(lock, [&] { return failure_ || !places_[where_[segment]].loading; });
    if (failure_) std::rethrow_exception(failure_);
    held_ = where_[segment];
    Place &place = places_[held_];
    place.expected = false;
    place.used = ++clock_;
    feed();
    return base_ + uint64_t(held_) * place_bytes_;
}

} // namespace n730
