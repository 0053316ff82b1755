// Whether numbers are finite.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace replaybank {

// values: `n` numbers of type T, wherever they begin.
template <class T>
bool all_finite(const char* values, int64_t n) {
    bool finite = true;
    for (int64_t i = 0; i < n; ++i) {
        T x;
        std::memcpy(&x, values + i * static_cast<int64_t>(sizeof x), sizeof x);
        finite &= std::isfinite(x) != 0;
    }
    return finite;
}

}  // namespace replaybank
