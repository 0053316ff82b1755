// From how much work on a kernel releases the GIL, and a batch is split over threads.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

namespace replaybank {

// Below this many bytes, handing the GIL over costs more than the work.
constexpr int64_t WORTH_RELEASING = 1 << 14;

// Below this many bytes of a batch, waking other threads up costs more than they do.
constexpr int64_t WORTH_SPLITTING = int64_t{2} << 20;

inline int64_t threads_for(int64_t nbytes, int64_t threads) { return nbytes >= WORTH_SPLITTING ? threads : 1; }

// While it lives, the GIL is released, if that is worth it.
class MaybeReleased {
   public:
    explicit MaybeReleased(int64_t nbytes) : thread_(nbytes >= WORTH_RELEASING ? PyEval_SaveThread() : nullptr) {}
    MaybeReleased(const MaybeReleased&) = delete;
    ~MaybeReleased() {
        if (thread_) PyEval_RestoreThread(thread_);
    }

   private:
    PyThreadState* thread_;
};

}  // namespace replaybank
