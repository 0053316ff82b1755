// Memory for batches that serves again: a block that nobody holds any more waits here for the next batch of its size.
//
// A fresh block of megabytes costs more in page faults than in copying, and one in small pages a third more than one in
// huge pages (docs/architecture.md). The arrays that lie in a block hold it, whoever owns them (NumPy, PyTorch, JAX); it
// comes back when the last of them goes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <iterator>
#include <mutex>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace replaybank {

class Blocks {
   public:
    // At the start of a cache line; contents undefined.
    static void* take(size_t nbytes) {
        nbytes = whole(nbytes);
        {
            Blocks& kept = instance();
            const std::lock_guard lock(kept.mutex_);
            for (auto block = kept.blocks_.rbegin(); block != kept.blocks_.rend(); ++block) {
                if (block->nbytes != nbytes) continue;
                void* memory = block->memory;
                kept.nbytes_ -= nbytes;
                kept.blocks_.erase(std::next(block).base());
                return memory;
            }
        }
        void* memory = ::operator new(nbytes, alignment(nbytes));
#ifdef __linux__
        if (nbytes >= HUGE_PAGE) madvise(memory, nbytes, MADV_HUGEPAGE);  // a wish: where it is refused, nothing is lost
#endif
        return memory;
    }

    static void give_back(void* memory, size_t nbytes) {
        nbytes = whole(nbytes);
        Blocks& kept = instance();
        const std::lock_guard lock(kept.mutex_);
        kept.blocks_.push_back({memory, nbytes});
        kept.nbytes_ += nbytes;
        while (kept.blocks_.size() > MOST_BLOCKS || kept.nbytes_ > MOST_NBYTES) {
            const Block oldest = kept.blocks_.front();
            kept.blocks_.pop_front();
            kept.nbytes_ -= oldest.nbytes;
            ::operator delete(oldest.memory, alignment(oldest.nbytes));
        }
    }

   private:
    struct Block {
        void* memory;
        size_t nbytes;
    };
    static constexpr size_t LINE = 64, HUGE_PAGE = size_t{2} << 20;
    static constexpr size_t MOST_BLOCKS = 16, MOST_NBYTES = size_t{256} << 20;  // that wait

    // What a block of `nbytes` takes: whole lines; from half a huge page on, whole huge pages.
    static size_t whole(size_t nbytes) {
        const size_t unit = nbytes > HUGE_PAGE / 2 ? HUGE_PAGE : LINE;
        return std::max((nbytes + unit - 1) / unit, size_t{1}) * unit;
    }

    static std::align_val_t alignment(size_t nbytes) { return std::align_val_t{nbytes >= HUGE_PAGE ? HUGE_PAGE : LINE}; }

    // Never destroyed: arrays may outlive every static object.
    static Blocks& instance() {
        static auto* blocks = new Blocks;
        return *blocks;
    }

    std::mutex mutex_;
    std::deque<Block> blocks_;  // oldest first
    size_t nbytes_ = 0;
};

}  // namespace replaybank
