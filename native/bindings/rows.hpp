// `read`, `walk` and `returns`: windows of rows into columns, ways along streams, and sums along them.
#pragma once

#include "../rows.hpp"

#include <vector>

#include "../workers.hpp"
#include "store.hpp"
#include "thresholds.hpp"

namespace replaybank {

// plan: one row a copy: source, offset in it, bytes an item, offset of the column in `out`.
// factors: float32, one a window or one for all: what a copy of source DISCOUNT gives where the window did not terminate.
inline void py_read(const nb::tuple& store_arrays, nb::handle first, nb::handle last, nb::handle copy_plan,
                    nb::handle factors, nb::handle out, int64_t threads) {
    const Store store = as_store(store_arrays);
    const int64_t *first_ids = int64s(first), *last_ids = int64s(last), n = size_of(first);
    if (size_of(last) != n) throw nb::value_error("first and last differ in length");
    const Plan plan(copy_plan);
    const float* scale = float32s(factors);
    const int64_t n_factors = size_of(factors);
    if (n_factors != 1 && n_factors != n) throw nb::value_error("one factor a window, or one for all");
    const Output output(out);
    constexpr int64_t FEW = 32;  // so many need no memory of their own
    Copy few[FEW];
    std::vector<Copy> many;
    Copy* copies = few;
    if (plan.n > FEW) {
        many.resize(static_cast<size_t>(plan.n));
        copies = many.data();
    }
    for (int64_t c = 0; c < plan.n; ++c) {
        const int64_t* r = plan[c];
        const auto source = static_cast<Source>(r[0]);
        copies[c] = Copy{source, r[1], r[2], output.at(r[3], r[2] * n)};
        require_inside(r[1], r[2], source == Source::NEXT_OBS ? store.obs_nbytes : store.row_nbytes);
    }
    const Ring ring = store.ring();
    require_live(ring, first_ids, n);
    if (last_ids != first_ids) require_live(ring, last_ids, n);
    MaybeReleased released(n * store.row_nbytes);
    Workers::split(n, threads_for(output.room, threads), [&](int64_t begin, int64_t end) {
        Reader(store, first_ids, last_ids, scale, n_factors).read(copies, plan.n, begin, end);
    });
}

inline void py_walk(const nb::tuple& store_arrays, nb::handle ids, int64_t steps, bool forward, nb::handle path,
                    nb::handle lengths) {
    const Store store = as_store(store_arrays);
    const int64_t *from = int64s(ids), n = size_of(ids);
    int64_t *to = int64s(path), *counts = int64s(lengths);
    if (steps < 0 || size_of(path) != n * (steps + 1) || size_of(lengths) != n) {
        throw nb::value_error("path must be [n, steps + 1] and lengths [n]");
    }
    require_live(store.ring(), from, n);
    MaybeReleased released(n * (steps + 1) * 64);
    walk(store, from, n, steps, forward, to, counts);
}

// dtype: the NumPy type number of the field, a float; totals [n, size] for a field of `size` numbers.
inline void py_returns(const nb::tuple& store_arrays, nb::handle path, nb::handle lengths, double gamma, int64_t at,
                       int dtype, nb::handle totals) {
    const Store store = as_store(store_arrays);
    const int64_t *ids = int64s(path), *counts = int64s(lengths), n = size_of(lengths);
    double* out = float64s(totals);
    if (n == 0) return;
    const int64_t width = size_of(path) / n, size = size_of(totals) / n;
    if (size_of(path) != n * width || size_of(totals) != n * size) throw nb::value_error("path, lengths and totals differ");
    require_inside(at, size * (dtype == NPY_FLOAT32 ? 4 : 8), store.row_nbytes);
    require_live(store.ring(), ids, n * width);
    for (int64_t i = 0; i < n; ++i) {
        if (counts[i] < 0 || counts[i] > width) throw nb::value_error("a length is beyond its path");
    }
    MaybeReleased released(n * width * 64);
    if (dtype == NPY_FLOAT32) return returns<float>(store, ids, counts, n, width, gamma, at, size, out);
    if (dtype == NPY_FLOAT64) return returns<double>(store, ids, counts, n, width, gamma, at, size, out);
    throw nb::type_error("expected a field of float32 or float64");
}

}  // namespace replaybank
