// Threads that wait for large copies: work that is split among them and the caller.
//
// Starting threads for each batch costs more than it gains (docs/architecture.md); these start once, at the first large
// batch, and sleep in between.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>

#ifndef _WIN32
#include <unistd.h>
#endif

namespace replaybank {

class Workers {
   public:
    // Calls part(begin, end) so that each of 0 … n - 1 is in one range, in up to `threads` threads at a time. Where
    // another batch is at it, this one is done by its caller alone.
    template <class Part>
    static void split(int64_t n, int64_t threads, const Part& part) {
        threads = std::min({threads, n, MOST_THREADS});
        if (threads < 2) return part(0, n);
        Workers& workers = instance();
        const std::unique_lock turn(workers.turn_, std::try_to_lock);
        if (!turn) return part(0, n);
        const int64_t pieces = std::min(n, threads * PIECES);  // several each: who is late takes fewer
        workers.run(threads, pieces, [&](int64_t i) { part(n * i / pieces, n * (i + 1) / pieces); });
    }

   private:
    static constexpr int64_t MOST_THREADS = 64, PIECES = 4;

    // Of this process, for ever: a fork leaves the threads behind, and at the exit they are asleep.
    // No lock guards it: a fork might leave that locked.
    static Workers& instance() {
        static std::atomic<Workers*> known{nullptr};
        Workers* workers = known.load();
        while (!workers || workers->process_ != process_id()) {
            auto* made = new Workers(process_id());
            if (known.compare_exchange_strong(workers, made)) return *made;
            delete made;  // another thread was quicker
        }
        return *workers;
    }

    static int64_t process_id() {
#ifdef _WIN32
        return 0;
#else
        return getpid();
#endif
    }

    explicit Workers(int64_t process) : process_(process) {}

    void run(int64_t threads, int64_t pieces, const std::function<void(int64_t)>& piece) {
        try {
            for (; started_ < threads - 1; ++started_) std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {  // the system gives no more: then with those there are
        }
        std::unique_lock lock(mutex_);
        piece_ = &piece;
        pieces_ = pieces;
        next_ = done_ = 0;
        helpers_ = threads - 1;
        called_.notify_all();
        take(lock);
        finished_.wait(lock, [&] { return done_ == pieces_; });
    }

    void take(std::unique_lock<std::mutex>& lock) {
        while (next_ < pieces_) {
            const int64_t mine = next_++;
            const auto* piece = piece_;
            lock.unlock();
            (*piece)(mine);
            lock.lock();
            if (++done_ == pieces_) finished_.notify_one();
        }
    }

    void serve() {
        for (std::unique_lock lock(mutex_);;) {
            called_.wait(lock, [&] { return next_ < pieces_ && helpers_ > 0; });
            --helpers_;
            take(lock);
        }
    }

    const int64_t process_;
    std::mutex turn_, mutex_;
    std::condition_variable called_, finished_;
    const std::function<void(int64_t)>* piece_ = nullptr;
    int64_t pieces_ = 0, next_ = 0, done_ = 0, helpers_ = 0, started_ = 0;
};

}  // namespace replaybank
