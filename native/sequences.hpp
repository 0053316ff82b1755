// Steps in a row: sequences of `length` steps of a stream, and steps far along a segment.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "rows.hpp"

namespace replaybank {

// What a column of a batch of sequences holds.
enum class Part : int64_t {
    STEPS = 0,      // a stored field of each step
    CHAIN = 1,      // the observation of each step, and the one after the last: length + 1
    AHEAD = 2,      // the next observation of each step
    START = 3,      // a stored field of the first step only
    VALID = 4,      // whether the step is there
    IS_FIRST = 5,   // whether it is the first of its segment
    MASK = 6,       // whether it is there and after the burn-in
    DISCOUNTS = 7,  // gamma, or 0 where it terminated
};

struct Track {
    Part part;
    int64_t from;    // offset in the record
    int64_t nbytes;  // of one step
    char* to;        // one step every `nbytes`
};

inline int64_t items_of(Part part, int64_t length) {
    return part == Part::CHAIN ? length + 1 : part == Part::START ? 1 : length;
}

// Walks along each sequence, then copies it column by column. Where there are fewer than `length` steps the rest is zeros.
// Ids must be live. (Rows of one stream lie at regular distances, which the processor fetches ahead by itself: hints to
// fetch gained nothing.)
class SequenceReader {
   public:
    SequenceReader(const Store& store, const int64_t* starts, int64_t length, int64_t burn_in, bool across,
                   float gamma)
        : store_(store), ring_(store.ring()), starts_(starts), length_(length), burn_in_(burn_in),
          across_(across), gamma_(gamma), rows_(static_cast<size_t>(length)), ahead_(static_cast<size_t>(length)) {}

    // The sequences begin … end - 1.
    void read(const Track* tracks, int64_t n_tracks, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            if (i + 1 < end) prefetch(store_.row(ring_.slot(starts_[i + 1])) + store_.next_at);
            const int64_t count = walk(starts_[i]);
            for (int64_t c = 0; c < n_tracks; ++c) copy(tracks[c], i, count);
        }
    }

   private:
    // Fills rows_ and ahead_ with the steps from `id` on and their next observations; gives how many there are.
    int64_t walk(int64_t id) {
        for (int64_t steps = 0;;) {
            const char* row = store_.row(ring_.slot(id));
            rows_[static_cast<size_t>(steps)] = row;
            int64_t distance = store_.link(row, store_.next_at);
            const char*& ahead = ahead_[static_cast<size_t>(steps)];
            if (distance) {
                ahead = store_.row(ring_.slot(id + distance));
            } else {
                const uint32_t tail = store_.link(row, store_.tail_at);
                ahead = store_.tail(tail);
                if (across_) distance = store_.onward[tail];
            }
            if (++steps == length_ || !distance) return steps;
            id += distance;
        }
    }

    void copy(const Track& track, int64_t i, int64_t count) const {
        const int64_t items = items_of(track.part, length_);
        const char* const* rows = rows_.data();
        char* to = track.to + i * items * track.nbytes;
        const Copy fields{Source::FIRST, track.from, track.nbytes, to};
        int64_t filled = count;
        switch (track.part) {
            case Part::STEPS: copy_items(rows, fields, 0, count); break;
            case Part::AHEAD: copy_items(ahead_.data(), fields, 0, count); break;
            case Part::START: copy_items(rows, fields, 0, filled = 1); break;
            case Part::CHAIN:
                copy_items(rows, fields, 0, count);
                std::memcpy(to + count * track.nbytes, ahead_[static_cast<size_t>(count - 1)] + track.from, track.nbytes);
                ++filled;
                break;
            case Part::VALID: std::memset(to, 1, count); break;
            case Part::MASK: {
                const int64_t before = std::min(burn_in_, count);
                std::memset(to, 0, before);
                std::memset(to + before, 1, count - before);
                break;
            }
            // Inside a segment only the first step can be its first, and only the last can have terminated.
            case Part::IS_FIRST:
                std::memset(to, 0, count);
                for (int64_t t = 0; t < (across_ ? count : 1); ++t) to[t] = store_.link(rows[t], store_.step_at) == 0;
                break;
            case Part::DISCOUNTS: {
                auto* factors = reinterpret_cast<float*>(to);
                std::fill(factors, factors + count, gamma_);
                for (int64_t t = across_ ? 0 : count - 1; t < count; ++t) {
                    if (rows[t][store_.terminated_at]) factors[t] = 0.0f;
                }
                break;
            }
        }
        std::memset(to + filled * track.nbytes, 0, (items - filled) * track.nbytes);
    }

    const Store& store_;
    const Ring ring_;
    const int64_t *starts_, length_, burn_in_;
    const bool across_;
    const float gamma_;
    std::vector<const char*> rows_, ahead_;  // of the steps, and of their next observations
};

// Goes up to steps[i] rows along the segment of each id, forward or back, all abreast: to[i] is the id there, taken[i]
// how many rows that was.
inline void follow(const Store& s, const int64_t* ids, int64_t n, const int64_t* steps, bool forward, int64_t* to,
                   int64_t* taken) {
    const Ring ring = s.ring();
    const int64_t at = forward ? s.next_at : s.previous_at;
    std::vector<int64_t> going(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
        going[static_cast<size_t>(i)] = i;
        to[i] = ids[i];
        taken[i] = 0;
        prefetch(s.row(ring.slot(ids[i])) + at);
    }
    while (!going.empty()) {
        size_t left = 0;
        for (const int64_t i : going) {
            if (taken[i] >= steps[i]) continue;
            const int64_t distance = s.link(s.row(ring.slot(to[i])), at);
            const int64_t id = forward ? to[i] + distance : to[i] - distance;
            if (!distance || !ring.live(id)) continue;
            to[i] = id;
            ++taken[i];
            prefetch(s.row(ring.slot(id)) + at);
            going[left++] = i;
        }
        going.resize(left);
    }
}

}  // namespace replaybank
