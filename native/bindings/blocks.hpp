// `block`: memory for a batch that serves again; `columns`: the windows on it.
#pragma once

#include "../blocks.hpp"

#include "arrays.hpp"

namespace replaybank {

inline void return_block(PyObject* capsule) {
    const auto nbytes = reinterpret_cast<size_t>(PyCapsule_GetContext(capsule));
    Blocks::give_back(PyCapsule_GetPointer(capsule, nullptr), nbytes);
}

// An array of shape () and this dtype at the start of a cache line, in memory that comes back to serve again.
inline nb::object py_block(nb::handle dtype) {
    if (!PyArray_DescrCheck(dtype.ptr())) throw nb::type_error("expected a NumPy dtype");
    auto* descr = reinterpret_cast<PyArray_Descr*>(dtype.ptr());
    const auto nbytes = static_cast<size_t>(PyDataType_ELSIZE(descr));
    void* memory = Blocks::take(nbytes);
    PyObject* owner = PyCapsule_New(memory, nullptr, &return_block);
    if (!owner) {
        Blocks::give_back(memory, nbytes);
        throw nb::python_error();
    }
    PyCapsule_SetContext(owner, reinterpret_cast<void*>(nbytes));
    dtype.inc_ref();  // the array takes one
    PyObject* array = PyArray_NewFromDescr(&PyArray_Type, descr, 0, nullptr, nullptr, memory, NPY_ARRAY_CARRAY, nullptr);
    if (!array || PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array), owner) < 0) {
        if (!array) Py_DECREF(owner);
        Py_XDECREF(array);
        throw nb::python_error();
    }
    return nb::steal(array);
}

// By name the columns of such a block, windows on it, for those of `places` (name: column) that say a column's name.
inline nb::dict py_columns(nb::handle block, const nb::dict& places) {
    if (!PyArray_CheckExact(block.ptr())) throw nb::type_error("expected a NumPy array");
    auto* array = reinterpret_cast<PyArrayObject*>(block.ptr());
    PyArray_Descr* descr = PyArray_DESCR(array);
    if (PyArray_NDIM(array) != 0 || !PyDataType_HASFIELDS(descr)) throw nb::type_error("expected columns of shape ()");
    const int flags = NPY_ARRAY_ALIGNED | (PyArray_FLAGS(array) & NPY_ARRAY_WRITEABLE);
    nb::dict found;
    for (const auto [name, place] : places) {
        if (!PyUnicode_Check(place.ptr())) continue;
        PyObject* field = PyDict_GetItemWithError(PyDataType_FIELDS(descr), place.ptr());  // (dtype, offset)
        if (!field) throw nb::key_error("the block has no such column");
        auto* type = reinterpret_cast<PyArray_Descr*>(PyTuple_GET_ITEM(field, 0));
        char* at = PyArray_BYTES(array) + PyLong_AsSsize_t(PyTuple_GET_ITEM(field, 1));
        Py_INCREF(type);  // the array takes one
        const nb::object column =
            nb::steal(PyArray_NewFromDescr(&PyArray_Type, type, 0, nullptr, nullptr, at, flags, nullptr));
        if (!column.is_valid()) throw nb::python_error();
        auto* window = reinterpret_cast<PyArrayObject*>(column.ptr());
        Py_INCREF(array);  // SetBaseObject takes one
        if (PyArray_SetBaseObject(window, block.ptr()) < 0) throw nb::python_error();
        if (PyDict_SetItem(found.ptr(), name.ptr(), column.ptr()) < 0) throw nb::python_error();
    }
    return found;
}

}  // namespace replaybank
