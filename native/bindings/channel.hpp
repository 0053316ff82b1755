// A writer's ring in shared memory: `channel_push` and `channel_end` are the writer's, `channel_drain` is the reader's.
#pragma once

#include "../channel.hpp"

#include <algorithm>
#include <vector>

#include "given.hpp"
#include "store.hpp"
#include "thresholds.hpp"

namespace replaybank {

// (file, where its messages begin, memory), as shared/ring.py makes it.
struct Shared {
    Channel channel;
    Memory memory;
};

inline Shared as_channel(const nb::tuple& t) {
    char* file = reinterpret_cast<char*>(uint8s(t[0]));
    const auto begin = nb::cast<int64_t>(t[1]), capacity = size_of(t[0]) - begin;
    int64_t* m = int64s(t[2]);
    if (size_of(t[2]) != 4 || begin < static_cast<int64_t>(sizeof(Control)) || capacity < LINE || capacity % LINE ||
        begin % LINE || reinterpret_cast<uintptr_t>(file) % LINE) {
        throw nb::value_error("this is not the memory of a channel");
    }
    return Shared{Channel{reinterpret_cast<Control*>(file), file + begin, capacity}, Memory{m[0], m[1], m[2], m[3]}};
}

// owners [n]: each transition's stream (with `item_a_stream`, the items that are meant), or None: all are of `stream`.
inline int64_t py_channel_push(const nb::tuple& shared, nb::handle plan, const nb::tuple& values, int64_t lead,
                               nb::handle owners, int32_t stream, bool item_a_stream, bool drop) {
    const Shared to = as_channel(shared);
    Given given;
    if (!given.look(plan, values, lead)) return static_cast<int64_t>(Pushed::NOT_PLAIN);
    const Owners of(owners, given.items, item_a_stream);
    if ((of.streams != nullptr) != (stream == -1) || (item_a_stream && !of.streams)) {
        throw nb::value_error("owners, or a stream");
    }
    if (item_a_stream) require_streams(of.streams, of.n, given.items);
    return static_cast<int64_t>(
        push_transitions(to.channel, to.memory, given.all, of.n, stream, of.streams, item_a_stream, drop));
}

inline int64_t py_channel_end(const nb::tuple& shared, nb::handle streams, bool drop) {
    const Shared to = as_channel(shared);
    return static_cast<int64_t>(push_end(to.channel, to.memory, int64s(streams), size_of(streams), drop));
}

// streams [k]: what each of the writer's streams is called in the rows. How many transitions, -1 where there is damage.
inline int64_t py_channel_drain(const nb::tuple& store_arrays, nb::handle append_plan, const nb::tuple& shared,
                                nb::handle streams, int64_t most) {
    const Store store = as_store(store_arrays);
    const Shared from = as_channel(shared);
    const Plan plan(append_plan);
    std::vector<Slice> parts;
    for (int64_t c = 0; c < plan.n; ++c) {
        const Leaf leaf(plan[c]);
        parts.push_back(Slice{leaf.column(nullptr), leaf.finite_as(NPY_FLOAT32), leaf.finite_as(NPY_FLOAT64)});
    }
    const int64_t* names = int64s(streams);
    const int64_t k = size_of(streams);
    require_streams(names, k, streams_of(store_arrays));
    const uint64_t waiting = from.channel.control->head.load() - from.channel.control->tail.load();
    MaybeReleased released(static_cast<int64_t>(std::min<uint64_t>(waiting, WORTH_RELEASING)));
    return Drain(store, from.channel, parts, names, k, from.memory).run(most);
}

}  // namespace replaybank
