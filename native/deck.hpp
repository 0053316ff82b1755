// A deck of slots that is shuffled as it is dealt.
//
// cards[0 … waiting) are still to be dealt in this round, in no order that counts; cards[waiting … size) have been.
// Dealing takes any of the waiting ones and puts it at their end (Fisher & Yates 1938), so a round is a uniform
// permutation, and the next one begins with waiting = size: nothing is ever shuffled as a whole.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "prefetch.hpp"

namespace replaybank {

struct Deck {
    uint32_t* cards;   // slots
    uint32_t* places;  // where each slot lies in `cards`
    int64_t* counts;   // waiting, size
    int64_t capacity;

    int64_t waiting() const { return counts[0]; }
    int64_t size() const { return counts[1]; }

    void swap(int64_t a, int64_t b) {
        std::swap(cards[a], cards[b]);
        places[cards[a]] = static_cast<uint32_t>(a);
        places[cards[b]] = static_cast<uint32_t>(b);
    }

    // The slots of consecutive ids join the waiting ones, wherever they were before.
    void add(int64_t first_id, int64_t n) {
        for (int64_t id = first_id; id < first_id + n; ++id) {
            const auto slot = static_cast<uint32_t>(id % capacity);
            if (size() < capacity) {  // ids follow each other: no slot comes again before all are taken
                cards[size()] = slot;
                places[slot] = static_cast<uint32_t>(size());
                ++counts[1];
            }
            if (places[slot] >= waiting()) swap(places[slot], counts[0]++);
        }
    }

    // The slots of consecutive ids, which must be there, leave.
    void drop(int64_t first_id, int64_t n) {
        for (int64_t id = first_id; id < first_id + n; ++id) {
            int64_t place = places[id % capacity];
            if (place < waiting()) {
                swap(place, --counts[0]);
                place = waiting();
            }
            swap(place, --counts[1]);
        }
    }

    // Deals `n` of the waiting slots but the first `kept`, by uniform numbers in [0, 1).
    void deal(int64_t kept, const double* uniforms, int64_t n, int64_t* slots) {
        const auto chosen = [&](int64_t i) {
            const int64_t left = waiting() - kept - i;
            return kept + static_cast<int64_t>(uniforms[i] * static_cast<double>(left));
        };
        constexpr int64_t AHEAD = 16;
        const int64_t last = waiting() - 1;
        int64_t looked = 0;
        for (int64_t i = 0; i < n; ++i) slots[i] = chosen(i);
        for (int64_t i = 0; i < n; ++i) {
            for (; looked < std::min(i + AHEAD, n); ++looked) prefetch(cards + slots[looked]);
            swap(slots[i], last - i);
            slots[i] = cards[last - i];
        }
        counts[0] -= n;
    }
};

}  // namespace replaybank
