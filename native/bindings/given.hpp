// What the caller of `append` gave: Python values as columns of bytes, where they are plainly of their fields' dtypes.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "../append.hpp"
#include "../finite.hpp"
#include "arrays.hpp"

namespace replaybank {

// One row of the plan that layout.py makes for `append`.
struct Leaf {
    explicit Leaf(const int64_t* row)
        : place(static_cast<Place>(row[0])), at(row[1]), nbytes(row[2]), type(row[3]), finite(row[4] != 0),
          frames(row[5]), is_obs(row[6] != 0), ndim(row[7]), dims(row + 8) {}

    Column column(const char* values) const { return {place, at, nbytes / frames, frames, is_obs, values}; }

    bool finite_as(int dtype) const { return finite && type == dtype; }

    Place place;
    int64_t at, nbytes, type;  // nbytes: of an item, all frames of it
    bool finite;               // whether its numbers must be
    int64_t frames;
    bool is_obs;
    int64_t ndim;
    const int64_t* dims;
};

// What a leaf takes of the scratch, so that the next one begins where any number may.
inline int64_t scratch_for(int64_t nbytes) { return (nbytes + 15) / 16 * 16; }

inline bool narrow(const double* from, int64_t n, float* to) {
    for (int64_t i = 0; i < n; ++i) {
        to[i] = static_cast<float>(from[i]);
        if (std::isinf(to[i]) && !std::isinf(from[i])) return false;
    }
    return true;
}

// The bytes of an array for one leaf; see bytes_of.
inline const char* bytes_of_array(PyArrayObject* array, const Leaf& leaf, int64_t lead, char* room) {
    const int offset = lead < 0 ? 0 : 1;
    if (PyArray_NDIM(array) != leaf.ndim + offset || !PyArray_ISCARRAY_RO(array)) return nullptr;
    if (offset && PyArray_DIM(array, 0) != lead) return nullptr;
    for (int64_t d = 0; d < leaf.ndim; ++d) {
        if (PyArray_DIM(array, static_cast<int>(d) + offset) != leaf.dims[d]) return nullptr;
    }
    if (PyArray_TYPE(array) == leaf.type) return PyArray_BYTES(array);
    if (PyArray_TYPE(array) != NPY_FLOAT64 || leaf.type != NPY_FLOAT32) return nullptr;
    const int64_t count = (offset ? lead : 1) * leaf.nbytes / static_cast<int64_t>(sizeof(float));
    const auto* from = reinterpret_cast<const double*>(PyArray_DATA(array));
    return narrow(from, count, reinterpret_cast<float*>(room)) ? room : nullptr;
}

// The bytes of a number for a leaf of shape (); see bytes_of.
inline const char* bytes_of_number(PyObject* value, const Leaf& leaf, char* room) {
    if (PyFloat_Check(value)) {
        const double x = PyFloat_AsDouble(value);
        if (leaf.type == NPY_FLOAT64) {
            std::memcpy(room, &x, sizeof x);
            return room;
        }
        return leaf.type == NPY_FLOAT32 && narrow(&x, 1, reinterpret_cast<float*>(room)) ? room : nullptr;
    }
    if (PyBool_Check(value)) {
        *room = value == Py_True;
        return leaf.type == NPY_BOOL ? room : nullptr;
    }
    if (PyLong_Check(value)) {
        int overflow = 0;
        const int64_t x = PyLong_AsLongLongAndOverflow(value, &overflow);
        std::memcpy(room, &x, leaf.type == NPY_INT64 ? sizeof x : 0);
        return overflow || leaf.type != NPY_INT64 ? nullptr : room;
    }
    if (PyArray_CheckScalar(value)) {
        PyArray_Descr* descr = PyArray_DescrFromScalar(value);
        const bool same = descr->type_num == leaf.type;
        Py_DECREF(reinterpret_cast<PyObject*>(descr));
        if (!same) return nullptr;
        PyArray_ScalarAsCtype(value, room);
        return room;
    }
    return nullptr;
}

// The values of one leaf as bytes of the field's dtype, or nullptr where only the slow way can tell what they are.
// lead: how many items there are, or -1 for one without a leading axis. `room` points to scratch for values that need
// converting.
inline const char* bytes_of(PyObject* value, const Leaf& leaf, int64_t lead, char* room) {
    if (PyArray_CheckExact(value)) return bytes_of_array(reinterpret_cast<PyArrayObject*>(value), leaf, lead, room);
    return leaf.ndim > 0 || lead >= 0 ? nullptr : bytes_of_number(value, leaf, room);
}

// The values of each leaf as columns; scratch and columns are the thread's own.
struct Given {
    // False where some value is not plainly of its field's dtype and shape.
    bool look(nb::handle append_plan, const nb::tuple& values, int64_t lead) {
        const Plan plan(append_plan);
        items = lead < 0 ? 1 : lead;
        if (static_cast<int64_t>(values.size()) != plan.n) throw nb::value_error("one value a leaf of the plan");

        int64_t scratch = 0;
        for (int64_t c = 0; c < plan.n; ++c) scratch += scratch_for(plan[c][2] * items);
        thread_local std::vector<char> room;
        thread_local std::vector<Column> columns;
        if (static_cast<int64_t>(room.size()) < scratch + 16) room.resize(static_cast<size_t>(scratch) + 16);
        columns.clear();

        char* at = room.data();
        for (int64_t c = 0; c < plan.n; ++c) {
            const Leaf leaf(plan[c]);
            const char* found = bytes_of(values[c].ptr(), leaf, lead, at);
            if (!found) return false;
            if (leaf.finite_as(NPY_FLOAT32) && !all_finite<float>(found, items * leaf.nbytes / 4)) return false;
            if (leaf.finite_as(NPY_FLOAT64) && !all_finite<double>(found, items * leaf.nbytes / 8)) return false;
            columns.push_back(leaf.column(found));
            at += scratch_for(leaf.nbytes * items);
            nbytes += leaf.nbytes * items;
        }
        all = Columns{columns.data(), plan.n};
        return true;
    }

    Columns all{nullptr, 0};
    int64_t items = 0, nbytes = 0;
};

inline void require_streams(const int64_t* owners, int64_t n, int64_t streams) {
    for (int64_t t = 0; owners && t < n; ++t) {
        if (owners[t] < 0 || owners[t] >= streams) throw nb::value_error("a stream is beyond the last");
    }
}

// The streams [n] of n transitions; nullptr where the caller did not say, and then each item is one transition.
struct Owners {
    Owners(nb::handle owners, int64_t items, bool item_a_stream)
        : streams(owners.is_none() ? nullptr : int64s(owners)), n(streams ? size_of(owners) : items) {
        if (n != items && !item_a_stream) throw nb::value_error("one stream a transition");
    }

    const int64_t* streams;
    int64_t n;
};

}  // namespace replaybank
