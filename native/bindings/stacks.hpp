// `read_stacks` and `stacks_complete`: stacks of frames.
#pragma once

#include "../stacks.hpp"

#include <vector>

#include "store.hpp"
#include "thresholds.hpp"

namespace replaybank {

// False where some next_obs does not begin with what its obs ends with though the plan says so: another plan is needed.
// plan: one row a copy: source, offset in a frame's record, bytes of a frame, offset of the column in `out`.
inline bool py_read_stacks(const nb::tuple& store_arrays, nb::handle first, nb::handle last, int64_t frames, bool zero,
                           nb::handle stack_plan, nb::handle out, int64_t threads) {
    const Store store = as_store(store_arrays);
    const int64_t *first_ids = int64s(first), *last_ids = int64s(last), n = size_of(first);
    if (size_of(last) != n) throw nb::value_error("first and last differ in length");
    if (frames < 1 || (store.older_at >= 0 && frames != store.frames)) throw nb::value_error("rows keep other stacks");
    const Plan plan(stack_plan);
    const Output output(out);
    std::vector<StackCopy> copies;
    for (int64_t c = 0; c < plan.n; ++c) {
        const int64_t* r = plan[c];
        const auto source = static_cast<Stack>(r[0]);
        const int64_t width = frames + (source == Stack::BOTH);
        copies.push_back(StackCopy{source, r[1], r[2], output.at(r[3], r[2] * width * n)});
        require_inside(r[1], r[2], store.obs_nbytes);
        if (source == Stack::BOTH && last_ids != first_ids) throw nb::value_error("windows of more than one step");
    }
    const Ring ring = store.ring();
    require_live(ring, first_ids, n);
    if (last_ids != first_ids) require_live(ring, last_ids, n);
    StacksRead outcome;
    {
        MaybeReleased released(n * store.row_nbytes);
        outcome = read_stacks(store, Stacking{frames, zero}, first_ids, last_ids, n, copies.data(), plan.n,
                              threads_for(output.room, threads));
    }
    if (outcome == StacksRead::INCOMPLETE) throw nb::index_error("frames of a stack have left the buffer");
    return outcome == StacksRead::DONE;
}

// Whether all frames of the stack of each id are still here: bool [n].
inline void py_stacks_complete(const nb::tuple& store_arrays, nb::handle ids, int64_t frames, nb::handle complete) {
    const Store store = as_store(store_arrays);
    const int64_t *from = int64s(ids), n = size_of(ids);
    bool* found = bools(complete);
    if (size_of(complete) != n || frames < 1) throw nb::value_error("one answer an id");
    const Ring ring = store.ring();
    require_live(ring, from, n);
    thread_local std::vector<const char*> stacks;
    stacks.resize(static_cast<size_t>(n * frames));
    MaybeReleased released(n * frames * 64);
    stacks_of(store, ring, Stacking{frames, false}, from, n, stacks.data(), frames, found);
}

}  // namespace replaybank
