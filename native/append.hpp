// Appending: transitions into rows, each linked to the row before it in its stream where it goes on from that.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "stacks.hpp"
#include "store.hpp"

namespace replaybank {

enum class Place : int64_t { ROW = 0, NEXT_OBS = 1 };

// One leaf field of the transitions to append: where it goes, and the caller's values. An observation that is a stack
// comes as that many frames, oldest first, of which the newest is kept.
struct Column {
    Place place;
    int64_t at;      // offset in the row, or in the tail's record for the next observation
    int64_t nbytes;  // of one item, or of one frame
    int64_t frames;  // of one item; 1 where it is no stack
    bool is_obs;     // the observation, or the next one
    const char* values;

    const char* frame(int64_t i, int64_t j) const { return values + (i * frames + j) * nbytes; }
    const char* newest(int64_t i) const { return frame(i, frames - 1); }
};

// The transitions to append.
struct Columns {
    const Column* all;
    int64_t n;

    // Whether `same(column)` holds for each column of the observation, or of the next one.
    template <class Same>
    bool every(Place place, Same&& same) const {
        for (int64_t c = 0; c < n; ++c) {
            if (all[c].is_obs && all[c].place == place && !same(all[c])) return false;
        }
        return true;
    }
};

inline bool all_zero(const char* bytes, int64_t n) {
    return n == 0 || (bytes[0] == 0 && std::memcmp(bytes, bytes + 1, static_cast<size_t>(n - 1)) == 0);
}

// Whether the older frames of transition i's observation are what padding makes of its newest one.
inline bool is_padded(const Store& s, const Columns& columns, int64_t i) {
    return columns.every(Place::ROW, [&](const Column& column) {
        for (int64_t j = 0; j + 1 < column.frames; ++j) {
            const char* frame = column.frame(i, j);
            if (s.zero ? !all_zero(frame, column.nbytes)
                       : std::memcmp(frame, column.newest(i), static_cast<size_t>(column.nbytes)) != 0) return false;
        }
        return true;
    });
}

// Whether the next observation of transition i begins with what its observation ends with.
inline bool is_shifted(const Columns& columns, int64_t i) {
    const Column* obs = columns.all;
    return columns.every(Place::NEXT_OBS, [&](const Column& column) {
        while (!(obs->is_obs && obs->place == Place::ROW)) ++obs;  // the leaves of both come in the same order
        const Column& before = *obs++;
        const auto size = static_cast<size_t>((column.frames - 1) * column.nbytes);
        return std::memcmp(column.frame(i, 0), before.frame(i, 1), size) == 0;
    });
}

// Puts aside the older frames of transition i's observation, or of its next one.
inline uint32_t put_aside(const Store& s, const Columns& columns, Place place, int64_t i) {
    const uint32_t index = s.free_older.take();
    columns.every(place, [&](const Column& column) {
        for (int64_t j = 0; j + 1 < column.frames; ++j) {
            std::memcpy(s.older_frames(index) + j * s.obs_nbytes + column.at, column.frame(i, j),
                        static_cast<size_t>(column.nbytes));
        }
        return true;
    });
    return index;
}

// Whether the older frames of transition i's observation are those that come next after row `before`.
inline bool older_frames_fit(const Store& s, const Ring& ring, const char* row, int64_t before, const Columns& columns,
                             int64_t i) {
    thread_local std::vector<const char*> frames;
    frames.resize(static_cast<size_t>(s.frames));
    const uint32_t aside = s.link(row, s.next_older_at);
    if (aside != NONE) {
        for (int64_t j = 0; j + 1 < s.frames; ++j) frames[j + 1] = s.older_frames(aside) + j * s.obs_nbytes;
    } else if (!stack_of(s, ring, Stacking{s.frames, s.zero != 0}, before, frames.data())) {
        return false;
    }
    return columns.every(Place::ROW, [&](const Column& column) {
        for (int64_t j = 0; j + 1 < column.frames; ++j) {
            const char* kept = frames[j + 1];
            if (kept ? std::memcmp(kept + column.at, column.frame(i, j), static_cast<size_t>(column.nbytes)) != 0
                     : !all_zero(column.frame(i, j), column.nbytes)) return false;
        }
        return true;
    });
}

// The newest row of the stream, where transition i goes on from it: it must still be here, must not have ended, must lead
// to this observation, and its steps must still be countable. Else nullptr.
inline char* row_before(const Store& s, int64_t before, int64_t id, const Columns& columns, int64_t i) {
    const int64_t oldest = std::max(s.start(), id + 1 - s.capacity);
    if (before < oldest || before < 0) return nullptr;
    char* row = s.row(before % s.capacity);
    if (s.ended(row) || s.link(row, s.step_at) == LAST_STEP) return nullptr;
    const char* open = s.tail(s.link(row, s.tail_at));
    const bool leads_here = columns.every(Place::ROW, [&](const Column& column) {
        return std::memcmp(open + column.at, column.newest(i), static_cast<size_t>(column.nbytes)) == 0;
    });
    if (!leads_here) return nullptr;
    if (s.frames > 1 && !older_frames_fit(s, Ring(s.capacity, oldest, id), row, before, columns, i)) return nullptr;
    return row;
}

// `row` goes on from the row `before`, `distance` ids back: that one leads to it, and hands on what it keeps of the next
// observation. Gives the tail that is handed on.
inline uint32_t go_on(const Store& s, char* row, char* before, uint32_t distance) {
    const uint32_t tail = s.link(before, s.tail_at);
    s.set_link(row, s.previous_at, distance);
    s.set_link(row, s.step_at, s.link(before, s.step_at) + 1);
    s.set_link(before, s.next_at, distance);
    s.set_link(before, s.tail_at, NONE);
    if (s.frames > 1) {
        s.set_link(row, s.older_at, s.link(before, s.next_older_at));
        s.set_link(before, s.next_older_at, NONE);
    }
    return tail;
}

// `row`, of transition i under this id, begins a segment; the last row of the stream's segment before, if still here,
// is told where. Gives the tail that is taken.
inline uint32_t begin_segment(const Store& s, char* row, int64_t before, int64_t id, const Columns& columns, int64_t i) {
    if (before >= std::max<int64_t>(0, std::max(s.start(), id + 1 - s.capacity))) {
        s.onward[s.link(s.row(before % s.capacity), s.tail_at)] = static_cast<uint32_t>(id - before);
    }
    const uint32_t tail = s.free_tails.take();
    s.onward[tail] = 0;
    s.set_link(row, s.previous_at, 0);
    s.set_link(row, s.step_at, 0);
    if (s.frames > 1) {
        s.set_link(row, s.older_at, is_padded(s, columns, i) ? NONE : put_aside(s, columns, Place::ROW, i));
    }
    return tail;
}

// Appends `n` transitions; transition t belongs to stream owners[t], or to stream t % streams where that is not given.
// Its values are item t of the columns, or, where those have an item a stream, the item of its stream.
inline void append(const Store& s, const Columns& columns, int64_t n, const int64_t* owners, bool item_a_stream,
                   int64_t streams) {
    for (int64_t t = 0; t < n; ++t) {
        const int64_t id = s.added();
        const int64_t owner = owners ? owners[t] : t % streams;
        const int64_t i = item_a_stream ? owner : t;
        char* row = s.row(id % s.capacity);
        if (id - s.capacity >= s.start()) s.give_back_of(row);  // who stood here leaves

        const int64_t before = s.newest_of(owner);
        char* previous = s.closed(owner) ? nullptr : row_before(s, before, id, columns, i);
        const uint32_t tail = previous ? go_on(s, row, previous, static_cast<uint32_t>(id - before))
                                       : begin_segment(s, row, before, id, columns, i);
        s.set_link(row, s.next_at, 0);
        s.set_link(row, s.tail_at, tail);
        if (s.frames > 1) {
            s.set_link(row, s.next_older_at,
                       is_shifted(columns, i) ? NONE : put_aside(s, columns, Place::NEXT_OBS, i));
        }

        char* next_obs = s.tail(tail);
        for (int64_t c = 0; c < columns.n; ++c) {
            const Column& column = columns.all[c];
            char* to = (column.place == Place::ROW ? row : next_obs) + column.at;
            std::memcpy(to, column.newest(i), static_cast<size_t>(column.nbytes));
        }
        s.newest[owner] = id;
        s.added() = id + 1;
    }
}

}  // namespace replaybank
