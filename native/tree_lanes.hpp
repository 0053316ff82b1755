// tree_find with several walks in one vector register: 8 with AVX-512, 4 with AVX2, else the plain loop of tree.hpp.
//
// A family is one cache line; the lines of the walks that go abreast are transposed in registers, so that register k
// holds child k of every walk, and then all walks take the same step without a branch. All three add in the
// same order and give the same bits. benchmarks/profile_parts.py times them: a third of the plain loop's time with 8.
#pragma once

#include "tree.hpp"

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define REPLAYBANK_LANES 1
#include <immintrin.h>
#endif

namespace replaybank {

#ifdef REPLAYBANK_LANES

__attribute__((target("avx512f,avx512dq"))) inline void tree_step_8(const double* here, const double* below,
                                                                     double* targets, int64_t* slots) {
    __m512d line[8], pair[8], half[8], c[8];
    for (int k = 0; k < 8; ++k) line[k] = _mm512_load_pd(here + slots[k] * FAMILY);
    for (int k = 0; k < 8; k += 2) {
        pair[k] = _mm512_unpacklo_pd(line[k], line[k + 1]);
        pair[k + 1] = _mm512_unpackhi_pd(line[k], line[k + 1]);
    }
    for (int odd = 0; odd < 2; ++odd) {
        half[odd] = _mm512_shuffle_f64x2(pair[odd], pair[2 + odd], 0x88);
        half[2 + odd] = _mm512_shuffle_f64x2(pair[odd], pair[2 + odd], 0xdd);
        half[4 + odd] = _mm512_shuffle_f64x2(pair[4 + odd], pair[6 + odd], 0x88);
        half[6 + odd] = _mm512_shuffle_f64x2(pair[4 + odd], pair[6 + odd], 0xdd);
    }
    for (int odd = 0; odd < 2; ++odd) {
        c[odd] = _mm512_shuffle_f64x2(half[odd], half[4 + odd], 0x88);
        c[2 + odd] = _mm512_shuffle_f64x2(half[2 + odd], half[6 + odd], 0x88);
        c[4 + odd] = _mm512_shuffle_f64x2(half[odd], half[4 + odd], 0xdd);
        c[6 + odd] = _mm512_shuffle_f64x2(half[2 + odd], half[6 + odd], 0xdd);
    }
    const __m512d zero = _mm512_setzero_pd();
    __m512d target = _mm512_loadu_pd(targets);
    const __m512d s01 = _mm512_add_pd(c[0], c[1]), s23 = _mm512_add_pd(c[2], c[3]);
    const __m512d s45 = _mm512_add_pd(c[4], c[5]), s67 = _mm512_add_pd(c[6], c[7]);
    const __m512d low = _mm512_add_pd(s01, s23), high = _mm512_add_pd(s45, s67);
    const __mmask8 up = _mm512_mask_cmp_pd_mask(_mm512_cmp_pd_mask(high, zero, _CMP_GT_OQ), target, low, _CMP_GE_OQ);
    target = _mm512_mask_sub_pd(target, up, target, low);
    const __m512d first = _mm512_mask_blend_pd(up, s01, s45), second = _mm512_mask_blend_pd(up, s23, s67);
    const __mmask8 right =
        _mm512_mask_cmp_pd_mask(_mm512_cmp_pd_mask(second, zero, _CMP_GT_OQ), target, first, _CMP_GE_OQ);
    target = _mm512_mask_sub_pd(target, right, target, first);
    const __m512d a = _mm512_mask_blend_pd(up, _mm512_mask_blend_pd(right, c[0], c[2]),
                                           _mm512_mask_blend_pd(right, c[4], c[6]));
    const __m512d b = _mm512_mask_blend_pd(up, _mm512_mask_blend_pd(right, c[1], c[3]),
                                           _mm512_mask_blend_pd(right, c[5], c[7]));
    const __mmask8 last = _mm512_mask_cmp_pd_mask(_mm512_cmp_pd_mask(b, zero, _CMP_GT_OQ), target, a, _CMP_GE_OQ);
    target = _mm512_mask_sub_pd(target, last, target, a);
    _mm512_storeu_pd(targets, target);
    __m512i slot = _mm512_slli_epi64(_mm512_loadu_si512(slots), 3);
    slot = _mm512_add_epi64(slot, _mm512_maskz_set1_epi64(up, 4));
    slot = _mm512_add_epi64(slot, _mm512_maskz_set1_epi64(right, 2));
    slot = _mm512_add_epi64(slot, _mm512_maskz_set1_epi64(last, 1));
    _mm512_storeu_si512(slots, slot);
    for (int k = 0; k < 8; ++k) prefetch(below + slots[k] * FAMILY);
}

__attribute__((target("avx2"))) inline void transpose_4(const double* at[4], int offset, __m256d c[4]) {
    const __m256d r0 = _mm256_load_pd(at[0] + offset), r1 = _mm256_load_pd(at[1] + offset);
    const __m256d r2 = _mm256_load_pd(at[2] + offset), r3 = _mm256_load_pd(at[3] + offset);
    const __m256d even01 = _mm256_unpacklo_pd(r0, r1), odd01 = _mm256_unpackhi_pd(r0, r1);
    const __m256d even23 = _mm256_unpacklo_pd(r2, r3), odd23 = _mm256_unpackhi_pd(r2, r3);
    c[0] = _mm256_permute2f128_pd(even01, even23, 0x20);
    c[1] = _mm256_permute2f128_pd(odd01, odd23, 0x20);
    c[2] = _mm256_permute2f128_pd(even01, even23, 0x31);
    c[3] = _mm256_permute2f128_pd(odd01, odd23, 0x31);
}

// Where `target` has passed `first` and the other part is not empty, as a mask.
__attribute__((target("avx2"))) inline __m256d passed_4(__m256d target, __m256d first, __m256d second) {
    return _mm256_and_pd(_mm256_cmp_pd(target, first, _CMP_GE_OQ),
                         _mm256_cmp_pd(second, _mm256_setzero_pd(), _CMP_GT_OQ));
}

__attribute__((target("avx2"))) inline void tree_step_4(const double* here, const double* below, double* targets,
                                                        int64_t* slots) {
    const double* at[4];
    for (int k = 0; k < 4; ++k) at[k] = here + slots[k] * FAMILY;
    __m256d lower[4], upper[4];
    transpose_4(at, 0, lower);
    transpose_4(at, 4, upper);
    __m256d target = _mm256_loadu_pd(targets);
    const __m256d s01 = _mm256_add_pd(lower[0], lower[1]), s23 = _mm256_add_pd(lower[2], lower[3]);
    const __m256d s45 = _mm256_add_pd(upper[0], upper[1]), s67 = _mm256_add_pd(upper[2], upper[3]);
    const __m256d low = _mm256_add_pd(s01, s23), high = _mm256_add_pd(s45, s67);
    const __m256d up = passed_4(target, low, high);
    target = _mm256_sub_pd(target, _mm256_and_pd(up, low));
    const __m256d first = _mm256_blendv_pd(s01, s45, up);
    const __m256d right = passed_4(target, first, _mm256_blendv_pd(s23, s67, up));
    target = _mm256_sub_pd(target, _mm256_and_pd(right, first));
    const __m256d a = _mm256_blendv_pd(_mm256_blendv_pd(lower[0], lower[2], right),
                                       _mm256_blendv_pd(upper[0], upper[2], right), up);
    const __m256d b = _mm256_blendv_pd(_mm256_blendv_pd(lower[1], lower[3], right),
                                       _mm256_blendv_pd(upper[1], upper[3], right), up);
    const __m256d last = passed_4(target, a, b);
    target = _mm256_sub_pd(target, _mm256_and_pd(last, a));
    _mm256_storeu_pd(targets, target);
    auto* place = reinterpret_cast<__m256i*>(slots);
    __m256i slot = _mm256_slli_epi64(_mm256_loadu_si256(place), 3);
    slot = _mm256_add_epi64(slot, _mm256_and_si256(_mm256_castpd_si256(up), _mm256_set1_epi64x(4)));
    slot = _mm256_add_epi64(slot, _mm256_and_si256(_mm256_castpd_si256(right), _mm256_set1_epi64x(2)));
    slot = _mm256_add_epi64(slot, _mm256_and_si256(_mm256_castpd_si256(last), _mm256_set1_epi64x(1)));
    _mm256_storeu_si256(place, slot);
    for (int k = 0; k < 4; ++k) prefetch(below + slots[k] * FAMILY);
}

// All walks of one level, `LANES` at a time; what is left over walks alone.
#define REPLAYBANK_FIND(NAME, STEP, LANES, TARGET)                                                              \
    __attribute__((target(TARGET))) inline void NAME(const Tree& tree, double* targets, int64_t n, int64_t* slots, \
                                                     double* values) {                                          \
        for (int64_t j = 0; j < n; ++j) slots[j] = 0;                                                           \
        for (int64_t l = tree.depth - 2; l >= 0; --l) {                                                         \
            const double* here = tree.level(l);                                                                 \
            const double* below = l > 0 ? tree.level(l - 1) : here;                                             \
            int64_t j = 0;                                                                                      \
            for (; j + LANES <= n; j += LANES) STEP(here, below, targets + j, slots + j);                       \
            for (; j < n; ++j) {                                                                                \
                const double* family = here + slots[j] * FAMILY;                                                \
                slots[j] = slots[j] * FAMILY + tree_step(family, targets[j]);                                   \
            }                                                                                                   \
        }                                                                                                       \
        for (int64_t j = 0; j < n; ++j) values[j] = tree.level(0)[slots[j]];                                    \
    }

REPLAYBANK_FIND(tree_find_8, tree_step_8, 8, "avx512f,avx512dq")
REPLAYBANK_FIND(tree_find_4, tree_step_4, 4, "avx2")
#undef REPLAYBANK_FIND

#endif  // REPLAYBANK_LANES

using TreeFind = void (*)(const Tree&, double*, int64_t, int64_t*, double*);

// The find with `lanes` walks a register, or nullptr where this processor cannot.
inline TreeFind tree_find_with(int lanes) {
#ifdef REPLAYBANK_LANES
    if (lanes == 8) return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") ? tree_find_8 : nullptr;
    if (lanes == 4) return __builtin_cpu_supports("avx2") ? tree_find_4 : nullptr;
#endif
    return lanes == 1 ? tree_find : nullptr;
}

// Draws an id for each of `n` uniform numbers, stratified: target j lies in the j-th of n equal ranges of the total.
// Gives the ids and the probability that each has. `uniforms` is consumed.
inline void tree_draw(const Tree& tree, TreeFind find, const Ring& ring, double* uniforms, int64_t n, int64_t* ids,
                      double* probabilities) {
    const double total = tree.root(), stride = total / static_cast<double>(n);
    for (int64_t j = 0; j < n; ++j) uniforms[j] = (static_cast<double>(j) + uniforms[j]) * stride;
    find(tree, uniforms, n, ids, probabilities);
    for (int64_t j = 0; j < n; ++j) {
        ids[j] = ring.id(ids[j]);
        probabilities[j] /= total;
    }
}

inline int widest_lanes() {
    for (int lanes : {8, 4}) {
        if (tree_find_with(lanes)) return lanes;
    }
    return 1;
}

}  // namespace replaybank
