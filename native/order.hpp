// Who has which rank: entries in order of (priority, id), kept in a B+-tree that counts.
//
// A branch knows how many entries lie below each child, so the entry of a rank, and the rank of an entry, are one walk.
// Exact, whatever the priorities; an update is an erase and an insert, and no step ever costs more than a few walks.
//
// Splits leave halves; two adjacent siblings become one where they hold no more than half a node together. So any two
// hold more than that, which bounds the nodes that are needed (see order.py).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "order_keys.hpp"
#include "prefetch.hpp"
#include "ring.hpp"

namespace replaybank {

constexpr int64_t TALLEST = 16;
constexpr int64_t ORDER_BLOCK = 64;  // as many walks go abreast

// The way to an entry, as it was before others came or went: a guess of the child at each height, at 0 of the place in
// the leaf. Guesses are checked, which is quicker than to search again.
struct Way {
    uint8_t turns[TALLEST] = {};
};

struct Order {
    struct Leaf {
        Keys keys;
    };
    struct Branch {
        Keys last;  // no entry below child j comes after last[j]; that of the last child comes after all
        uint32_t child[FANOUT];
        uint32_t count[FANOUT];  // entries below each child
        int64_t size;            // children
        int64_t unused[7];
    };
    // What `state` holds. A height of 0: the root is a leaf. Free nodes are chains, -1 at the end.
    enum Field { ROOT, HEIGHT, SIZE, LEAVES, BRANCHES, FREE_LEAF, FREE_BRANCH, FIELDS };

    Leaf* leaves;
    Branch* branches;
    int64_t* state;
    int64_t leaf_room, branch_room;

    int64_t size() const { return state[SIZE]; }

    // How many entries (height 0) or children a child of a branch of this height has.
    int64_t load(const Branch& branch, int64_t j, int64_t height) const {
        return height == 1 ? branch.count[j] : branches[branch.child[j]].size;
    }

    void insert(const Entry& entry, const Way& way) {
        if (state[LEAVES] == 0) state[ROOT] = new_leaf();
        const bool full = (state[HEIGHT] == 0 ? size() : branches[state[ROOT]].size) == FANOUT;
        if (full) {
            const int64_t above = new_branch();
            Branch& root = branches[above];
            root.child[0] = static_cast<uint32_t>(state[ROOT]);
            root.count[0] = static_cast<uint32_t>(size());
            root.size = 1;
            state[ROOT] = above;
            ++state[HEIGHT];
        }
        int64_t node = state[ROOT];
        for (int64_t height = state[HEIGHT]; height > 0; --height) {
            Branch& branch = branches[node];
            int64_t j = branch.last.place_of(entry, way.turns[height]);
            if (load(branch, j, height) == FANOUT) {
                split(branch, j, height, entry);
                j += before(branch.last[j], entry);
            }
            ++branch.count[j];
            node = branch.child[j];
        }
        Keys& keys = leaves[node].keys;
        keys.insert(keys.place_of(entry, way.turns[0]), entry);
        ++state[SIZE];
    }

    void erase(const Entry& entry, const Way& way) {
        int64_t path[TALLEST], turns[TALLEST];
        int64_t node = state[ROOT];
        for (int64_t height = state[HEIGHT]; height > 0; --height) {
            const Branch& branch = branches[node];
            path[height] = node;
            turns[height] = branch.last.place_of(entry, way.turns[height]);
            node = branch.child[turns[height]];
        }
        Keys& keys = leaves[node].keys;
        const int64_t at = keys.place_of(entry, way.turns[0]);
        if (at == FANOUT || keys.priority[at] != entry.priority || keys.id[at] != entry.id) {
            throw std::logic_error("an id is not where its priority says");
        }
        keys.erase(at);
        --state[SIZE];
        bool changed = true;  // whether the child has fewer entries or children than before
        for (int64_t height = 1; height <= state[HEIGHT]; ++height) {
            Branch& branch = branches[path[height]];
            const int64_t j = turns[height];
            --branch.count[j];
            if (!changed) continue;
            changed = j + 1 < branch.size && merged(branch, j, height);
            if (j > 0) changed |= merged(branch, j - 1, height);
        }
        while (state[HEIGHT] > 0 && branches[state[ROOT]].size == 1) {
            const int64_t root = state[ROOT];
            state[ROOT] = branches[root].child[0];
            free_branch(root);
            --state[HEIGHT];
        }
    }

    // How many entries come before this one.
    int64_t position(const Entry& entry) const {
        int64_t node = state[ROOT], passed = 0;
        for (int64_t height = state[HEIGHT]; height > 0; --height) {
            const Branch& branch = branches[node];
            const int64_t j = branch.last.place_of(entry);
            for (int64_t k = 0; k < j; ++k) passed += branch.count[k];
            node = branch.child[j];
        }
        return passed + leaves[node].keys.place_of(entry);
    }

    // The ids at `n` positions, which are consumed. All walks go down abreast, each fetching its next node.
    void at(int64_t* positions, int64_t n, int64_t* ids) const {
        for (int64_t i = 0; i < n; ++i) ids[i] = state[ROOT];
        for (int64_t height = state[HEIGHT]; height > 0; --height) {
            for (int64_t i = 0; i < n; ++i) {
                const Branch& branch = branches[ids[i]];
                int64_t j = 0, left = positions[i];
                while (left >= branch.count[j]) left -= branch.count[j++];
                positions[i] = left;
                ids[i] = branch.child[j];
                if (height > 1) {
                    const auto* counts = reinterpret_cast<const char*>(branches[ids[i]].child);
                    for (int line = 0; line < 4; ++line) prefetch(counts + 64 * line);
                } else {
                    prefetch(leaves[ids[i]].keys.id + left);
                }
            }
        }
        for (int64_t i = 0; i < n; ++i) ids[i] = leaves[ids[i]].keys.id[positions[i]];
    }

    // The ways to `n` entries, or to where they would be. All walks go down abreast, each fetching its next node.
    void find(const Entry* entries, int64_t n, Way* ways) const {
        int64_t nodes[ORDER_BLOCK];
        for (int64_t i = 0; i < n; ++i) nodes[i] = state[ROOT];
        for (int64_t height = state[HEIGHT]; height > 0; --height) {
            for (int64_t i = 0; i < n; ++i) {
                const Branch& branch = branches[nodes[i]];
                const int64_t j = branch.last.place_of(entries[i]);
                ways[i].turns[height] = static_cast<uint8_t>(j);
                nodes[i] = branch.child[j];
                if (height == 1) {
                    leaves[nodes[i]].keys.fetch();
                    for (int line = 0; line < 4; ++line) prefetch(leaves[nodes[i]].keys.id + 8 * line);
                } else {
                    branches[nodes[i]].last.fetch();
                    for (int line = 0; line < 5; ++line) prefetch(branches[nodes[i]].child + 16 * line);
                }
            }
        }
        for (int64_t i = 0; i < n; ++i) {
            ways[i].turns[0] = static_cast<uint8_t>(leaves[nodes[i]].keys.place_of(entries[i]));
        }
    }

   private:
    int64_t new_leaf() {
        int64_t leaf = state[FREE_LEAF];
        if (leaf < 0) {
            if (state[LEAVES] >= leaf_room) throw std::logic_error("the order has no room for another leaf");
            leaf = state[LEAVES]++;
        } else {
            state[FREE_LEAF] = leaves[leaf].keys.id[0];
        }
        leaves[leaf].keys.clear();
        return leaf;
    }

    int64_t new_branch() {
        int64_t branch = state[FREE_BRANCH];
        if (branch < 0) {
            if (state[BRANCHES] >= branch_room) throw std::logic_error("the order has no room for another branch");
            branch = state[BRANCHES]++;
        } else {
            state[FREE_BRANCH] = branches[branch].size;
        }
        branches[branch].last.clear();
        return branch;
    }

    void free_leaf(int64_t leaf) {
        leaves[leaf].keys.id[0] = state[FREE_LEAF];
        state[FREE_LEAF] = leaf;
    }

    void free_branch(int64_t branch) {
        branches[branch].size = state[FREE_BRANCH];
        state[FREE_BRANCH] = branch;
    }

    template <class T>
    static void open(T* items, int64_t size, int64_t at) {
        std::memmove(items + at + 1, items + at, static_cast<size_t>(size - at) * sizeof(T));
    }

    template <class T>
    static void close(T* items, int64_t size, int64_t at) {
        std::memmove(items + at, items + at + 1, static_cast<size_t>(size - at - 1) * sizeof(T));
    }

    template <class T>
    static void copy(T* to, const T* from, int64_t n) {
        std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
    }

    // Makes two of the full child j. Newcomers arrive in order at the far end: there the old node stays full.
    void split(Branch& branch, int64_t j, int64_t height, const Entry& entry) {
        const bool far_end = j == branch.size - 1;
        int64_t keep = FANOUT / 2, kept = 0, right = 0;
        Entry last;
        if (height == 1) {
            Leaf& from = leaves[branch.child[j]];
            if (far_end && before(from.keys[FANOUT - 1], entry)) keep = FANOUT;
            right = new_leaf();
            last = from.keys[keep - 1];
            leaves[right].keys.take(0, from.keys, keep, FANOUT - keep);
            kept = keep;
        } else {
            Branch& from = branches[branch.child[j]];
            if (far_end && before(from.last[FANOUT - 2], entry)) keep = FANOUT - 1;
            right = new_branch();
            Branch& to = branches[right];
            last = from.last[keep - 1];
            from.last.set(keep - 1, AFTER_ALL);
            to.last.take(0, from.last, keep, FANOUT - keep);
            copy(to.child, from.child + keep, FANOUT - keep);
            copy(to.count, from.count + keep, FANOUT - keep);
            to.size = FANOUT - keep;
            from.size = keep;
            for (int64_t k = 0; k < keep; ++k) kept += from.count[k];
        }
        branch.last.insert(j, last);
        open(branch.child, branch.size, j + 1);
        open(branch.count, branch.size, j + 1);
        branch.child[j + 1] = static_cast<uint32_t>(right);
        branch.count[j + 1] = branch.count[j] - static_cast<uint32_t>(kept);
        branch.count[j] = static_cast<uint32_t>(kept);
        ++branch.size;
    }

    // Makes one of the children j and j + 1 where they fill no more than half a node, or one of them is empty.
    bool merged(Branch& branch, int64_t j, int64_t height) {
        const int64_t left = load(branch, j, height), right = load(branch, j + 1, height);
        if (left + right > FANOUT / 2 && left > 0 && right > 0) return false;
        const int64_t from = branch.child[j + 1];
        if (height == 1) {
            leaves[branch.child[j]].keys.take(left, leaves[from].keys, 0, right);
            free_leaf(from);
        } else {
            Branch& to = branches[branch.child[j]];
            to.last.set(left - 1, branch.last[j]);
            to.last.take(left, branches[from].last, 0, right);
            copy(to.child + left, branches[from].child, right);
            copy(to.count + left, branches[from].count, right);
            to.size += right;
            free_branch(from);
            merged(to, left - 1, height - 1);  // where the two met
        }
        branch.count[j] += branch.count[j + 1];
        branch.last.erase(j);
        close(branch.child, branch.size, j + 1);
        close(branch.count, branch.size, j + 1);
        --branch.size;
        return true;
    }
};

static_assert(sizeof(Order::Leaf) == 512 && sizeof(Order::Branch) == 832);

// Gives `n` ids from `first` on their priorities; those that sat in their slots, if live, leave first.
inline void order_add(Order& order, double* by_slot, int64_t capacity, int64_t oldest, int64_t first,
                      const double* values, int64_t n) {
    Entry entries[ORDER_BLOCK];
    Way ways[ORDER_BLOCK];
    for (int64_t begin = 0; begin < n; begin += ORDER_BLOCK / 2) {
        const int64_t end = std::min(begin + ORDER_BLOCK / 2, n);
        int64_t looked = 0;
        for (int64_t i = begin; i < end; ++i) {
            const int64_t id = first + i;
            if (id - capacity >= oldest) entries[looked++] = {by_slot[id % capacity], id - capacity};
            entries[looked++] = {values[i], id};
        }
        order.find(entries, looked, ways);
        looked = 0;
        for (int64_t i = begin; i < end; ++i) {
            if (first + i - capacity >= oldest) {
                order.erase(entries[looked], ways[looked]);
                ++looked;
            }
            by_slot[(first + i) % capacity] = values[i];
            order.insert(entries[looked], ways[looked]);
            ++looked;
        }
    }
}

// The `n` oldest ids leave.
inline void order_drop(Order& order, const double* by_slot, int64_t capacity, int64_t oldest, int64_t n) {
    Entry entries[ORDER_BLOCK];
    Way ways[ORDER_BLOCK];
    for (int64_t begin = 0; begin < n; begin += ORDER_BLOCK) {
        const int64_t count = std::min(ORDER_BLOCK, n - begin);
        for (int64_t i = 0; i < count; ++i) {
            const int64_t id = oldest + begin + i;
            entries[i] = {by_slot[id % capacity], id};
        }
        order.find(entries, count, ways);
        for (int64_t i = 0; i < count; ++i) order.erase(entries[i], ways[i]);
    }
}

// Sets the priorities of `n` ids; ids that are no longer live are skipped. Of an id that comes twice the last one
// stays. Returns how many were live.
inline int64_t order_update(Order& order, double* by_slot, const Ring& ring, const int64_t* ids, const double* values,
                            int64_t n) {
    Entry entries[ORDER_BLOCK];
    Way ways[ORDER_BLOCK];
    int64_t live = 0;
    const auto fetch = [&](int64_t begin) {
        for (int64_t i = begin; i < std::min(begin + ORDER_BLOCK / 2, n); ++i) {
            if (ring.live(ids[i])) prefetch(by_slot + ring.slot(ids[i]));
        }
    };
    fetch(0);
    for (int64_t begin = 0; begin < n; begin += ORDER_BLOCK / 2) {
        fetch(begin + ORDER_BLOCK / 2);
        int64_t looked = 0;
        for (int64_t i = begin; i < std::min(begin + ORDER_BLOCK / 2, n); ++i) {
            if (!ring.live(ids[i])) continue;
            entries[looked++] = {by_slot[ring.slot(ids[i])], ids[i]};
            entries[looked++] = {values[i], ids[i]};
        }
        order.find(entries, looked, ways);
        for (int64_t i = 0; i < looked; i += 2) {
            const Entry& to = entries[i + 1];
            double& priority = by_slot[ring.slot(to.id)];
            if (priority == to.priority) continue;
            order.erase({priority, to.id}, ways[i]);  // of an id that comes twice, not entries[i] any more
            order.insert(to, ways[i + 1]);
            priority = to.priority;
        }
        live += looked / 2;
    }
    return live;
}

// The ranks of `n` live ids: 0 for the largest priority, and of equal ones the newest id.
inline void order_ranks(const Order& order, const double* by_slot, const Ring& ring, const int64_t* ids, int64_t n,
                        int64_t* ranks) {
    for (int64_t i = 0; i < n; ++i) ranks[i] = order.size() - 1 - order.position({by_slot[ring.slot(ids[i])], ids[i]});
}

}  // namespace replaybank
