// Reading: windows of rows into columns, walks along streams, and discounted sums along walks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "prefetch.hpp"
#include "ring.hpp"
#include "store.hpp"

namespace replaybank {

constexpr int64_t BLOCK = 16;  // rows on their way at a time: about as many lines as a core can wait for

// What a copy of `read` takes its bytes from.
enum class Source : int64_t {
    FIRST = 0,     // the row of the first id of the window
    LAST = 1,      // the row of the last id of the window
    NEXT_OBS = 2,  // the observation after the last id
    DISCOUNT = 3,  // nowhere: the window's factor, or 0 where its last row is terminated
};

struct Copy {
    Source source;
    int64_t from;    // offset in the source's record
    int64_t nbytes;  // of one item
    char* to;        // one item every `nbytes`
};

// memcpy of a size the compiler knows is one or two instructions; of one it does not know (SIZE 0), a call.
template <int64_t SIZE>
void gather(const char* const* sources, int64_t from, char* to, int64_t n, int64_t nbytes) {
    const int64_t size = SIZE > 0 ? SIZE : nbytes;
    for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * size, sources[i] + from, size);
}

inline void copy_items(const char* const* sources, const Copy& copy, int64_t begin, int64_t n) {
    char* to = copy.to + begin * copy.nbytes;
    switch (copy.nbytes) {
        case 1: return gather<1>(sources, copy.from, to, n, 1);
        case 2: return gather<2>(sources, copy.from, to, n, 2);
        case 4: return gather<4>(sources, copy.from, to, n, 4);
        case 8: return gather<8>(sources, copy.from, to, n, 8);
        case 12: return gather<12>(sources, copy.from, to, n, 12);
        case 16: return gather<16>(sources, copy.from, to, n, 16);
        case 24: return gather<24>(sources, copy.from, to, n, 24);
        case 32: return gather<32>(sources, copy.from, to, n, 32);
        default: return gather<0>(sources, copy.from, to, n, copy.nbytes);
    }
}

// Gathers fields of windows [first, last] into columns. Ids must be live. Works in blocks: find the next observations of
// this block and fetch the rows of the block after it, then copy field by field from the first-level cache.
class Reader {
   public:
    // factors: one a window, or one for all (n_factors 1).
    Reader(const Store& store, const int64_t* first, const int64_t* last, const float* factors, int64_t n_factors)
        : store_(store), ring_(store.ring()), first_(first), last_(last), factors_(factors),
          factor_step_(n_factors == 1 ? 0 : 1) {}

    // The windows begin … end - 1.
    void read(const Copy* copies, int64_t n_copies, int64_t from, int64_t end) {
        bool needs_next = false;
        for (int64_t c = 0; c < n_copies; ++c) needs_next |= copies[c].source == Source::NEXT_OBS;
        for (int64_t i = from; i < std::min(from + BLOCK, end); ++i) fetch(i - from, i);
        for (int64_t begin = from, turn = 0; begin < end; begin += BLOCK, turn ^= 1) {
            const int64_t count = std::min(BLOCK, end - begin);
            const char* const* sources[3] = {rows_[turn][0], rows_[turn][last_ == first_ ? 0 : 1], next_};
            for (int64_t i = begin; i < begin + count; ++i) {
                if (i + BLOCK < end) fetch(i + BLOCK - from, i + BLOCK);
                if (needs_next) next_[i - begin] = next_of(last_[i], sources[1][i - begin]);
            }
            for (int64_t c = 0; c < n_copies; ++c) {
                if (copies[c].source == Source::DISCOUNT) {
                    discount(copies[c], begin, count, sources[1]);
                } else {
                    copy_items(sources[static_cast<int64_t>(copies[c].source)], copies[c], begin, count);
                }
            }
        }
    }

   private:
    void fetch(int64_t place, int64_t i) {
        const int64_t turn = place / BLOCK % 2;
        rows_[turn][0][place % BLOCK] = touch(first_[i]);
        if (last_ != first_) rows_[turn][1][place % BLOCK] = touch(last_[i]);
    }

    const char* touch(int64_t id) const {
        const char* row = store_.row(ring_.slot(id));
        prefetch(row);
        prefetch(row + store_.row_nbytes - 1);
        return row;
    }

    const char* next_of(int64_t id, const char* row) const {
        const uint32_t distance = store_.link(row, store_.next_at);
        const char* next = distance ? store_.row(ring_.slot(id + distance))
                                    : store_.tail(store_.link(row, store_.tail_at));
        prefetch(next);
        return next;
    }

    void discount(const Copy& copy, int64_t begin, int64_t count, const char* const* rows) const {
        auto* to = reinterpret_cast<float*>(copy.to) + begin;
        for (int64_t i = 0; i < count; ++i) {
            to[i] = rows[i][store_.terminated_at] ? 0.0f : factors_[(begin + i) * factor_step_];
        }
    }

    const Store& store_;
    const Ring ring_;
    const int64_t *first_, *last_;
    const float* factors_;
    const int64_t factor_step_;
    const char* rows_[2][2][BLOCK];  // two blocks in turn, the first and the last rows of their windows
    const char* next_[BLOCK];
};

// Walks `steps` rows along the streams of `n` ids, forward or back: path[i][0] is the id itself, path[i][k] the row k
// steps on. Where a segment ends (or the row before has left) the last id is repeated. lengths[i] counts distinct ids.
inline void walk(const Store& s, const int64_t* ids, int64_t n, int64_t steps, bool forward, int64_t* path,
                 int64_t* lengths) {
    const Ring ring = s.ring();
    const int64_t width = steps + 1;
    for (int64_t i = 0; i < n; ++i) {
        path[i * width] = ids[i];
        lengths[i] = 1;
        prefetch(s.row(ring.slot(ids[i])) + (forward ? s.next_at : s.previous_at));
    }
    for (int64_t k = 1; k < width; ++k) {
        for (int64_t i = 0; i < n; ++i) {
            const int64_t id = path[i * width + k - 1];
            const char* row = s.row(ring.slot(id));
            const int64_t distance = s.link(row, forward ? s.next_at : s.previous_at);
            int64_t to = forward ? id + distance : id - distance;
            if (!ring.live(to)) to = id;
            path[i * width + k] = to;
            lengths[i] += to != id;
            if (to != id) prefetch(s.row(ring.slot(to)));
        }
    }
}

// The discounted sums of a number field along paths of `walk`: totals[i][w] = sum over k < lengths[i] of
// gamma^k * x(path[i][k])[w], added from the first step to the last.
template <class T>
void returns(const Store& s, const int64_t* path, const int64_t* lengths, int64_t n, int64_t width, double gamma,
             int64_t at, int64_t size, double* totals) {
    const Ring ring = s.ring();
    for (int64_t i = 0; i < n; ++i) {
        double factor = 1.0;
        double* total = totals + i * size;
        std::fill(total, total + size, 0.0);
        for (int64_t k = 0; k < lengths[i]; ++k) {
            const auto* x = reinterpret_cast<const T*>(s.row(ring.slot(path[i * width + k])) + at);
            for (int64_t w = 0; w < size; ++w) total[w] += factor * static_cast<double>(x[w]);
            factor *= gamma;
        }
    }
}

}  // namespace replaybank
