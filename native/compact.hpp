// Pools that shrink: what lies beyond the number in use moves to free places before it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "store.hpp"

namespace replaybank {

// Makes the places in use those from 0 on, by telling `moved(from, to)` of each record that must move. `visit` calls
// its argument for each place in use, which may be changed.
template <class Visit, class Moved>
void compact(const Pool& pool, Visit&& visit, Moved&& moved) {
    const int64_t in_use = *pool.used - *pool.free_count;
    uint32_t* end = std::remove_if(pool.free, pool.free + *pool.free_count,
                                   [&](uint32_t index) { return index >= in_use; });
    visit([&](uint32_t& index) {
        if (index == NONE || index < in_use || end == pool.free) return;
        const uint32_t to = *--end;
        moved(index, to);
        index = to;
    });
    *pool.used = in_use;
    *pool.free_count = 0;
}

inline void compact(const Store& s) {
    const auto each = [&](int64_t at, auto&& change) {
        for (int64_t id = s.oldest(); id < s.added(); ++id) {
            char* row = s.row(id % s.capacity);
            uint32_t index = s.link(row, at);
            change(index);
            s.set_link(row, at, index);
        }
    };
    compact(s.free_tails, [&](auto&& change) { each(s.tail_at, change); },
            [&](uint32_t from, uint32_t to) {
                std::memcpy(s.tail(to), s.tail(from), static_cast<size_t>(s.obs_nbytes));
                s.onward[to] = s.onward[from];
            });
    if (s.frames == 1) return;
    compact(s.free_older,
            [&](auto&& change) {
                each(s.older_at, change);
                each(s.next_older_at, change);
            },
            [&](uint32_t from, uint32_t to) {
                std::memcpy(s.older_frames(to), s.older_frames(from),
                            static_cast<size_t>((s.frames - 1) * s.obs_nbytes));
            });
}

}  // namespace replaybank
