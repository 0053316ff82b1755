// Ids by number: which one a uniform number means, and how many of some are live.
#pragma once

#include <cstdint>

namespace replaybank {

// ids = oldest + floor(uniforms * size): a uniform number in [0, 1) to one of `size` ids.
inline void spread(const double* uniforms, int64_t n, int64_t oldest, int64_t size, int64_t* ids) {
    for (int64_t i = 0; i < n; ++i) ids[i] = oldest + static_cast<int64_t>(uniforms[i] * static_cast<double>(size));
}

// How many ids are live, or -1 - position of the first that was never given out.
inline int64_t count_live(const int64_t* ids, int64_t n, int64_t oldest, int64_t added) {
    int64_t live = 0;
    for (int64_t i = 0; i < n; ++i) {
        if (ids[i] < 0 || ids[i] >= added) return -1 - i;
        live += ids[i] >= oldest;
    }
    return live;
}

}  // namespace replaybank
