// Stacks of frames: a row keeps the newest frame of its observation; the older ones are found by walking back.
//
// The stack of a row ends with its own frame. Before it come, in this order of preference: the older frames that were put
// aside with the row, since nothing else could rebuild them; the stack of the row before it in its segment; or, at a
// segment's start, padding. So what is rebuilt is what was added, whatever that was.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "prefetch.hpp"
#include "ring.hpp"
#include "store.hpp"
#include "workers.hpp"

namespace replaybank {

// How a stack is read: of `frames` frames; what stands before a segment's first frame: zeros, or that frame again.
struct Stacking {
    int64_t frames;
    bool zero;
};

// Fills frames[0 … j - 1] once row, which is the frame j of a stack, is known to need no row before it.
inline bool fill_older(const Store& s, const Stacking& stacking, const char* row, int64_t j, const char** frames) {
    if (s.older_at >= 0 && s.link(row, s.older_at) != NONE) {
        const char* older = s.older_frames(s.link(row, s.older_at)) + (stacking.frames - 1 - j) * s.obs_nbytes;
        for (int64_t m = 0; m < j; ++m) frames[m] = older + m * s.obs_nbytes;
        return true;
    }
    if (s.link(row, s.previous_at) != 0) return false;
    for (int64_t m = 0; m < j; ++m) frames[m] = stacking.zero ? nullptr : row;
    return true;
}

// The frames of a live row's observation, oldest first: records that begin with a frame, nullptr for zeros. False where
// a row that is needed has left.
inline bool stack_of(const Store& s, const Ring& ring, const Stacking& stacking, int64_t id, const char** frames) {
    for (int64_t j = stacking.frames - 1;; --j) {
        const char* row = s.row(ring.slot(id));
        frames[j] = row;
        if (j == 0 || fill_older(s, stacking, row, j, frames)) return true;
        id -= s.link(row, s.previous_at);
        if (!ring.live(id)) return false;
    }
}

// The same for n rows abreast: frames[i * width …], so that the rows of one step back are fetched together.
// complete[i]: whether no needed row has left.
inline void stacks_of(const Store& s, const Ring& ring, const Stacking& stacking, const int64_t* ids, int64_t n,
                      const char** frames, int64_t width, bool* complete) {
    thread_local std::vector<int64_t> open, at;
    open.resize(static_cast<size_t>(n));
    at.assign(ids, ids + n);
    const auto fetch = [&](int64_t i) { prefetch(s.row(ring.slot(at[i])) + s.previous_at); };
    for (int64_t i = 0; i < n; ++i) {
        open[i] = i;
        fetch(i);
    }
    int64_t n_open = n;
    for (int64_t j = stacking.frames - 1; n_open > 0; --j) {
        int64_t still = 0;
        for (int64_t o = 0; o < n_open; ++o) {
            const int64_t i = open[o];
            const char* row = s.row(ring.slot(at[i]));
            frames[i * width + j] = row;
            complete[i] = j == 0 || fill_older(s, stacking, row, j, frames + i * width);
            if (complete[i]) continue;
            at[i] -= s.link(row, s.previous_at);
            if (!ring.live(at[i])) continue;
            fetch(i);
            open[still++] = i;
        }
        n_open = still;
    }
}

// Whether the stack after the last row of a window begins with what the stack of that row ends with.
inline bool overlaps(const Store& s, const Ring& ring, const char* row, int64_t id) {
    if (s.older_at < 0) return true;
    const uint32_t distance = s.link(row, s.next_at);
    if (distance == 0) return s.link(row, s.next_older_at) == NONE;
    return s.link(s.row(ring.slot(id + distance)), s.older_at) == NONE;
}

// The frames of the observation after a row whose own are `frames`.
inline void next_stack(const Store& s, const Ring& ring, const Stacking& stacking, int64_t id, const char* const* frames,
                       const char** next) {
    const int64_t k = stacking.frames;
    const char* row = s.row(ring.slot(id));
    const uint32_t distance = s.link(row, s.next_at);
    const char* after = distance ? s.row(ring.slot(id + distance)) : s.tail(s.link(row, s.tail_at));
    uint32_t older = NONE;
    if (s.older_at >= 0) older = distance ? s.link(after, s.older_at) : s.link(row, s.next_older_at);
    for (int64_t m = 0; m + 1 < k; ++m) {
        next[m] = older == NONE ? frames[m + 1] : s.older_frames(older) + m * s.obs_nbytes;
    }
    next[k - 1] = after;
}

// What a copy of `read_stacks` takes its frames from.
enum class Stack : int64_t {
    OBS = 0,       // the stack of the first id of the window
    NEXT_OBS = 1,  // the stack after the last id
    BOTH = 2,      // one more frame than a stack, where each window is one step: OBS, and the newest frame of NEXT_OBS
};

struct StackCopy {
    Stack source;
    int64_t from;    // offset in a frame's record
    int64_t nbytes;  // of one frame
    char* to;        // one item every nbytes * frames (BOTH: and one more)
};

inline void copy_frames(const char* const* frames, int64_t n, const StackCopy& copy, char* to) {
    for (int64_t j = 0; j < n; ++j, to += copy.nbytes) {
        if (frames[j]) {
            std::memcpy(to, frames[j] + copy.from, copy.nbytes);
        } else {
            std::memset(to, 0, copy.nbytes);
        }
    }
}

enum class StacksRead : int { DONE = 0, NOT_SHIFTED = 1, INCOMPLETE = 2 };

// Gathers the stacks of windows [first, last], whose ids must be live. Nothing of use is written where a needed row has
// left, or where BOTH is asked for and some next_obs does not begin with what its obs ends with.
inline StacksRead read_stacks(const Store& s, const Stacking& stacking, const int64_t* first, const int64_t* last, int64_t n,
                        const StackCopy* copies, int64_t n_copies, int64_t threads) {
    const Ring ring = s.ring();
    const int64_t k = stacking.frames;
    thread_local std::vector<const char*> starts, ends;
    thread_local std::vector<char> complete;
    starts.resize(static_cast<size_t>(n * k));
    complete.resize(static_cast<size_t>(n));
    const auto all_of = [&](const int64_t* ids, std::vector<const char*>& frames) {
        stacks_of(s, ring, stacking, ids, n, frames.data(), k, reinterpret_cast<bool*>(complete.data()));
        return std::all_of(complete.begin(), complete.end(), [](char whole) { return whole != 0; });
    };
    if (!all_of(first, starts)) return StacksRead::INCOMPLETE;
    const std::vector<const char*>* lasts = &starts;
    if (last != first) {
        ends.resize(static_cast<size_t>(n * k));
        if (!all_of(last, ends)) return StacksRead::INCOMPLETE;
        lasts = &ends;
    }
    for (int64_t c = 0; c < n_copies; ++c) {
        for (int64_t i = 0; copies[c].source == Stack::BOTH && i < n; ++i) {
            if (!overlaps(s, ring, (*lasts)[i * k + k - 1], last[i])) return StacksRead::NOT_SHIFTED;
        }
    }
    // Pointers: each thread has vectors of its own under these names.
    const char* const* begins = starts.data();
    const char* const* finals = lasts->data();
    Workers::split(n, threads, [&](int64_t begin, int64_t end) {
        std::vector<const char*> next(static_cast<size_t>(k));
        for (int64_t i = begin; i < end; ++i) {
            next_stack(s, ring, stacking, last[i], finals + i * k, next.data());
            for (int64_t c = 0; c < n_copies; ++c) {
                const StackCopy& copy = copies[c];
                const int64_t width = k + (copy.source == Stack::BOTH);
                char* to = copy.to + i * width * copy.nbytes;
                if (copy.source != Stack::NEXT_OBS) copy_frames(begins + i * k, k, copy, to);
                if (copy.source == Stack::NEXT_OBS) copy_frames(next.data(), k, copy, to);
                if (copy.source == Stack::BOTH) copy_frames(next.data() + k - 1, 1, copy, to + k * copy.nbytes);
            }
        }
    });
    return StacksRead::DONE;
}

}  // namespace replaybank
