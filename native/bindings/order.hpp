// `order_add`, `order_drop`, `order_update`, `order_find` and `order_ranks`: who has which rank.
#pragma once

#include "../order.hpp"

#include <vector>

#include "../finite.hpp"
#include "arrays.hpp"
#include "thresholds.hpp"

namespace replaybank {

// (leaves, branches, state, priorities by slot), as order.py makes it.
inline Order as_order(const nb::tuple& t) {
    const nb::handle leaves = t[0], branches = t[1];
    const Order order{reinterpret_cast<Order::Leaf*>(bytes(leaves)), reinterpret_cast<Order::Branch*>(bytes(branches)),
                      int64s(t[2]), size_of(leaves), size_of(branches)};
    if (PyArray_ITEMSIZE(reinterpret_cast<PyArrayObject*>(leaves.ptr())) != sizeof(Order::Leaf) ||
        PyArray_ITEMSIZE(reinterpret_cast<PyArrayObject*>(branches.ptr())) != sizeof(Order::Branch) ||
        size_of(t[2]) != Order::FIELDS) {
        throw nb::value_error("these are not the arrays of an order");
    }
    return order;
}

inline void require_finite(const double* values, int64_t n) {
    const bool finite = all_finite<double>(reinterpret_cast<const char*>(values), n);
    if (!finite) throw nb::value_error("priorities must be finite");
}

// Gives the next ids, one for each of `values`, their priorities; those that sat in their slots leave.
inline void py_order_add(const nb::tuple& arrays, int64_t oldest, int64_t added, nb::handle values) {
    Order order = as_order(arrays);
    double* by_slot = float64s(arrays[3]);
    const double* priorities = float64s(values);
    const int64_t capacity = size_of(arrays[3]), n = size_of(values);
    if (oldest < 0 || order.size() != added - oldest || n > capacity) {
        throw nb::value_error("an entry a live id, and at most one new one a slot");
    }
    require_finite(priorities, n);
    MaybeReleased released(n * 512);
    order_add(order, by_slot, capacity, oldest, added, priorities, n);
}

inline void py_order_drop(const nb::tuple& arrays, int64_t oldest, int64_t added, int64_t n) {
    Order order = as_order(arrays);
    const double* by_slot = float64s(arrays[3]);
    if (oldest < 0 || order.size() != added - oldest || n < 0 || n > order.size()) {
        throw nb::value_error("an entry a live id, and no more than those can leave");
    }
    MaybeReleased released(n * 256);
    order_drop(order, by_slot, size_of(arrays[3]), oldest, n);
}

inline int64_t py_order_update(const nb::tuple& arrays, int64_t oldest, int64_t added, nb::handle ids,
                               nb::handle values) {
    Order order = as_order(arrays);
    double* by_slot = float64s(arrays[3]);
    const int64_t *places = int64s(ids), n = size_of(ids);
    const double* priorities = float64s(values);
    if (size_of(values) != n || oldest < 0 || order.size() != added - oldest) {
        throw nb::value_error("one value an id, and an entry a live id");
    }
    require_finite(priorities, n);
    const Ring ring(size_of(arrays[3]), oldest, added);
    MaybeReleased released(n * 512);
    return order_update(order, by_slot, ring, places, priorities, n);
}

// The ids that have these ranks (0: the largest priority, and of equal ones the newest id).
inline void py_order_find(const nb::tuple& arrays, int64_t oldest, int64_t added, nb::handle ranks, nb::handle ids) {
    const Order order = as_order(arrays);
    const int64_t *wanted = int64s(ranks), n = size_of(ranks), size = order.size();
    int64_t* found = int64s(ids);
    if (size_of(ids) != n || size != added - oldest) throw nb::value_error("one id a rank, and an entry a live id");
    std::vector<int64_t> positions(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
        if (wanted[i] < 0 || wanted[i] >= size) throw nb::index_error("a rank that nobody has");
        positions[static_cast<size_t>(i)] = size - 1 - wanted[i];
    }
    MaybeReleased released(n * 512);
    order.at(positions.data(), n, found);
}

// The ranks of live ids.
inline void py_order_ranks(const nb::tuple& arrays, int64_t oldest, int64_t added, nb::handle ids, nb::handle ranks) {
    const Order order = as_order(arrays);
    const double* by_slot = float64s(arrays[3]);
    const int64_t *places = int64s(ids), n = size_of(ids);
    int64_t* out = int64s(ranks);
    if (size_of(ranks) != n || oldest < 0 || order.size() != added - oldest) {
        throw nb::value_error("one rank an id, and an entry a live id");
    }
    const Ring ring(size_of(arrays[3]), oldest, added);
    require_live(ring, places, n);
    MaybeReleased released(n * 512);
    order_ranks(order, by_slot, ring, places, n, out);
}

}  // namespace replaybank
