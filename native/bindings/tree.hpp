// `tree_update`, `tree_fill`, `tree_build` and `tree_find`: trees with eight children a node.
#pragma once

#include <algorithm>
#include <vector>

#include "../tree_lanes.hpp"
#include "arrays.hpp"
#include "thresholds.hpp"

namespace replaybank {

// (nodes, levels), as sum_tree.py makes it.
inline Tree as_tree(const nb::tuple& t) { return Tree{float64s(t[0]), int64s(t[1]), size_of(t[1]) - 1}; }

// As kernels.py numbers them.
enum class Combine : int { SUM = 0, MAX = 1, MIN_POSITIVE = 2 };

template <class Call>
auto dispatch(int combine, Call&& call) {
    switch (static_cast<Combine>(combine)) {
        case Combine::SUM: return call(Sum{});
        case Combine::MAX: return call(Max{});
        default: return call(MinPositive{});
    }
}

inline int64_t py_tree_update(const nb::tuple& tree_arrays, int combine, int64_t capacity, int64_t oldest,
                              int64_t added, nb::handle ids, nb::handle values) {
    const Tree tree = as_tree(tree_arrays);
    const int64_t *places = int64s(ids), n = size_of(ids);
    const double* leaves = float64s(values);
    if (size_of(values) != n || capacity > tree.width(0) || capacity < 1 || oldest < 0) {
        throw nb::value_error("one value an id, and a leaf for each slot");
    }
    thread_local std::vector<int64_t> touched_places;
    if (static_cast<int64_t>(touched_places.size()) < n) touched_places.resize(static_cast<size_t>(n));
    int64_t* touched = touched_places.data();
    const Ring ring(capacity, oldest, added);
    MaybeReleased released(n * 64);
    return dispatch(combine, [&](auto kind) {
        return tree_update<decltype(kind)>(tree, ring, places, leaves, n, touched);
    });
}

inline void py_tree_fill(const nb::tuple& tree_arrays, int combine, int64_t capacity, int64_t first_id, int64_t n,
                         double value) {
    const Tree tree = as_tree(tree_arrays);
    if (capacity < 1 || capacity > tree.width(0) || first_id < 0 || n < 0 || n > capacity) {
        throw nb::value_error("at most one value a slot");
    }
    const int64_t begin = first_id % capacity, end = std::min(begin + n, capacity);
    MaybeReleased released(n * 8);
    dispatch(combine, [&](auto kind) {
        tree_fill<decltype(kind)>(tree, begin, end, value);
        if (begin + n > end) tree_fill<decltype(kind)>(tree, 0, begin + n - end, value);
    });
}

inline void py_tree_build(const nb::tuple& tree_arrays, int combine) {
    const Tree tree = as_tree(tree_arrays);
    nb::gil_scoped_release released;
    dispatch(combine, [&](auto kind) { tree_build<decltype(kind)>(tree); });
}

// lanes: how many walks share a register (LANES is the most this processor has).
inline void py_tree_find(const nb::tuple& tree_arrays, int64_t capacity, int64_t oldest, int64_t added,
                         nb::handle uniforms, nb::handle ids, nb::handle probabilities, int lanes) {
    const Tree tree = as_tree(tree_arrays);
    const TreeFind find = tree_find_with(lanes);
    if (!find) throw nb::value_error("this processor has no registers for so many lanes");
    if (reinterpret_cast<uintptr_t>(tree.nodes) % 64 != 0) throw nb::value_error("the tree's nodes must start a cache line");
    double *targets = float64s(uniforms), *shares = float64s(probabilities);
    int64_t *found = int64s(ids), n = size_of(uniforms);
    if (size_of(ids) != n || size_of(probabilities) != n || capacity > tree.width(0) || capacity < 1 || oldest < 0) {
        throw nb::value_error("one id and one probability a uniform number, and a leaf for each slot");
    }
    const Ring ring(capacity, oldest, added);
    MaybeReleased released(n * 512);
    tree_draw(tree, find, ring, targets, n, found, shares);
}

}  // namespace replaybank
