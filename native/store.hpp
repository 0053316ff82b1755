// Rows, tails, links and streams: the one layout, in NumPy arrays that Python owns (docs/architecture.md has the picture).
//
// A row holds one transition but for its next observation. That is the observation of the following row of the stream,
// or, where there is none, a tail: a record of the pool that lies outside the rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "ring.hpp"

namespace replaybank {

constexpr uint32_t NONE = 0xffffffffu;       // no tail, no frames put aside
constexpr uint32_t LAST_STEP = 0xffffffffu;  // after so many steps a new segment begins

// A stack of indices into a pool: last freed, first reused; beyond them the pool was never used.
struct Pool {
    uint32_t* free;
    int64_t *used, *free_count;

    uint32_t take() const { return *free_count > 0 ? free[--*free_count] : static_cast<uint32_t>((*used)++); }
    void give_back(uint32_t index) const {
        if (index != NONE) free[(*free_count)++] = index;
    }
};

struct Store {
    char* rows;
    char* tails;        // records of one observation (of one frame, where observations are stacks)
    char* older;        // records of frames - 1 frames, oldest first
    uint32_t* onward;   // by tail, the distance from the row that holds it to the stream's next one; 0 for none
    int64_t* newest;    // per stream, the id of its newest row, or -2 - id where a segment begins next; -1 for none
    int64_t* cursor;    // added, start, and used and free records of tails and of older
    Pool free_tails, free_older;
    int64_t capacity, row_nbytes, next_at, previous_at, tail_at, step_at, terminated_at, truncated_at, obs_nbytes;
    int64_t frames;     // of a stack as it is added; 1 where rows keep whole observations
    int64_t zero;       // whether stacks are padded with zeros
    int64_t older_at, next_older_at;  // links to frames put aside; -1 where rows keep whole observations

    int64_t& added() const { return cursor[0]; }
    int64_t start() const { return cursor[1]; }
    int64_t oldest() const { return std::max(start(), added() - capacity); }
    Ring ring() const { return Ring(capacity, oldest(), added()); }

    char* row(int64_t slot) const { return rows + slot * row_nbytes; }
    char* tail(uint32_t index) const { return tails + static_cast<int64_t>(index) * obs_nbytes; }
    char* older_frames(uint32_t index) const { return older + static_cast<int64_t>(index) * (frames - 1) * obs_nbytes; }

    uint32_t link(const char* r, int64_t at) const {
        uint32_t value;
        std::memcpy(&value, r + at, sizeof value);
        return value;
    }
    void set_link(char* r, int64_t at, uint32_t value) const { std::memcpy(r + at, &value, sizeof value); }
    bool ended(const char* r) const { return r[terminated_at] || r[truncated_at]; }

    // What a row that leaves keeps elsewhere goes back to the pools.
    void give_back_of(const char* r) const {
        free_tails.give_back(link(r, tail_at));
        if (frames > 1) {
            free_older.give_back(link(r, older_at));
            free_older.give_back(link(r, next_older_at));
        }
    }

    // What a stream adds next begins a new segment.
    bool closed(int64_t stream) const { return newest[stream] < -1; }
    void close(int64_t stream) const {
        if (newest[stream] >= 0) newest[stream] = -2 - newest[stream];
    }
    // The id of a stream's newest row, whether it is still here or not; -1 for none.
    int64_t newest_of(int64_t stream) const { return closed(stream) ? -2 - newest[stream] : newest[stream]; }
};

}  // namespace replaybank
