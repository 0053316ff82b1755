// `lock_holder`: which process holds a record lock on a file. The lock goes with its process, so whoever holds it lives.
#pragma once

#ifndef _WIN32
#include <fcntl.h>

#include <cstdint>

#include "arrays.hpp"

namespace replaybank {

// The process that holds a lock on the first byte of the file, 0 where none does but perhaps this one.
inline int64_t py_lock_holder(int fd) {
    struct flock lock{};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_len = 1;
    if (fcntl(fd, F_GETLK, &lock) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        throw nb::python_error();
    }
    return lock.l_type == F_UNLCK ? 0 : lock.l_pid;
}

}  // namespace replaybank
#endif
