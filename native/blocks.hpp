// Memory for batches that serves again: a block that nobody holds any more waits here for the next batch of its size.
//
// A fresh block of megabytes costs more in page faults than in copying (docs/architecture.md). The arrays that lie in a
// block hold it, whoever owns them (NumPy, PyTorch, JAX); it comes back when the last of them goes.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <new>

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
        return ::operator new(nbytes, std::align_val_t{LINE});
    }

    static void give_back(void* memory, size_t nbytes) {
        nbytes = whole(nbytes);
        Blocks& kept = instance();
        const std::lock_guard lock(kept.mutex_);
        kept.blocks_.push_back({memory, nbytes});
        kept.nbytes_ += nbytes;
        while (kept.blocks_.size() > MOST_BLOCKS || kept.nbytes_ > MOST_NBYTES) {
            ::operator delete(kept.blocks_.front().memory, std::align_val_t{LINE});
            kept.nbytes_ -= kept.blocks_.front().nbytes;
            kept.blocks_.pop_front();
        }
    }

   private:
    struct Block {
        void* memory;
        size_t nbytes;
    };
    static constexpr size_t LINE = 64, MOST_BLOCKS = 16, MOST_NBYTES = size_t{256} << 20;

    static size_t whole(size_t nbytes) { return (nbytes / LINE + 1) * LINE; }

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
