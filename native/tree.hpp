// A tree with eight children a node: one 64-byte line of float64 is one family.
//
// All levels lie in one array. Level 0 holds the leaves; `levels[l]` is where level l starts, and each level is
// padded with zeros to a whole number of families, so that a family can be read without looking at its size.
// The last level has one node, the root.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "prefetch.hpp"
#include "ring.hpp"

namespace replaybank {

constexpr int64_t FAMILY = 8;

// How a node follows from its children. The order of the additions is part of the contract: the NumPy twin and
// tree_find add in the same order, so all three agree bit for bit.
struct Sum {
    static double of(const double* c) {
        return ((c[0] + c[1]) + (c[2] + c[3])) + ((c[4] + c[5]) + (c[6] + c[7]));
    }
};

struct Max {
    static double of(const double* c) {
        double m = c[0];
        for (int k = 1; k < FAMILY; ++k) m = c[k] > m ? c[k] : m;
        return m;
    }
};

// The smallest positive child, or 0 where there is none: 0 marks an empty place.
struct MinPositive {
    static double of(const double* c) {
        double m = std::numeric_limits<double>::infinity();
        for (int k = 0; k < FAMILY; ++k) m = c[k] > 0.0 && c[k] < m ? c[k] : m;
        return std::isinf(m) ? 0.0 : m;
    }
};

struct Tree {
    double* nodes;
    const int64_t* levels;  // where each level starts, and where the last one ends
    int64_t depth;          // how many levels

    double* level(int64_t l) const { return nodes + levels[l]; }
    int64_t width(int64_t l) const { return levels[l + 1] - levels[l]; }
    double root() const { return *level(depth - 1); }
};

// Recomputes all nodes of level `from` and above.
template <class Combine>
void tree_build(const Tree& tree, int64_t from = 1) {
    for (int64_t l = from; l < tree.depth; ++l) {
        const double* below = tree.level(l - 1);
        double* here = tree.level(l);
        const int64_t families = tree.width(l - 1) / FAMILY;
        for (int64_t node = 0; node < families; ++node) here[node] = Combine::of(below + node * FAMILY);
    }
}

// Recomputes the parents of `n` touched nodes of level l - 1 in place: `touched` then holds those parents that changed,
// and their number is returned. A node that does not change ends its path; that also drops the second of two siblings.
template <class Combine>
int64_t tree_lift(const Tree& tree, int64_t l, int64_t* touched, int64_t n) {
    const double* below = tree.level(l - 1);
    double* here = tree.level(l);
    int64_t kept = 0;
    for (int64_t j = 0; j < n; ++j) {
        const int64_t node = touched[j] / FAMILY;
        const double value = Combine::of(below + node * FAMILY);
        touched[kept] = node;
        kept += value != here[node];
        here[node] = value;
    }
    return kept;
}

// Sets the leaves of `n` ids; ids that are no longer live are skipped. Of an id that comes twice the last value stays.
// Returns how many were live. Leaves and their parents are done block by block, while their lines are at hand and those
// of the next block are on their way; what is above fits the caches. Once half of a level is touched, going through all
// of it in order is quicker than picking.
template <class Combine>
int64_t tree_update(const Tree& tree, const Ring& ring, const int64_t* ids, const double* values, int64_t n,
                    int64_t* touched) {
    constexpr int64_t TREE_BLOCK = 64;
    double *leaves = tree.level(0), *parents = tree.level(1);
    const auto fetch = [&](int64_t begin) {
        for (int64_t j = begin; j < std::min(begin + TREE_BLOCK, n); ++j) {
            if (!ring.live(ids[j])) continue;
            const int64_t slot = ring.slot(ids[j]);
            prefetch(leaves + slot);
            prefetch(parents + slot / FAMILY);
        }
    };
    int64_t live = 0, kept = 0;
    fetch(0);
    for (int64_t begin = 0; begin < n; begin += TREE_BLOCK) {
        fetch(begin + TREE_BLOCK);
        int64_t here = 0;
        for (int64_t j = begin; j < std::min(begin + TREE_BLOCK, n); ++j) {
            if (!ring.live(ids[j])) continue;
            const int64_t slot = ring.slot(ids[j]);
            leaves[slot] = values[j];
            touched[kept + here++] = slot;
        }
        kept += tree_lift<Combine>(tree, 1, touched + kept, here);
        live += here;
    }
    for (int64_t l = 2; l < tree.depth && kept > 0; ++l) {
        if (2 * kept >= tree.width(l)) {
            tree_build<Combine>(tree, l);
            break;
        }
        kept = tree_lift<Combine>(tree, l, touched, kept);
    }
    return live;
}

// Sets the leaves of slots [begin, end) to `value`.
template <class Combine>
void tree_fill(const Tree& tree, int64_t begin, int64_t end, double value) {
    double* leaves = tree.level(0);
    for (int64_t slot = begin; slot < end; ++slot) leaves[slot] = value;
    for (int64_t l = 1; l < tree.depth; ++l) {
        begin /= FAMILY;
        end = (end + FAMILY - 1) / FAMILY;
        const double* below = tree.level(l - 1);
        double* here = tree.level(l);
        for (int64_t node = begin; node < end; ++node) here[node] = Combine::of(below + node * FAMILY);
    }
}

// One step down a sum tree: which child holds `target`, and what of the target is left inside it. Halves the family
// three times, in the order in which Sum adds, and never enters a half whose sum is 0: rounding cannot lead to an empty
// leaf. Which way a walk turns is a coin toss no branch predictor wins, so the halves are looked up, not jumped to.
inline int64_t tree_step(const double* c, double& target) {
    const double pairs[4] = {c[0] + c[1], c[2] + c[3], c[4] + c[5], c[6] + c[7]};
    const double halves[2] = {pairs[0] + pairs[1], pairs[2] + pairs[3]};
    double left[2] = {0.0, halves[0]};
    const int64_t half = (target >= halves[0]) & (halves[1] > 0.0);
    target -= left[half];
    const double* family = pairs + 2 * half;
    left[1] = family[0];
    const int64_t pair = (target >= family[0]) & (family[1] > 0.0);
    target -= left[pair];
    const double* two = c + 4 * half + 2 * pair;
    left[1] = two[0];
    const int64_t child = (target >= two[0]) & (two[1] > 0.0);
    target -= left[child];
    return 4 * half + 2 * pair + child;
}

// Where the running sum of the leaves passes each of the `n` targets: its slot and its leaf's value. All walks go down
// abreast, level by level, each fetching its next family while the others compute. `targets` is consumed.
inline void tree_find(const Tree& tree, double* targets, int64_t n, int64_t* slots, double* values) {
    for (int64_t j = 0; j < n; ++j) slots[j] = 0;
    for (int64_t l = tree.depth - 2; l >= 0; --l) {
        const double* here = tree.level(l);
        const double* below = l > 0 ? tree.level(l - 1) : nullptr;
        for (int64_t j = 0; j < n; ++j) {
            const int64_t child = slots[j] * FAMILY + tree_step(here + slots[j] * FAMILY, targets[j]);
            slots[j] = child;
            if (below) prefetch(below + child * FAMILY);
        }
    }
    const double* leaves = tree.level(0);
    for (int64_t j = 0; j < n; ++j) values[j] = leaves[slots[j]];
}

}  // namespace replaybank
