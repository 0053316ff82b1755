// Links from what never changes. A row's `previous` and `step` are written once, when it is added; everything else that
// ties rows together follows from them, from who holds which tail, and from where streams went on. So a checkpoint keeps
// rows as they lie, whatever other links they hold by then, and this makes the rest anew, or finds what contradicts.
#pragma once

#include <cstdint>
#include <vector>

#include "store.hpp"

namespace replaybank {

// Marks each index below `n` once.
class Once {
   public:
    explicit Once(int64_t n) : taken_(static_cast<size_t>(n)) {}

    bool take(int64_t index) {
        if (index < 0 || index >= static_cast<int64_t>(taken_.size()) || taken_[static_cast<size_t>(index)]) return false;
        return taken_[static_cast<size_t>(index)] = true;
    }

    // What was not taken, the last one first: so that pools are filled from the front.
    void leave_to(const Pool& pool) const {
        *pool.free_count = 0;
        for (int64_t i = static_cast<int64_t>(taken_.size()) - 1; i >= 0; --i) {
            if (!taken_[static_cast<size_t>(i)]) pool.give_back(static_cast<uint32_t>(i));
        }
    }

   private:
    std::vector<bool> taken_;
};

// Whether row `id` follows the row that it says it does; if so, links that one to it. Rows before it are linked already,
// and nobody has said yet that it follows this one.
inline bool link_back(const Store& s, int64_t id, int64_t oldest) {
    char* row = s.row(id % s.capacity);
    s.set_link(row, s.next_at, 0);
    const uint32_t previous = s.link(row, s.previous_at), step = s.link(row, s.step_at);
    if (row[s.terminated_at] & ~1 || row[s.truncated_at] & ~1) return false;
    if ((previous == 0) != (step == 0) || previous > id) return false;
    if (previous == 0 || id - previous < oldest) return true;
    char* before = s.row((id - previous) % s.capacity);
    if (s.ended(before) || s.link(before, s.next_at) || s.link(before, s.step_at) != step - 1) return false;
    s.set_link(before, s.next_at, previous);
    return true;
}

// Whether a row with a next one holds nothing beside itself, and one without holds a tail, as nobody else does.
inline bool holds_its_own(const Store& s, int64_t id, Once& tails, Once& older, Once& begun, int64_t oldest) {
    const char* row = s.row(id % s.capacity);
    const uint32_t next = s.link(row, s.next_at), tail = s.link(row, s.tail_at);
    if (next ? tail != NONE : !tails.take(tail)) return false;
    if (s.frames > 1) {
        const uint32_t own = s.link(row, s.older_at), following = s.link(row, s.next_older_at);
        if (own != NONE && !older.take(own)) return false;
        if (following != NONE && (next || !older.take(following))) return false;
    }
    if (next || s.onward[tail] == 0) return true;
    const int64_t on = id + s.onward[tail];  // the stream's next segment begins there
    return on < s.added() && s.link(s.row(on % s.capacity), s.step_at) == 0 && begun.take(on - oldest);
}

// -1, or the id of a row at which something contradicts: then the store is of no use. Expects added and start, how many
// records of the pools are used, and in each row previous, step, tail and (with stacks) older and next_older; makes next
// and the free lists.
inline int64_t relink(const Store& s, int64_t streams) {
    const int64_t oldest = s.oldest(), added = s.added();
    for (int64_t id = oldest; id < added; ++id) {
        if (!link_back(s, id, oldest)) return id;
    }
    Once tails(*s.free_tails.used), older(*s.free_older.used), begun(added - oldest), newest(added - oldest);
    for (int64_t id = oldest; id < added; ++id) {
        if (!holds_its_own(s, id, tails, older, begun, oldest)) return id;
    }
    for (int64_t stream = 0; stream < streams; ++stream) {
        const int64_t id = s.newest_of(stream);
        if (id >= added) return id;
        if (id < oldest) continue;
        const char* row = s.row(id % s.capacity);
        if (s.link(row, s.next_at) || s.onward[s.link(row, s.tail_at)] || !newest.take(id - oldest)) return id;
    }
    tails.leave_to(s.free_tails);
    older.leave_to(s.free_older);
    return -1;
}

}  // namespace replaybank
