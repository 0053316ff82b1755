// Which transitions were ever drawn: a bit a slot.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ring.hpp"

namespace replaybank {

// Sets the bits of live ids. Before that, those of the ids that left since `oldest_seen` are cleared: their slots are
// other ids' now. Returns how many bits are set more, or less, than before.
inline int64_t mark_drawn(uint8_t* bits, int64_t capacity, int64_t oldest_seen, const Ring& ring, const int64_t* ids,
                          int64_t n) {
    int64_t change = 0;
    const auto clear = [&](int64_t slot) {
        change -= bits[slot / 8] >> slot % 8 & 1;
        bits[slot / 8] = static_cast<uint8_t>(bits[slot / 8] & ~(1 << slot % 8));
    };
    const int64_t left = std::min(ring.oldest() - oldest_seen, capacity);
    for (int64_t i = 0, slot = oldest_seen % capacity; i < left; ++i) {
        clear(slot);
        if (++slot == capacity) slot = 0;
    }
    for (int64_t i = 0; i < n; ++i) {
        const int64_t slot = ring.slot(ids[i]);
        const auto bit = static_cast<uint8_t>(1 << slot % 8);
        change += !(bits[slot / 8] & bit);
        bits[slot / 8] |= bit;
    }
    return change;
}

}  // namespace replaybank
