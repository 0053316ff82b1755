// Ids and slots: transition `id` sits at slot `id % capacity`; live ids are [oldest, added).
#pragma once

#include <cstdint>

namespace replaybank {

class Ring {
   public:
    Ring(int64_t capacity, int64_t oldest, int64_t added)
        : capacity_(capacity), oldest_(oldest), added_(added), lap_(oldest - oldest % capacity) {}

    bool live(int64_t id) const { return id >= oldest_ && id < added_; }

    // Of a live id. One division a ring instead of one a call: live ids span at most two laps.
    int64_t slot(int64_t id) const {
        const int64_t at = id - lap_;
        return at >= capacity_ ? at - capacity_ : at;
    }

    // The live id that sits at `slot`.
    int64_t id(int64_t slot) const {
        const int64_t at = lap_ + slot;
        return at < oldest_ ? at + capacity_ : at;
    }

    int64_t oldest() const { return oldest_; }
    int64_t added() const { return added_; }

   private:
    int64_t capacity_, oldest_, added_, lap_;
};

}  // namespace replaybank
