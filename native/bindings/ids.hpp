// `spread` and `count_live`: uniform numbers to ids, and which ids are live.
#pragma once

#include "../ids.hpp"

#include "arrays.hpp"

namespace replaybank {

inline void py_spread(nb::handle uniforms, int64_t oldest, int64_t size, nb::handle ids) {
    const double* u = float64s(uniforms);
    int64_t* out = int64s(ids);
    const int64_t n = size_of(uniforms);
    if (size_of(ids) != n) throw nb::value_error("one id a uniform number");
    spread(u, n, oldest, size, out);
}

inline int64_t py_count_live(nb::handle ids, int64_t oldest, int64_t added) {
    const int64_t* x = int64s(ids);
    return count_live(x, size_of(ids), oldest, added);
}

}  // namespace replaybank
