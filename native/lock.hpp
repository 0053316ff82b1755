// The lock of a buffer: turns of many calls, and promises that are kept first.
//
// CPython's own lock goes to whoever waits at the very release, while the one who released it still holds the GIL: two
// threads in tight loops then change over at each call, which costs more than the calls (a convoy). Here who finds the
// lock taken, and not for the first time in a short while, stays away first, without the GIL, and only then waits in line.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <chrono>
#include <new>
#include <thread>

namespace replaybank {

namespace nb = nanobind;

class Lock {
   public:
    Lock() : lock_(PyThread_allocate_lock()) {
        if (!lock_) throw std::bad_alloc();
    }
    Lock(const Lock&) = delete;
    ~Lock() { PyThread_free_lock(lock_); }

    // Raises RuntimeError where this thread holds it already: it would wait for itself for ever.
    void enter() {
        const unsigned long me = PyThread_get_thread_ident();
        if (!PyThread_acquire_lock(lock_, NOWAIT_LOCK)) {
            if (owner_.load(std::memory_order_relaxed) == me) {
                PyErr_SetString(PyExc_RuntimeError, "a buffer was used from inside one of its own calls");
                throw nb::python_error();
            }
            wait();
        }
        owner_.store(me, std::memory_order_relaxed);
        if (owed_.size() != 0) keep_promises();
    }

    void exit() {
        owner_.store(0, std::memory_order_relaxed);
        PyThread_release_lock(lock_);
    }

    // Calls without arguments that whoever enters next makes first, in order. Only who holds the lock may change it.
    const nb::list& owed() const { return owed_; }

    bool mine() const { return owner_.load(std::memory_order_relaxed) == PyThread_get_thread_ident(); }

   private:
    using Clock = std::chrono::steady_clock;
    static constexpr std::chrono::microseconds TURN{200};  // of the others; to change over costs some 10

    void wait() {
        const Clock::rep now = Clock::now().time_since_epoch().count();
        const bool again = Clock::duration(now - missed_.exchange(now)) < 2 * TURN;
        PyLockStatus status;
        {
            nb::gil_scoped_release released;
            if (again) std::this_thread::sleep_for(TURN);
            status = PyThread_acquire_lock_timed(lock_, -1, 1);
        }
        while (status == PY_LOCK_INTR) {
            if (PyErr_CheckSignals() != 0) throw nb::python_error();
            nb::gil_scoped_release released;
            status = PyThread_acquire_lock_timed(lock_, -1, 1);
        }
    }

    void keep_promises() {
        try {
            while (owed_.size() != 0) {
                nb::object call = owed_[0];
                owed_.attr("pop")(0);
                call();
            }
        } catch (...) {
            exit();
            throw;
        }
    }

    PyThread_type_lock lock_;
    std::atomic<unsigned long> owner_{0};
    std::atomic<Clock::rep> missed_{0};  // when somebody last found it taken
    nb::list owed_;
};

}  // namespace replaybank
