// NumPy arrays as the kernels take them: checked, then plain pointers.
#pragma once

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <nanobind/nanobind.h>
#include <numpy/arrayobject.h>

#include <cstdint>

#include "../ring.hpp"

namespace replaybank {

namespace nb = nanobind;

// NPY_VOID: of any dtype.
inline PyArrayObject* as_array(nb::handle object, int type) {
    if (!PyArray_Check(object.ptr())) throw nb::type_error("expected a NumPy array");
    auto* array = reinterpret_cast<PyArrayObject*>(object.ptr());
    if (!PyArray_IS_C_CONTIGUOUS(array) || !PyArray_ISALIGNED(array) || (type != NPY_VOID && PyArray_TYPE(array) != type)) {
        throw nb::type_error("expected a contiguous and aligned array of the kernel's dtype");
    }
    return array;
}

template <class T>
T* values_of(nb::handle object, int type) {
    return static_cast<T*>(PyArray_DATA(as_array(object, type)));
}

inline int64_t* int64s(nb::handle object) { return values_of<int64_t>(object, NPY_INT64); }
inline uint32_t* uint32s(nb::handle object) { return values_of<uint32_t>(object, NPY_UINT32); }
inline uint8_t* uint8s(nb::handle object) { return values_of<uint8_t>(object, NPY_UINT8); }
inline double* float64s(nb::handle object) { return values_of<double>(object, NPY_FLOAT64); }
inline float* float32s(nb::handle object) { return values_of<float>(object, NPY_FLOAT32); }
inline bool* bools(nb::handle object) { return values_of<bool>(object, NPY_BOOL); }
inline char* bytes(nb::handle object) { return values_of<char>(object, NPY_VOID); }

// Of what is known to be an array.
inline int64_t size_of(nb::handle object) { return PyArray_SIZE(reinterpret_cast<PyArrayObject*>(object.ptr())); }
inline int64_t nbytes_of(nb::handle object) { return PyArray_NBYTES(reinterpret_cast<PyArrayObject*>(object.ptr())); }

// What Python has worked out once and for all for a kernel: int64, a row for each copy or leaf.
struct Plan {
    explicit Plan(nb::handle plan) {
        auto* array = as_array(plan, NPY_INT64);
        numbers = static_cast<const int64_t*>(PyArray_DATA(array));
        n = PyArray_DIM(array, 0);
        width = PyArray_NDIM(array) > 1 ? PyArray_DIM(array, 1) : 0;  // of one without rows
    }

    const int64_t* operator[](int64_t row) const { return numbers + row * width; }

    const int64_t* numbers;
    int64_t n, width;
};

// The array that a plan's copies go to.
struct Output {
    explicit Output(nb::handle out) : base(bytes(out)), room(nbytes_of(out)) {}

    char* at(int64_t offset, int64_t nbytes) const {
        if (offset + nbytes > room) throw nb::value_error("the output is too small for the plan");
        return base + offset;
    }

    char* base;
    int64_t room;
};

// Whether `nbytes` from `at` on lie inside a record, so that no plan made for other rows leads out of it.
inline void require_inside(int64_t at, int64_t nbytes, int64_t record) {
    if (at < 0 || nbytes < 0 || at + nbytes > record) throw nb::value_error("the plan was made for other rows");
}

[[noreturn]] inline void not_live(int64_t id, const Ring& ring) {
    PyErr_Format(PyExc_IndexError, "transition %lld is not in the buffer, which holds ids %lld to %lld",
                 static_cast<long long>(id), static_cast<long long>(ring.oldest()),
                 static_cast<long long>(ring.added() - 1));
    throw nb::python_error();
}

inline void require_live(const Ring& ring, const int64_t* ids, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        if (!ring.live(ids[i])) not_live(ids[i], ring);
    }
}

}  // namespace replaybank
