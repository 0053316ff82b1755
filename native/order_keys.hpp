// The sorted entries of one node of an order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "prefetch.hpp"

namespace replaybank {

struct Entry {
    double priority;
    int64_t id;
};

inline bool before(const Entry& a, const Entry& b) {
    return a.priority < b.priority || (a.priority == b.priority && a.id < b.id);
}

constexpr int64_t FANOUT = 32;
constexpr Entry AFTER_ALL{std::numeric_limits<double>::infinity(), 0};

// Sorted entries, at most FANOUT of them. The places that are free have a priority of infinity, which comes after all.
struct Keys {
    double priority[FANOUT];
    int64_t id[FANOUT];

    Entry operator[](int64_t k) const { return {priority[k], id[k]}; }

    void set(int64_t k, const Entry& entry) {
        priority[k] = entry.priority;
        id[k] = entry.id;
    }

    void clear() { std::fill(priority, priority + FANOUT, AFTER_ALL.priority); }

    void insert(int64_t at, const Entry& entry) {
        const size_t nbytes = static_cast<size_t>(FANOUT - 1 - at) * 8;
        std::memmove(priority + at + 1, priority + at, nbytes);
        std::memmove(id + at + 1, id + at, nbytes);
        set(at, entry);
    }

    void erase(int64_t at) {
        const size_t nbytes = static_cast<size_t>(FANOUT - 1 - at) * 8;
        std::memmove(priority + at, priority + at + 1, nbytes);
        std::memmove(id + at, id + at + 1, nbytes);
        priority[FANOUT - 1] = AFTER_ALL.priority;
    }

    // Takes `n` entries from `begin` on out of another node.
    void take(int64_t to, Keys& from, int64_t begin, int64_t n) {
        std::memcpy(priority + to, from.priority + begin, static_cast<size_t>(n) * 8);
        std::memcpy(id + to, from.id + begin, static_cast<size_t>(n) * 8);
        std::fill_n(from.priority + begin, n, AFTER_ALL.priority);
    }

    void fetch() const {
        for (int line = 0; line < 4; ++line) prefetch(priority + 8 * line);
    }

    // Ties are rare, or else all are ties: that branch is one to predict.
    bool comes_before(int64_t k, const Entry& entry) const {
        bool less = priority[k] < entry.priority;
        if (priority[k] == entry.priority) [[unlikely]] less = id[k] < entry.id;
        return less;
    }

    // How many come before `entry`. Always the same steps, none of them a branch: which half it is in is a coin toss.
    int64_t place_of(const Entry& entry) const {
        int64_t at = 0;
        for (int64_t half = FANOUT / 2; half > 0; half /= 2) at += half * comes_before(at + half - 1, entry);
        return at + comes_before(at, entry);
    }

    // The same for one who has a guess.
    int64_t place_of(const Entry& entry, int64_t guess) const {
        const bool right = guess < FANOUT && (guess == 0 || comes_before(guess - 1, entry)) && !comes_before(guess, entry);
        return right ? guess : place_of(entry);
    }
};

}  // namespace replaybank
