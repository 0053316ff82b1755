// The oldest leave before newer ones push them out: what they hold goes back to the pools, their memory to the system.
#pragma once

#include <algorithm>
#include <cstdint>

#include "store.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace replaybank {

// The live rows before `oldest` leave.
inline void drop(const Store& s, int64_t oldest) {
    for (int64_t id = s.oldest(); id < oldest; ++id) s.give_back_of(s.row(id % s.capacity));
    s.cursor[1] = std::max(s.start(), oldest);
}

// Gives the whole pages in `memory[begin, end)` back to the system; what they held is lost. Returns where the last of
// them ends (`begin`: there was none). A system that takes no pages back keeps them until it needs memory, as if it had.
inline int64_t release(char* memory, int64_t begin, int64_t end) {
#if defined(__unix__) || defined(__APPLE__)
    const auto page = static_cast<int64_t>(sysconf(_SC_PAGESIZE));
    const auto at = static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory));
    const int64_t first = (at + begin + page - 1) / page * page, last = (at + end) / page * page;
    if (first >= last) return begin;
#if defined(__linux__)
    const int advice = MADV_DONTNEED;
#else
    const int advice = MADV_FREE;
#endif
    madvise(reinterpret_cast<void*>(first), static_cast<size_t>(last - first), advice);
    return last - at;
#else
    (void)memory;
    (void)begin;
    return end;
#endif
}

}  // namespace replaybank
