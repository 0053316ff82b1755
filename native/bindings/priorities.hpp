// `paired`, `magnitudes` and `importance_weights`: what an update gives, and what draws weigh.
#pragma once

#include "../priorities.hpp"

#include "arrays.hpp"

namespace replaybank {

// Whether these are plainly ids (int64 [n]) and a number for each (float64 [n]); else Python converts, or complains.
inline bool py_paired(nb::handle ids, nb::handle values) {
    const auto plain = [](nb::handle object, int type) {
        if (!PyArray_CheckExact(object.ptr())) return false;
        auto* array = reinterpret_cast<PyArrayObject*>(object.ptr());
        return PyArray_TYPE(array) == type && PyArray_NDIM(array) == 1 && PyArray_ISCARRAY_RO(array) != 0;
    };
    return plain(ids, NPY_INT64) && plain(values, NPY_FLOAT64) && size_of(ids) == size_of(values);
}

inline double py_magnitudes(nb::handle values, double epsilon, nb::handle out) {
    const double* x = float64s(values);
    double* y = float64s(out);
    const int64_t n = size_of(values);
    if (size_of(out) != n) throw nb::value_error("out and values differ in length");
    return magnitudes(x, n, epsilon, y);
}

inline void py_importance_weights(nb::handle probabilities, double scale, double beta, nb::handle out) {
    const double* p = float64s(probabilities);
    float* weights = float32s(out);
    const int64_t n = size_of(probabilities);
    if (size_of(out) != n) throw nb::value_error("one weight a probability");
    importance_weights(p, n, scale, beta, weights);
}

}  // namespace replaybank
