// `append`: transitions into the rows.
#pragma once

#include "../append.hpp"

#include "given.hpp"
#include "store.hpp"
#include "thresholds.hpp"

namespace replaybank {

// The first id of the appended transitions, or -1 where some value is not plainly of its field's dtype and shape:
// then nothing has changed, and Python converts or complains.
inline int64_t py_append(const nb::tuple& store_arrays, nb::handle plan, const nb::tuple& values, int64_t lead,
                         nb::handle owners, bool item_a_stream) {
    const Store store = as_store(store_arrays);
    Given given;
    if (!given.look(plan, values, lead)) return -1;
    const Owners of(owners, given.items, item_a_stream);
    const int64_t streams = streams_of(store_arrays);
    if (item_a_stream && given.items != streams) throw nb::value_error("one item a stream");
    require_streams(of.streams, of.n, streams);
    const int64_t first = store.added();
    MaybeReleased released(given.nbytes);
    append(store, given.all, of.n, of.streams, item_a_stream, streams);
    return first;
}

}  // namespace replaybank
