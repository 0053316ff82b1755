// Which transitions were ever drawn: a bit a slot.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ring.hpp"

namespace replaybank {

// Sets the bits of live ids. Before that, those of the ids that left since the last call are cleared: their slots are
// other ids' now. seen: the oldest id at the last call, and how many bits are set.
inline void mark_drawn(uint8_t* bits, int64_t capacity, const Ring& ring, int64_t* seen, const int64_t* ids, int64_t n) {
    int64_t drawn = seen[1];
    const int64_t left = std::min(ring.oldest() - seen[0], capacity);
    for (int64_t i = 0, slot = seen[0] % capacity; i < left; ++i) {
        drawn -= bits[slot / 8] >> slot % 8 & 1;
        bits[slot / 8] = static_cast<uint8_t>(bits[slot / 8] & ~(1 << slot % 8));
        if (++slot == capacity) slot = 0;
    }
    for (int64_t i = 0; i < n; ++i) {
        const auto slot = static_cast<uint64_t>(ring.slot(ids[i]));
        const auto bit = static_cast<uint8_t>(1 << slot % 8);
        drawn += !(bits[slot / 8] & bit);
        bits[slot / 8] |= bit;
    }
    seen[0] = ring.oldest();
    seen[1] = drawn;
}

}  // namespace replaybank
