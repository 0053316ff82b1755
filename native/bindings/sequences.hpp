// `sequences` and `follow`: many steps in a row.
#pragma once

#include "../sequences.hpp"

#include <vector>

#include "../workers.hpp"
#include "store.hpp"
#include "thresholds.hpp"

namespace replaybank {

// plan: one row a column: part, offset in the record, bytes of one step, offset of the column in `out`.
inline void py_sequences(const nb::tuple& store_arrays, nb::handle starts, int64_t length, int64_t burn_in, bool across,
                         float gamma, nb::handle column_plan, nb::handle out, int64_t threads) {
    const Store store = as_store(store_arrays);
    const int64_t *ids = int64s(starts), n = size_of(starts);
    const Plan plan(column_plan);
    const Output output(out);
    if (length < 1) throw nb::value_error("a sequence has at least one step");
    std::vector<Track> tracks;
    tracks.reserve(static_cast<size_t>(plan.n));
    for (int64_t c = 0; c < plan.n; ++c) {
        const int64_t* r = plan[c];
        const auto part = static_cast<Part>(r[0]);
        tracks.push_back(Track{part, r[1], r[2], output.at(r[3], r[2] * n * items_of(part, length))});
        const bool is_obs = part == Part::CHAIN || part == Part::AHEAD;
        require_inside(r[1], r[2], is_obs ? store.obs_nbytes : store.row_nbytes);
    }
    require_live(store.ring(), ids, n);
    MaybeReleased released(n * length * store.row_nbytes);
    Workers::split(n, threads_for(output.room, threads), [&](int64_t begin, int64_t end) {
        SequenceReader(store, ids, length, burn_in, across, gamma).read(tracks.data(), plan.n, begin, end);
    });
}

inline void py_follow(const nb::tuple& store_arrays, nb::handle ids, nb::handle steps, bool forward, nb::handle to,
                      nb::handle taken) {
    const Store store = as_store(store_arrays);
    const int64_t *from = int64s(ids), *most = int64s(steps), n = size_of(ids);
    int64_t *out = int64s(to), *counts = int64s(taken);
    if (size_of(steps) != n || size_of(to) != n || size_of(taken) != n) {
        throw nb::value_error("ids, steps, to and taken differ in length");
    }
    require_live(store.ring(), from, n);
    MaybeReleased released(n * 64 * 64);
    follow(store, from, n, most, forward, out, counts);
}

}  // namespace replaybank
