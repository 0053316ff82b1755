// A ring in shared memory: one process writes transitions, another one reads them. Nobody waits for a lock, and whoever
// dies leaves whole messages only: a message is there once `head` has passed it.
//
// head, tail and claimed count bytes since the ring was made; position p lies at p % capacity.
//
//            claimed    tail                    head
//   ───────────┼──────────┼───────────────────────┼──────────
//    free      │ is read  │ waits                 │ free
//
// A message is read where it lies, so the reader first claims it: it says where it is (claimed), then moves tail by
// compare-exchange. A writer that drops the oldest message moves tail by compare-exchange, too, and reuses what lies below
// both. So a message is either read or dropped, never both, and never overwritten while it is read.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "append.hpp"
#include "finite.hpp"
#include "store.hpp"

namespace replaybank {

constexpr uint64_t IDLE = ~uint64_t{0};  // nothing is being read
constexpr int64_t LINE = 64;             // messages begin at a cache line
constexpr int64_t PATIENCE = 2000;       // looks at a claim before the writer gives up for now

static_assert(std::atomic<uint64_t>::is_always_lock_free, "counters are shared between processes");

// The first kibibyte of the file; ring.py knows the places of these words. Each side's counters have lines of their own.
struct Control {
    uint64_t magic, version;
    alignas(128) std::atomic<uint64_t> head;  // the writer's: what is below is whole
    alignas(128) std::atomic<uint64_t> tail;  // what is below was read, is being read, or was dropped
    alignas(128) std::atomic<uint64_t> claimed;  // the reader's: the message that it reads, or IDLE
    std::atomic<uint64_t> abandoned;             // the reader will read no more
    // The writer's: how many transitions were ever published when head was at this position. Two, in turn: the one whose
    // position is head's is true at any instant.
    struct Mark {
        std::atomic<uint64_t> position, transitions;
    };
    alignas(128) Mark marks[2];
    std::atomic<uint64_t> closed;  // the writer has left in peace
};
static_assert(sizeof(Control) <= 1024);

enum class Kind : int32_t { TRANSITIONS = 1, END = 2, SKIP = 3 };

struct Message {
    int64_t nbytes;   // with this header, up to the next message
    int64_t first;    // transitions that the writer published before
    uint32_t number;  // messages (but SKIP) that it published before, modulo 2^32
    int32_t n;        // transitions, or streams to end
    Kind kind;
    int32_t stream;   // of all of them; -1: one each follows, int64 [n]
};
static_assert(sizeof(Message) == 32);

inline int64_t padded(int64_t nbytes, int64_t to = 16) { return (nbytes + to - 1) / to * to; }

// What one side remembers, an int64 array that Python owns.
struct Memory {
    int64_t& position;      // writer: below is free; reader: the number that comes next, modulo 2^32
    int64_t& transitions;   // published or read
    int64_t& messages;
    int64_t& dropped;       // transitions
};

struct Channel {
    Control* control;
    char* data;
    int64_t capacity;  // bytes, a multiple of LINE

    char* at(uint64_t position) const { return data + position % static_cast<uint64_t>(capacity); }
};

// Whether this may be what head says.
inline bool sound(uint64_t head) { return head % LINE == 0 && head < uint64_t{1} << 62; }

// ---- the writer -------------------------------------------------------------------------------------------------

enum class Pushed : int64_t { DONE = 0, NOT_PLAIN = -1, FULL = -2, TOO_LARGE = -3, ABANDONED = -4 };

// Below this position nothing is waiting and nothing is being read.
inline int64_t reusable(const Channel& c) {
    const uint64_t tail = c.control->tail.load();  // in this order, as the reader claims before it moves tail
    return static_cast<int64_t>(std::min(tail, c.control->claimed.load()));
}

// Drops the oldest waiting message. False where there is none.
inline bool drop_oldest(const Channel& c, uint64_t head, Memory& memory) {
    uint64_t tail = c.control->tail.load();
    if (tail >= head || tail % LINE != 0 || head - tail > static_cast<uint64_t>(c.capacity)) return false;
    Message oldest;
    std::memcpy(&oldest, c.at(tail), sizeof oldest);
    if (oldest.nbytes < LINE || oldest.nbytes > c.capacity || oldest.n < 0) return false;  // somebody else wrote here
    if (c.control->tail.compare_exchange_strong(tail, tail + static_cast<uint64_t>(oldest.nbytes)) &&
        oldest.kind == Kind::TRANSITIONS) {
        memory.dropped += oldest.n;
    }
    return true;
}

// Whether `need` bytes from head on are free; with `drop`, they are made so.
inline bool make_room(const Channel& c, uint64_t head, int64_t need, bool drop, Memory& memory) {
    const int64_t end = static_cast<int64_t>(head) + need - c.capacity;
    if (end <= memory.position) return true;
    int64_t looks = 0;
    while ((memory.position = reusable(c)) < end) {
        if (!drop) return false;
        if (c.control->claimed.load() != IDLE) {  // dropping more would not free what is being read
            if (++looks > PATIENCE) return false;
        } else if (!drop_oldest(c, head, memory) && reusable(c) < end) {
            return false;
        }
    }
    return true;
}

// Publishes a message of `nbytes`, whose items `fill(to)` writes behind the header. All or nothing.
template <class Fill>
Pushed push(const Channel& c, Memory memory, Message message, int64_t nbytes, bool drop, Fill&& fill) {
    Control& control = *c.control;
    if (control.abandoned.load(std::memory_order_relaxed)) return Pushed::ABANDONED;
    message.nbytes = padded(nbytes, LINE);
    message.number = static_cast<uint32_t>(memory.messages);
    if (message.nbytes > c.capacity / 2) return Pushed::TOO_LARGE;
    uint64_t head = control.head.load(std::memory_order_relaxed);
    if (!sound(head)) return Pushed::ABANDONED;
    const int64_t rest = c.capacity - static_cast<int64_t>(head % static_cast<uint64_t>(c.capacity));
    const int64_t skip = message.nbytes > rest ? rest : 0;  // a message lies in one piece
    if (!make_room(c, head, skip + message.nbytes, drop, memory)) return Pushed::FULL;
    if (skip) {
        const Message gap{skip, memory.transitions, message.number, 0, Kind::SKIP, -1};
        std::memcpy(c.at(head), &gap, sizeof gap);
        head += static_cast<uint64_t>(skip);
    }
    char* to = c.at(head);
    message.first = memory.transitions;
    std::memcpy(to, &message, sizeof message);
    fill(to + sizeof message);
    head += static_cast<uint64_t>(message.nbytes);
    if (message.kind == Kind::TRANSITIONS) memory.transitions += message.n;
    auto& mark = control.marks[memory.messages++ % 2];
    mark.position.store(head, std::memory_order_relaxed);
    mark.transitions.store(static_cast<uint64_t>(memory.transitions), std::memory_order_relaxed);
    control.head.store(head);
    return control.abandoned.load() ? Pushed::ABANDONED : Pushed::DONE;
}

inline int64_t message_nbytes(const Columns& columns, int64_t n, bool owners) {
    int64_t nbytes = static_cast<int64_t>(sizeof(Message)) + (owners ? padded(8 * n) : 0);
    for (int64_t c = 0; c < columns.n; ++c) nbytes += padded(columns.all[c].nbytes * columns.all[c].frames * n);
    return nbytes;
}

// Publishes `n` transitions: item t of each column, or, where columns have an item a stream, the item of owners[t]. They
// belong to `stream`, or, where that is -1, to owners[t].
inline Pushed push_transitions(const Channel& channel, Memory memory, const Columns& columns, int64_t n, int32_t stream,
                               const int64_t* owners, bool item_a_stream, bool drop) {
    if (n > std::numeric_limits<int32_t>::max()) return Pushed::TOO_LARGE;
    const Message message{0, 0, 0, static_cast<int32_t>(n), Kind::TRANSITIONS, stream};
    return push(channel, memory, message, message_nbytes(columns, n, stream < 0), drop, [&](char* to) {
        if (stream < 0) {
            std::memcpy(to, owners, static_cast<size_t>(8 * n));
            to += padded(8 * n);
        }
        for (int64_t c = 0; c < columns.n; ++c) {
            const Column& column = columns.all[c];
            const int64_t item = column.nbytes * column.frames;
            if (!item_a_stream) std::memcpy(to, column.values, static_cast<size_t>(n * item));
            for (int64_t t = 0; item_a_stream && t < n; ++t) {
                std::memcpy(to + t * item, column.values + owners[t] * item, static_cast<size_t>(item));
            }
            to += padded(n * item);
        }
    });
}

// Publishes that what these streams add next begins a new segment.
inline Pushed push_end(const Channel& channel, Memory memory, const int64_t* streams, int64_t n, bool drop) {
    const Message message{0, 0, 0, static_cast<int32_t>(n), Kind::END, -1};
    const int64_t nbytes = static_cast<int64_t>(sizeof message) + padded(8 * n);
    return push(channel, memory, message, nbytes, drop,
                [&](char* to) { std::memcpy(to, streams, static_cast<size_t>(8 * n)); });
}

// ---- the reader -------------------------------------------------------------------------------------------------

// A leaf of the transitions as they lie in a message.
struct Slice {
    Column column;  // its values are found message by message
    bool finite32, finite64;  // whether its numbers, of so many bits, must be finite
};

// Moves what waits in a channel into the rows. Trusts nothing that it finds there: whatever another process has written,
// it reads within the message and writes within the rows.
class Drain {
   public:
    static constexpr int64_t DAMAGED = -1;

    // streams [k]: what each of the writer's streams is called in the rows.
    Drain(const Store& store, const Channel& channel, const std::vector<Slice>& parts, const int64_t* streams, int64_t k,
          Memory memory)
        : store_(store), channel_(channel), control_(*channel.control), parts_(parts), streams_(streams), k_(k),
          memory_(memory) {}

    // Reads whole messages that were there at the call, up to `most` transitions (but one message at least). Gives how many
    // transitions there were, or DAMAGED: then what was before the damage has been read.
    int64_t run(int64_t most) {
        const int64_t before = memory_.transitions;
        const uint64_t head = control_.head.load(std::memory_order_acquire);
        bool good = sound(head);
        for (int64_t failures = 0; good && failures < PATIENCE;) {
            uint64_t tail = control_.tail.load();
            if (tail >= head) break;
            control_.claimed.store(tail);
            const auto* message = reinterpret_cast<const Message*>(channel_.at(tail));
            Message found;
            std::memcpy(&found, message, sizeof found);  // torn, where the writer drops it now: then the exchange fails
            const bool waits = memory_.transitions > before && found.kind == Kind::TRANSITIONS &&
                               found.n > most - (memory_.transitions - before);
            if (tail % LINE != 0 || !plausible(found, tail)) {
                good = control_.tail.load() != tail;
                ++failures;
            } else if (waits) {
                if (control_.tail.load() == tail) break;
                ++failures;
            } else if (control_.tail.compare_exchange_strong(tail, tail + static_cast<uint64_t>(found.nbytes))) {
                good = take(found, tail);
            } else {
                ++failures;
            }
        }
        control_.claimed.store(IDLE);
        return good ? memory_.transitions - before : DAMAGED;
    }

   private:
    bool plausible(const Message& found, uint64_t position) const {
        const int64_t rest = channel_.capacity - static_cast<int64_t>(position % static_cast<uint64_t>(channel_.capacity));
        return found.nbytes >= LINE && found.nbytes % LINE == 0 &&
               found.nbytes <= std::min(rest, channel_.capacity / 2) && found.n >= 0 &&
               position + static_cast<uint64_t>(found.nbytes) <= control_.head.load(std::memory_order_acquire);
    }

    // The streams of a message, by the rows' names; false where one is not the writer's.
    bool owners_of(const Message& found, const char* list) {
        if (found.stream < -1 || found.stream >= k_) return false;
        owners_.resize(static_cast<size_t>(found.n));
        for (int64_t t = 0; t < found.n; ++t) {
            int64_t owner = found.stream;
            if (owner < 0) std::memcpy(&owner, list + 8 * t, 8);
            if (owner < 0 || owner >= k_) return false;
            owners_[static_cast<size_t>(t)] = streams_[owner];
        }
        return true;
    }

    bool take(const Message& found, uint64_t position) {
        if (found.kind == Kind::SKIP) return true;
        if (found.number != static_cast<uint32_t>(memory_.position)) {  // messages were dropped here
            for (int64_t stream = 0; stream < k_; ++stream) store_.close(streams_[stream]);
        }
        memory_.position = static_cast<uint32_t>(found.number + 1);
        ++memory_.messages;
        const char* at = channel_.at(position) + sizeof(Message);
        int64_t room = found.nbytes - static_cast<int64_t>(sizeof(Message));
        if (found.n > room || (found.stream < 0 && padded(8 * found.n) > room) || !owners_of(found, at)) return false;
        if (found.kind == Kind::END) {
            for (const int64_t stream : owners_) store_.close(stream);
            return true;
        }
        if (found.kind != Kind::TRANSITIONS || found.n == 0) return false;
        if (found.stream < 0) {
            at += padded(8 * found.n);
            room -= padded(8 * found.n);
        }
        columns_.clear();
        for (const Slice& part : parts_) {
            const int64_t item = part.column.nbytes * part.column.frames;
            if (item > room / found.n || padded(item * found.n) > room) return false;
            if (part.finite32 && !all_finite<float>(at, item * found.n / 4)) return false;
            if (part.finite64 && !all_finite<double>(at, item * found.n / 8)) return false;
            columns_.push_back(part.column);
            columns_.back().values = at;
            at += padded(item * found.n);
            room -= padded(item * found.n);
        }
        if (found.first < 0 || found.first >= int64_t{1} << 62) return false;
        const int64_t lost = found.first - memory_.transitions - memory_.dropped;
        if (lost < 0) return false;
        memory_.dropped += lost;
        memory_.transitions += found.n;
        const Columns all{columns_.data(), static_cast<int64_t>(columns_.size())};
        append(store_, all, found.n, owners_.data(), false, k_);
        return true;
    }

    const Store& store_;
    const Channel& channel_;
    Control& control_;
    const std::vector<Slice>& parts_;
    const int64_t* streams_;
    const int64_t k_;
    Memory memory_;
    std::vector<int64_t> owners_;
    std::vector<Column> columns_;
};

}  // namespace replaybank
