// `mark_drawn`: which transitions were ever drawn.
#pragma once

#include "../usage.hpp"

#include <algorithm>

#include "arrays.hpp"
#include "thresholds.hpp"

namespace replaybank {

// Gives how many were ever added: what was drawn then is known up to there.
inline int64_t py_mark_drawn(nb::handle cursor, int64_t capacity, nb::handle bits, nb::handle seen, nb::handle ids) {
    uint8_t* drawn = uint8s(bits);
    const int64_t *ends = int64s(cursor), *places = int64s(ids), n = size_of(ids);
    int64_t* counts = int64s(seen);
    if (capacity < 1 || size_of(bits) < (capacity + 7) / 8 || size_of(cursor) < 2 || size_of(seen) != 2) {
        throw nb::value_error("a bit a slot, and two counts");
    }
    const int64_t added = ends[0], oldest = std::max(ends[1], added - capacity);
    if (counts[0] < 0 || oldest < counts[0]) throw nb::value_error("what has left does not come back");
    const Ring ring(capacity, oldest, added);
    bool live = true;
    for (int64_t i = 0; i < n; ++i) live &= (places[i] >= oldest) & (places[i] < added);
    if (!live) require_live(ring, places, n);
    MaybeReleased released(n * 8 + oldest - counts[0]);
    mark_drawn(drawn, capacity, ring, counts, places, n);
    return added;
}

}  // namespace replaybank
