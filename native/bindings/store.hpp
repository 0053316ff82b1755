// The store from Python's arrays; and what goes over it as a whole: relink, drop, compact, release.
#pragma once

#include "../store.hpp"

#include "../compact.hpp"
#include "../drop.hpp"
#include "../relink.hpp"
#include "arrays.hpp"
#include "thresholds.hpp"

namespace replaybank {

// (rows, tails, older, free_tails, free_older, onward, newest, cursor, geometry), as rows.py makes it.
constexpr size_t NEWEST = 6;

inline Store as_store(const nb::tuple& t) {
    const int64_t* g = int64s(t[8]);
    int64_t* cursor = int64s(t[7]);
    return Store{bytes(t[0]), bytes(t[1]), bytes(t[2]), uint32s(t[5]), int64s(t[NEWEST]), cursor,
                 Pool{uint32s(t[3]), cursor + 2, cursor + 3}, Pool{uint32s(t[4]), cursor + 4, cursor + 5},
                 g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9], g[10], g[11], g[12]};
}

inline int64_t streams_of(const nb::tuple& store_arrays) { return size_of(store_arrays[NEWEST]); }

// -1, or the id of a row whose links contradict.
inline int64_t py_relink(const nb::tuple& store_arrays) {
    const Store store = as_store(store_arrays);
    const int64_t rows = size_of(store_arrays[0]), tails = size_of(store_arrays[1]);
    const int64_t older = store.frames > 1 ? size_of(store_arrays[2]) / (store.frames - 1) : 0;
    const int64_t added = store.added(), start = store.start();
    const int64_t used = *store.free_tails.used, used_older = *store.free_older.used;
    if (rows != store.capacity || start < 0 || start > added || used < 0 || used > tails || used_older < 0 ||
        used_older > older) {
        throw nb::value_error("cursors lead out of the store");
    }
    MaybeReleased released((added - store.oldest()) * store.row_nbytes);
    return relink(store, streams_of(store_arrays));
}

inline void py_drop(const nb::tuple& store_arrays, int64_t oldest) {
    const Store store = as_store(store_arrays);
    if (oldest < 0 || oldest > store.added()) throw nb::value_error("what was never given out cannot leave");
    MaybeReleased released((oldest - store.oldest()) * 64);
    drop(store, oldest);
}

inline void py_compact(const nb::tuple& store_arrays) {
    const Store store = as_store(store_arrays);
    MaybeReleased released((store.added() - store.oldest()) * 64);
    compact(store);
}

inline int64_t py_release(nb::handle array, int64_t begin, int64_t end) {
    char* memory = bytes(array);
    if (begin < 0 || begin > end || end > nbytes_of(array)) {
        throw nb::value_error("only bytes of the array can be given back");
    }
    MaybeReleased released(end - begin);
    return release(memory, begin, end);
}

}  // namespace replaybank
