// Priorities of TD errors, and the importance weights of draws by them (Schaul et al. 2016, sections 3.3 and 3.4).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace replaybank {

// out = |values| + epsilon. The largest of them; not finite where one of them is not.
inline double magnitudes(const double* values, int64_t n, double epsilon, double* out) {
    double largest = 0.0;
    bool finite = true;
    for (int64_t i = 0; i < n; ++i) {
        out[i] = std::fabs(values[i]) + epsilon;
        finite &= out[i] <= std::numeric_limits<double>::max();  // false for NaN too
        largest = out[i] > largest ? out[i] : largest;
    }
    return finite ? largest : std::numeric_limits<double>::quiet_NaN();
}

// out = (scale / probabilities) ^ beta; a scale of NaN stands for the smallest of the probabilities.
inline void importance_weights(const double* probabilities, int64_t n, double scale, double beta, float* out) {
    if (std::isnan(scale) && n > 0) scale = *std::min_element(probabilities, probabilities + n);
    const float exponent = static_cast<float>(beta);
    for (int64_t i = 0; i < n; ++i) {
        const double ratio = scale / probabilities[i];
        // In single precision, twice as quick, where the ratio fits; its power may fit where it does not.
        const bool fits = ratio > 1e-30 && ratio < 1e30;
        out[i] = fits ? std::pow(static_cast<float>(ratio), exponent) : static_cast<float>(std::pow(ratio, beta));
    }
}

}  // namespace replaybank
