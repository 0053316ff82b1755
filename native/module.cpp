// The door between Python and the kernels: unpacks NumPy arrays, releases the GIL, calls. No algorithm lives here.
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <nanobind/nanobind.h>
#include <numpy/arrayobject.h>
#include <numpy/arrayscalars.h>

#ifndef _WIN32
#include <fcntl.h>
#endif

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "append.hpp"
#include "blocks.hpp"
#include "channel.hpp"
#include "compact.hpp"
#include "deck.hpp"
#include "drop.hpp"
#include "lock.hpp"
#include "order.hpp"
#include "relink.hpp"
#include "rows.hpp"
#include "sequences.hpp"
#include "stacks.hpp"
#include "tree_lanes.hpp"
#include "usage.hpp"
#include "workers.hpp"

namespace nb = nanobind;
using namespace replaybank;

namespace {

// Below this many bytes, handing the GIL over costs more than the work.
constexpr int64_t WORTH_RELEASING = 1 << 14;

// Below this many bytes of a batch, waking other threads up costs more than they do.
constexpr int64_t WORTH_SPLITTING = int64_t{2} << 20;

int64_t threads_for(int64_t nbytes, int64_t threads) { return nbytes >= WORTH_SPLITTING ? threads : 1; }

class MaybeReleased {
   public:
    explicit MaybeReleased(int64_t nbytes) {
        if (nbytes >= WORTH_RELEASING) released_.emplace();
    }

   private:
    std::optional<nb::gil_scoped_release> released_;
};

PyArrayObject* as_array(nb::handle object, int type) {
    if (!PyArray_Check(object.ptr())) throw nb::type_error("expected a NumPy array");
    auto* array = reinterpret_cast<PyArrayObject*>(object.ptr());
    if (!PyArray_IS_C_CONTIGUOUS(array) || !PyArray_ISALIGNED(array) || (type != NPY_VOID && PyArray_TYPE(array) != type)) {
        throw nb::type_error("expected a contiguous and aligned array of the kernel's dtype");
    }
    return array;
}

int64_t* int64s(nb::handle object) { return static_cast<int64_t*>(PyArray_DATA(as_array(object, NPY_INT64))); }
double* float64s(nb::handle object) { return static_cast<double*>(PyArray_DATA(as_array(object, NPY_FLOAT64))); }
char* bytes(nb::handle object) { return PyArray_BYTES(as_array(object, NPY_VOID)); }
int64_t size_of(nb::handle object) { return PyArray_SIZE(reinterpret_cast<PyArrayObject*>(object.ptr())); }

uint32_t* uint32s(nb::handle object) { return static_cast<uint32_t*>(PyArray_DATA(as_array(object, NPY_UINT32))); }

// (rows, tails, older, free_tails, free_older, onward, newest, cursor, geometry), as rows.py makes it.
constexpr size_t NEWEST = 6;

Store as_store(const nb::tuple& t) {
    const int64_t* g = int64s(t[8]);
    int64_t* cursor = int64s(t[7]);
    return Store{bytes(t[0]), bytes(t[1]), bytes(t[2]), uint32s(t[5]), int64s(t[NEWEST]), cursor,
                 Pool{uint32s(t[3]), cursor + 2, cursor + 3}, Pool{uint32s(t[4]), cursor + 4, cursor + 5},
                 g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9], g[10], g[11], g[12]};
}

// (nodes, levels)
Tree as_tree(const nb::tuple& t) {
    return Tree{float64s(t[0]), int64s(t[1]), size_of(t[1]) - 1};
}

[[noreturn]] void not_live(int64_t id, const Ring& ring) {
    PyErr_Format(PyExc_IndexError, "transition %lld is not in the buffer, which holds ids %lld to %lld",
                 static_cast<long long>(id), static_cast<long long>(ring.oldest()),
                 static_cast<long long>(ring.added() - 1));
    throw nb::python_error();
}

void require_live(const Ring& ring, const int64_t* ids, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        if (!ring.live(ids[i])) not_live(ids[i], ring);
    }
}

// Whether `nbytes` from `at` on lie inside a record, so that no plan made for other rows leads out of it.
void require_inside(int64_t at, int64_t nbytes, int64_t record) {
    if (at < 0 || nbytes < 0 || at + nbytes > record) throw nb::value_error("the plan was made for other rows");
}

// ---- append -----------------------------------------------------------------------------------------------------

// One row of the plan that schema.py makes for `append`.
struct Leaf {
    int64_t place, at, nbytes, type, finite, frames, is_obs, ndim;  // nbytes: of an item, all frames of it
    const int64_t* dims;
};

constexpr int64_t LEAF_HEAD = 8;

bool narrow(const double* from, int64_t n, float* to) {
    for (int64_t i = 0; i < n; ++i) {
        to[i] = static_cast<float>(from[i]);
        if (std::isinf(to[i]) && !std::isinf(from[i])) return false;
    }
    return true;
}

template <class T>
bool all_finite(const char* values, int64_t n) {
    const T* x = reinterpret_cast<const T*>(values);
    bool finite = true;
    for (int64_t i = 0; i < n; ++i) finite &= std::isfinite(x[i]) != 0;
    return finite;
}

// The values of one leaf as bytes of the field's dtype, or nullptr where only the slow way can tell what they are.
// `room` points to scratch of items * nbytes for values that need converting.
const char* values_of(PyObject* value, const Leaf& leaf, int64_t lead, char* room) {
    const int64_t items = lead < 0 ? 1 : lead;
    if (PyArray_CheckExact(value)) {
        auto* array = reinterpret_cast<PyArrayObject*>(value);
        const int offset = lead < 0 ? 0 : 1;
        if (PyArray_NDIM(array) != leaf.ndim + offset || !PyArray_ISCARRAY_RO(array)) return nullptr;
        if (offset && PyArray_DIM(array, 0) != lead) return nullptr;
        for (int64_t d = 0; d < leaf.ndim; ++d) {
            if (PyArray_DIM(array, static_cast<int>(d) + offset) != leaf.dims[d]) return nullptr;
        }
        if (PyArray_TYPE(array) == leaf.type) return PyArray_BYTES(array);
        if (PyArray_TYPE(array) != NPY_FLOAT64 || leaf.type != NPY_FLOAT32) return nullptr;
        const int64_t count = items * leaf.nbytes / static_cast<int64_t>(sizeof(float));
        return narrow(reinterpret_cast<double*>(PyArray_DATA(array)), count, reinterpret_cast<float*>(room)) ? room
                                                                                                             : nullptr;
    }
    if (leaf.ndim > 0 || lead >= 0) return nullptr;
    if (PyFloat_Check(value)) {
        const double x = PyFloat_AsDouble(value);
        if (leaf.type == NPY_FLOAT64) {
            std::memcpy(room, &x, sizeof x);
            return room;
        }
        return leaf.type == NPY_FLOAT32 && narrow(&x, 1, reinterpret_cast<float*>(room)) ? room : nullptr;
    }
    if (PyBool_Check(value)) {
        *room = value == Py_True;
        return leaf.type == NPY_BOOL ? room : nullptr;
    }
    if (PyLong_Check(value)) {
        int overflow = 0;
        const int64_t x = PyLong_AsLongLongAndOverflow(value, &overflow);
        std::memcpy(room, &x, leaf.type == NPY_INT64 ? sizeof x : 0);
        return overflow || leaf.type != NPY_INT64 ? nullptr : room;
    }
    if (PyArray_CheckScalar(value)) {
        PyArray_Descr* descr = PyArray_DescrFromScalar(value);
        const bool same = descr->type_num == leaf.type;
        Py_DECREF(reinterpret_cast<PyObject*>(descr));
        if (!same) return nullptr;
        PyArray_ScalarAsCtype(value, room);
        return room;
    }
    return nullptr;
}

// A plan for `append`, with the values of each leaf as columns; scratch and columns are the thread's own.
class Given {
   public:
    // False where some value is not plainly of its field's dtype and shape.
    bool look(nb::handle plan, const nb::tuple& values, int64_t lead) {
        auto* plan_array = as_array(plan, NPY_INT64);
        const auto* rows = static_cast<const int64_t*>(PyArray_DATA(plan_array));
        const int64_t n_leaves = PyArray_DIM(plan_array, 0), width = PyArray_DIM(plan_array, 1);
        const int64_t items = lead < 0 ? 1 : lead;
        if (static_cast<int64_t>(values.size()) != n_leaves) throw nb::value_error("one value a leaf of the plan");

        int64_t scratch = 0;
        for (int64_t c = 0; c < n_leaves; ++c) scratch += (rows[c * width + 2] * items + 15) / 16 * 16;
        thread_local std::vector<char> room;
        thread_local std::vector<Column> columns;
        if (static_cast<int64_t>(room.size()) < scratch + 16) room.resize(static_cast<size_t>(scratch) + 16);
        columns.clear();

        char* at = room.data();
        for (int64_t c = 0; c < n_leaves; ++c) {
            const int64_t* r = rows + c * width;
            const Leaf leaf{r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r + LEAF_HEAD};
            const char* found = values_of(values[c].ptr(), leaf, lead, at);
            if (!found) return false;
            if (leaf.finite) {
                const bool finite = leaf.type == NPY_FLOAT32   ? all_finite<float>(found, items * leaf.nbytes / 4)
                                    : leaf.type == NPY_FLOAT64 ? all_finite<double>(found, items * leaf.nbytes / 8)
                                                               : true;
                if (!finite) return false;
            }
            columns.push_back(Column{static_cast<Place>(leaf.place), leaf.at, leaf.nbytes / leaf.frames, leaf.frames,
                                     leaf.is_obs != 0, found});
            at += (leaf.nbytes * items + 15) / 16 * 16;
            nbytes += leaf.nbytes * items;
        }
        all = Columns{columns.data(), n_leaves};
        return true;
    }

    Columns all{nullptr, 0};
    int64_t nbytes = 0;
};

void require_streams(const int64_t* owners, int64_t n, int64_t streams) {
    for (int64_t t = 0; owners && t < n; ++t) {
        if (owners[t] < 0 || owners[t] >= streams) throw nb::value_error("a stream is beyond the last");
    }
}

// The first id of the appended transitions, or -1 where some value is not plainly of its field's dtype and shape:
// then nothing has changed, and Python converts or complains.
int64_t py_append(const nb::tuple& store_arrays, nb::handle plan, const nb::tuple& values, int64_t lead,
                  nb::handle owners, bool item_a_stream) {
    const Store store = as_store(store_arrays);
    Given given;
    if (!given.look(plan, values, lead)) return -1;
    const int64_t items = lead < 0 ? 1 : lead;
    const int64_t first = store.added();
    const int64_t streams = size_of(store_arrays[NEWEST]);
    const int64_t* owner = owners.is_none() ? nullptr : int64s(owners);
    const int64_t n = owner ? size_of(owners) : items;
    if (n != items && !item_a_stream) throw nb::value_error("one stream a transition");
    if (item_a_stream && items != streams) throw nb::value_error("one item a stream");
    require_streams(owner, n, streams);
    MaybeReleased released(given.nbytes);
    append(store, given.all, n, owner, item_a_stream, streams);
    return first;
}

// ---- channel ----------------------------------------------------------------------------------------------------

// (file, where its messages begin, memory), as shared/ring.py makes it.
struct Shared {
    Channel channel;
    Memory memory;
};

Shared as_channel(const nb::tuple& t) {
    auto* file = as_array(t[0], NPY_UINT8);
    const auto begin = nb::cast<int64_t>(t[1]), capacity = PyArray_SIZE(file) - begin;
    int64_t* m = int64s(t[2]);
    if (size_of(t[2]) != 4 || begin < static_cast<int64_t>(sizeof(Control)) || capacity < LINE || capacity % LINE ||
        begin % LINE || reinterpret_cast<uintptr_t>(PyArray_BYTES(file)) % LINE) {
        throw nb::value_error("this is not the memory of a channel");
    }
    return Shared{Channel{reinterpret_cast<Control*>(PyArray_BYTES(file)), PyArray_BYTES(file) + begin, capacity},
                  Memory{m[0], m[1], m[2], m[3]}};
}

// owners [n]: each transition's stream (with `item_a_stream`, the items that are meant), or None: all are of `stream`.
int64_t py_channel_push(const nb::tuple& shared, nb::handle plan, const nb::tuple& values, int64_t lead,
                        nb::handle owners, int32_t stream, bool item_a_stream, bool drop) {
    const Shared to = as_channel(shared);
    Given given;
    if (!given.look(plan, values, lead)) return static_cast<int64_t>(Pushed::NOT_PLAIN);
    const int64_t items = lead < 0 ? 1 : lead;
    const int64_t* owner = owners.is_none() ? nullptr : int64s(owners);
    const int64_t n = owner ? size_of(owners) : items;
    if (n != items && !item_a_stream) throw nb::value_error("one stream a transition");
    if ((owner != nullptr) != (stream == -1) || (item_a_stream && !owner)) throw nb::value_error("owners, or a stream");
    if (item_a_stream) require_streams(owner, n, items);
    return static_cast<int64_t>(
        push_transitions(to.channel, to.memory, given.all, n, stream, owner, item_a_stream, drop));
}

int64_t py_channel_end(const nb::tuple& shared, nb::handle streams, bool drop) {
    const Shared to = as_channel(shared);
    return static_cast<int64_t>(push_end(to.channel, to.memory, int64s(streams), size_of(streams), drop));
}

// streams [k]: what each of the writer's streams is called in the rows. How many transitions, -1 where there is damage.
int64_t py_channel_drain(const nb::tuple& store_arrays, nb::handle plan, const nb::tuple& shared, nb::handle streams,
                         int64_t most) {
    const Store store = as_store(store_arrays);
    const Shared from = as_channel(shared);
    auto* plan_array = as_array(plan, NPY_INT64);
    const auto* rows = static_cast<const int64_t*>(PyArray_DATA(plan_array));
    const int64_t n_leaves = PyArray_DIM(plan_array, 0), width = PyArray_DIM(plan_array, 1), k = size_of(streams);
    std::vector<Slice> parts;
    for (int64_t c = 0; c < n_leaves; ++c) {
        const int64_t* r = rows + c * width;
        const Leaf leaf{r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r + LEAF_HEAD};
        parts.push_back(Slice{Column{static_cast<Place>(leaf.place), leaf.at, leaf.nbytes / leaf.frames, leaf.frames,
                                    leaf.is_obs != 0, nullptr},
                             leaf.finite && leaf.type == NPY_FLOAT32, leaf.finite && leaf.type == NPY_FLOAT64});
    }
    require_streams(int64s(streams), k, size_of(store_arrays[NEWEST]));
    const uint64_t waiting = from.channel.control->head.load() - from.channel.control->tail.load();
    MaybeReleased released(static_cast<int64_t>(std::min<uint64_t>(waiting, WORTH_RELEASING)));
    return Drain(store, from.channel, parts, int64s(streams), k, from.memory).run(most);
}

#ifndef _WIN32
// The process that holds a record lock on the first byte of the file, 0 where none does but perhaps this one.
int64_t py_lock_holder(int fd) {
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
#endif

// ---- blocks -----------------------------------------------------------------------------------------------------

void return_block(PyObject* capsule) {
    const auto nbytes = reinterpret_cast<size_t>(PyCapsule_GetContext(capsule));
    Blocks::give_back(PyCapsule_GetPointer(capsule, nullptr), nbytes);
}

// An array of shape () and this dtype at the start of a cache line, in memory that comes back to serve again.
nb::object py_block(nb::handle dtype) {
    if (!PyArray_DescrCheck(dtype.ptr())) throw nb::type_error("expected a NumPy dtype");
    auto* descr = reinterpret_cast<PyArray_Descr*>(dtype.ptr());
    const auto nbytes = static_cast<size_t>(PyDataType_ELSIZE(descr));
    void* memory = Blocks::take(nbytes);
    PyObject* owner = PyCapsule_New(memory, nullptr, &return_block);
    if (!owner) {
        Blocks::give_back(memory, nbytes);
        throw nb::python_error();
    }
    PyCapsule_SetContext(owner, reinterpret_cast<void*>(nbytes));
    dtype.inc_ref();  // the array takes one
    PyObject* array = PyArray_NewFromDescr(&PyArray_Type, descr, 0, nullptr, nullptr, memory, NPY_ARRAY_CARRAY, nullptr);
    if (!array || PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array), owner) < 0) {
        if (!array) Py_DECREF(owner);
        Py_XDECREF(array);
        throw nb::python_error();
    }
    return nb::steal(array);
}

// By name the columns of such a block, windows on it, for those of `places` (name: column) that say a column's name.
nb::dict py_columns(nb::handle block, const nb::dict& places) {
    if (!PyArray_CheckExact(block.ptr())) throw nb::type_error("expected a NumPy array");
    auto* array = reinterpret_cast<PyArrayObject*>(block.ptr());
    PyArray_Descr* descr = PyArray_DESCR(array);
    if (PyArray_NDIM(array) != 0 || !PyDataType_HASFIELDS(descr)) throw nb::type_error("expected columns of shape ()");
    const int flags = NPY_ARRAY_ALIGNED | (PyArray_FLAGS(array) & NPY_ARRAY_WRITEABLE);
    nb::dict found;
    for (const auto [name, place] : places) {
        if (!PyUnicode_Check(place.ptr())) continue;
        PyObject* field = PyDict_GetItemWithError(PyDataType_FIELDS(descr), place.ptr());  // (dtype, offset)
        if (!field) throw nb::key_error("the block has no such column");
        auto* type = reinterpret_cast<PyArray_Descr*>(PyTuple_GET_ITEM(field, 0));
        char* at = PyArray_BYTES(array) + PyLong_AsSsize_t(PyTuple_GET_ITEM(field, 1));
        Py_INCREF(type);  // the array takes one
        const nb::object column =
            nb::steal(PyArray_NewFromDescr(&PyArray_Type, type, 0, nullptr, nullptr, at, flags, nullptr));
        if (!column.is_valid()) throw nb::python_error();
        auto* window = reinterpret_cast<PyArrayObject*>(column.ptr());
        Py_INCREF(array);  // SetBaseObject takes one
        if (PyArray_SetBaseObject(window, block.ptr()) < 0) throw nb::python_error();
        if (PyDict_SetItem(found.ptr(), name.ptr(), column.ptr()) < 0) throw nb::python_error();
    }
    return found;
}

// ---- read and walk ----------------------------------------------------------------------------------------------

// plan: one row a copy: source, offset in it, bytes an item, offset of the column in `out`.
// factors: float32, one a window or one for all: what a copy of source DISCOUNT gives where the window did not terminate.
void py_read(const nb::tuple& store_arrays, nb::handle first, nb::handle last, nb::handle plan, nb::handle factors,
             nb::handle out, int64_t threads) {
    const Store store = as_store(store_arrays);
    const int64_t *first_ids = int64s(first), *last_ids = int64s(last), n = size_of(first);
    if (size_of(last) != n) throw nb::value_error("first and last differ in length");
    auto* plan_array = as_array(plan, NPY_INT64);
    const auto* rows = static_cast<const int64_t*>(PyArray_DATA(plan_array));
    const int64_t n_copies = PyArray_DIM(plan_array, 0);
    const auto* scale = static_cast<const float*>(PyArray_DATA(as_array(factors, NPY_FLOAT32)));
    const int64_t n_factors = size_of(factors);
    if (n_factors != 1 && n_factors != n) throw nb::value_error("one factor a window, or one for all");
    char* base = bytes(out);
    const int64_t room = PyArray_NBYTES(reinterpret_cast<PyArrayObject*>(out.ptr()));
    constexpr int64_t FEW = 32;
    Copy few[FEW];
    std::vector<Copy> many;
    Copy* copies = few;
    if (n_copies > FEW) {
        many.resize(static_cast<size_t>(n_copies));
        copies = many.data();
    }
    for (int64_t c = 0; c < n_copies; ++c) {
        const int64_t* r = rows + 4 * c;
        if (r[3] + r[2] * n > room) throw nb::value_error("the output is too small for the plan");
        const auto source = static_cast<Source>(r[0]);
        require_inside(r[1], r[2], source == Source::NEXT_OBS ? store.obs_nbytes : store.row_nbytes);
        copies[c] = Copy{source, r[1], r[2], base + r[3]};
    }
    const Ring ring = store.ring();
    require_live(ring, first_ids, n);
    if (last_ids != first_ids) require_live(ring, last_ids, n);
    MaybeReleased released(n * store.row_nbytes);
    Workers::split(n, threads_for(room, threads), [&](int64_t begin, int64_t end) {
        Reader(store, first_ids, last_ids, scale, n_factors).read(copies, n_copies, begin, end);
    });
}

// False where some next_obs does not begin with what its obs ends with though the plan says so: another plan is needed.
// plan: one row a copy: source, offset in a frame's record, bytes of a frame, offset of the column in `out`.
bool py_read_stacks(const nb::tuple& store_arrays, nb::handle first, nb::handle last, int64_t frames, bool zero,
                    nb::handle plan, nb::handle out, int64_t threads) {
    const Store store = as_store(store_arrays);
    const int64_t *first_ids = int64s(first), *last_ids = int64s(last), n = size_of(first);
    if (size_of(last) != n) throw nb::value_error("first and last differ in length");
    if (frames < 1 || (store.older_at >= 0 && frames != store.frames)) throw nb::value_error("rows keep other stacks");
    auto* plan_array = as_array(plan, NPY_INT64);
    const auto* rows = static_cast<const int64_t*>(PyArray_DATA(plan_array));
    const int64_t n_copies = PyArray_DIM(plan_array, 0);
    char* base = bytes(out);
    const int64_t room = PyArray_NBYTES(reinterpret_cast<PyArrayObject*>(out.ptr()));
    std::vector<StackCopy> copies;
    for (int64_t c = 0; c < n_copies; ++c) {
        const int64_t* r = rows + 4 * c;
        const auto source = static_cast<Stack>(r[0]);
        const int64_t width = frames + (source == Stack::BOTH);
        if (r[3] + r[2] * width * n > room) throw nb::value_error("the output is too small for the plan");
        require_inside(r[1], r[2], store.obs_nbytes);
        if (source == Stack::BOTH && last_ids != first_ids) throw nb::value_error("windows of more than one step");
        copies.push_back(StackCopy{source, r[1], r[2], base + r[3]});
    }
    const Ring ring = store.ring();
    require_live(ring, first_ids, n);
    if (last_ids != first_ids) require_live(ring, last_ids, n);
    StacksRead outcome;
    {
        MaybeReleased released(n * store.row_nbytes);
        outcome = read_stacks(store, Stacking{frames, zero}, first_ids, last_ids, n, copies.data(), n_copies,
                              threads_for(room, threads));
    }
    if (outcome == StacksRead::INCOMPLETE) throw nb::index_error("frames of a stack have left the buffer");
    return outcome == StacksRead::DONE;
}

// Whether all frames of the stack of each id are still here: bool [n].
void py_stacks_complete(const nb::tuple& store_arrays, nb::handle ids, int64_t frames, nb::handle complete) {
    const Store store = as_store(store_arrays);
    const int64_t *from = int64s(ids), n = size_of(ids);
    auto* found = static_cast<bool*>(PyArray_DATA(as_array(complete, NPY_BOOL)));
    if (size_of(complete) != n || frames < 1) throw nb::value_error("one answer an id");
    const Ring ring = store.ring();
    require_live(ring, from, n);
    thread_local std::vector<const char*> stacks;
    stacks.resize(static_cast<size_t>(n * frames));
    MaybeReleased released(n * frames * 64);
    stacks_of(store, ring, Stacking{frames, false}, from, n, stacks.data(), frames, found);
}

// -1, or the id of a row whose links contradict.
int64_t py_relink(const nb::tuple& store_arrays) {
    const Store store = as_store(store_arrays);
    const int64_t rows = PyArray_SIZE(reinterpret_cast<PyArrayObject*>(store_arrays[0].ptr()));
    const int64_t tails = PyArray_SIZE(reinterpret_cast<PyArrayObject*>(store_arrays[1].ptr()));
    const int64_t older = store.frames > 1 ? size_of(store_arrays[2]) / (store.frames - 1) : 0;
    const int64_t added = store.added(), start = store.start();
    const int64_t used = *store.free_tails.used, used_older = *store.free_older.used;
    if (rows != store.capacity || start < 0 || start > added || used < 0 || used > tails || used_older < 0 ||
        used_older > older) {
        throw nb::value_error("cursors lead out of the store");
    }
    MaybeReleased released((added - store.oldest()) * store.row_nbytes);
    return relink(store, size_of(store_arrays[NEWEST]));
}

void py_walk(const nb::tuple& store_arrays, nb::handle ids, int64_t steps, bool forward, nb::handle path,
             nb::handle lengths) {
    const Store store = as_store(store_arrays);
    const int64_t *from = int64s(ids), n = size_of(ids);
    int64_t *to = int64s(path), *counts = int64s(lengths);
    if (steps < 0 || size_of(path) != n * (steps + 1) || size_of(lengths) != n) {
        throw nb::value_error("path must be [n, steps + 1] and lengths [n]");
    }
    require_live(store.ring(), from, n);
    MaybeReleased released(n * (steps + 1) * 64);
    walk(store, from, n, steps, forward, to, counts);
}

void py_follow(const nb::tuple& store_arrays, nb::handle ids, nb::handle steps, bool forward, nb::handle to,
               nb::handle taken) {
    const Store store = as_store(store_arrays);
    const int64_t *from = int64s(ids), *most = int64s(steps), n = size_of(ids);
    int64_t *out = int64s(to), *counts = int64s(taken);
    if (size_of(steps) != n || size_of(to) != n || size_of(taken) != n) {
        throw nb::value_error("ids, steps, to and taken differ in length");
    }
    require_live(store.ring(), from, n);
    MaybeReleased released(n * 64 * 64);
    follow(store, from, n, most, forward, out, counts);
}

// plan: one row a column: part, offset in the record, bytes of one step, offset of the column in `out`.
void py_sequences(const nb::tuple& store_arrays, nb::handle starts, int64_t length, int64_t burn_in, bool across,
                  float gamma, nb::handle plan, nb::handle out, int64_t threads) {
    const Store store = as_store(store_arrays);
    const int64_t *ids = int64s(starts), n = size_of(starts);
    auto* plan_array = as_array(plan, NPY_INT64);
    const auto* rows = static_cast<const int64_t*>(PyArray_DATA(plan_array));
    const int64_t n_columns = PyArray_DIM(plan_array, 0);
    char* base = bytes(out);
    const int64_t room = PyArray_NBYTES(reinterpret_cast<PyArrayObject*>(out.ptr()));
    if (length < 1) throw nb::value_error("a sequence has at least one step");
    std::vector<Track> tracks(static_cast<size_t>(n_columns));
    for (int64_t c = 0; c < n_columns; ++c) {
        const int64_t* r = rows + 4 * c;
        const Track track{static_cast<Part>(r[0]), r[1], r[2], base + r[3]};
        if (r[3] + r[2] * n * items_of(track.part, length) > room) {
            throw nb::value_error("the output is too small for the plan");
        }
        const bool is_obs = track.part == Part::CHAIN || track.part == Part::AHEAD;
        require_inside(r[1], r[2], is_obs ? store.obs_nbytes : store.row_nbytes);
        tracks[static_cast<size_t>(c)] = track;
    }
    require_live(store.ring(), ids, n);
    MaybeReleased released(n * length * store.row_nbytes);
    Workers::split(n, threads_for(room, threads), [&](int64_t begin, int64_t end) {
        SequenceReader(store, ids, length, burn_in, across, gamma).read(tracks.data(), n_columns, begin, end);
    });
}

// dtype: the NumPy type number of the field, a float; totals [n, size] for a field of `size` numbers.
void py_returns(const nb::tuple& store_arrays, nb::handle path, nb::handle lengths, double gamma, int64_t at, int dtype,
                nb::handle totals) {
    const Store store = as_store(store_arrays);
    const int64_t *ids = int64s(path), *counts = int64s(lengths), n = size_of(lengths);
    double* out = float64s(totals);
    if (n == 0) return;
    const int64_t width = size_of(path) / n, size = size_of(totals) / n;
    if (size_of(path) != n * width || size_of(totals) != n * size) throw nb::value_error("path, lengths and totals differ");
    require_inside(at, size * (dtype == NPY_FLOAT32 ? 4 : 8), store.row_nbytes);
    require_live(store.ring(), ids, n * width);
    for (int64_t i = 0; i < n; ++i) {
        if (counts[i] < 0 || counts[i] > width) throw nb::value_error("a length is beyond its path");
    }
    MaybeReleased released(n * width * 64);
    if (dtype == NPY_FLOAT32) return returns<float>(store, ids, counts, n, width, gamma, at, size, out);
    if (dtype == NPY_FLOAT64) return returns<double>(store, ids, counts, n, width, gamma, at, size, out);
    throw nb::type_error("expected a field of float32 or float64");
}

// ---- drop -------------------------------------------------------------------------------------------------------

void py_drop(const nb::tuple& store_arrays, int64_t oldest) {
    const Store store = as_store(store_arrays);
    if (oldest < 0 || oldest > store.added()) throw nb::value_error("what was never given out cannot leave");
    MaybeReleased released((oldest - store.oldest()) * 64);
    drop(store, oldest);
}

void py_compact(const nb::tuple& store_arrays) {
    const Store store = as_store(store_arrays);
    MaybeReleased released((store.added() - store.oldest()) * 64);
    compact(store);
}

int64_t py_release(nb::handle array, int64_t begin, int64_t end) {
    char* memory = bytes(array);
    if (begin < 0 || begin > end || end > PyArray_NBYTES(reinterpret_cast<PyArrayObject*>(array.ptr()))) {
        throw nb::value_error("only bytes of the array can be given back");
    }
    MaybeReleased released(end - begin);
    return release(memory, begin, end);
}

// ---- trees ------------------------------------------------------------------------------------------------------

enum class Combine : int { SUM = 0, MAX = 1, MIN_POSITIVE = 2 };

template <class Call>
auto dispatch(int combine, Call&& call) {
    switch (static_cast<Combine>(combine)) {
        case Combine::SUM: return call(Sum{});
        case Combine::MAX: return call(Max{});
        default: return call(MinPositive{});
    }
}

thread_local std::vector<int64_t> touched_places;

int64_t py_tree_update(const nb::tuple& tree_arrays, int combine, int64_t capacity, int64_t oldest, int64_t added,
                       nb::handle ids, nb::handle values) {
    const Tree tree = as_tree(tree_arrays);
    const int64_t *places = int64s(ids), n = size_of(ids);
    const double* leaves = float64s(values);
    if (size_of(values) != n || capacity > tree.width(0) || capacity < 1 || oldest < 0) {
        throw nb::value_error("one value an id, and a leaf for each slot");
    }
    if (static_cast<int64_t>(touched_places.size()) < n) touched_places.resize(static_cast<size_t>(n));
    int64_t* touched = touched_places.data();
    const Ring ring(capacity, oldest, added);
    MaybeReleased released(n * 64);
    return dispatch(combine, [&](auto kind) {
        return tree_update<decltype(kind)>(tree, ring, places, leaves, n, touched);
    });
}

void py_tree_fill(const nb::tuple& tree_arrays, int combine, int64_t capacity, int64_t first_id, int64_t n,
                  double value) {
    const Tree tree = as_tree(tree_arrays);
    if (capacity < 1 || capacity > tree.width(0) || first_id < 0 || n < 0 || n > capacity) {
        throw nb::value_error("at most one value a slot");
    }
    const int64_t begin = first_id % capacity, end = std::min(begin + n, capacity);
    MaybeReleased released(n * 8);
    dispatch(combine, [&](auto kind) {
        tree_fill<decltype(kind)>(tree, begin, end, value);
        if (begin + n > end) tree_fill<decltype(kind)>(tree, 0, begin + n - end, value);
    });
}

void py_tree_build(const nb::tuple& tree_arrays, int combine) {
    const Tree tree = as_tree(tree_arrays);
    nb::gil_scoped_release released;
    dispatch(combine, [&](auto kind) { tree_build<decltype(kind)>(tree); });
}

// Stratified: target j lies in the j-th of n equal ranges of the total.
// lanes: how many walks share a register (LANES is the most this processor has).
void py_tree_find(const nb::tuple& tree_arrays, int64_t capacity, int64_t oldest, int64_t added, nb::handle uniforms,
                  nb::handle ids, nb::handle probabilities, int lanes) {
    const Tree tree = as_tree(tree_arrays);
    const TreeFind find = tree_find_with(lanes);
    if (!find) throw nb::value_error("this processor has no registers for so many lanes");
    if (reinterpret_cast<uintptr_t>(tree.nodes) % 64 != 0) throw nb::value_error("the tree's nodes must start a cache line");
    double* targets = float64s(uniforms);
    int64_t *found = int64s(ids), n = size_of(uniforms);
    double* shares = float64s(probabilities);
    if (size_of(ids) != n || size_of(probabilities) != n || capacity > tree.width(0) || capacity < 1 || oldest < 0) {
        throw nb::value_error("one id and one probability a uniform number, and a leaf for each slot");
    }
    const Ring ring(capacity, oldest, added);
    MaybeReleased released(n * 512);
    const double stride = tree.root() / static_cast<double>(n);
    for (int64_t j = 0; j < n; ++j) targets[j] = (static_cast<double>(j) + targets[j]) * stride;
    find(tree, targets, n, found, shares);
    const double total = tree.root();
    for (int64_t j = 0; j < n; ++j) {
        found[j] = ring.id(found[j]);
        shares[j] /= total;
    }
}

// ids = oldest + floor(uniforms * size): a uniform number in [0, 1) to one of `size` ids.
void py_spread(nb::handle uniforms, int64_t oldest, int64_t size, nb::handle ids) {
    const double* u = float64s(uniforms);
    int64_t* out = int64s(ids);
    const int64_t n = size_of(uniforms);
    if (size_of(ids) != n) throw nb::value_error("one id a uniform number");
    for (int64_t i = 0; i < n; ++i) out[i] = oldest + static_cast<int64_t>(u[i] * static_cast<double>(size));
}

// ---- order ------------------------------------------------------------------------------------------------------

// (leaves, branches, state, priorities by slot), as order.py makes it.
Order as_order(const nb::tuple& t) {
    const nb::handle leaves = t[0], branches = t[1];
    const Order order{reinterpret_cast<Order::Leaf*>(bytes(leaves)), reinterpret_cast<Order::Branch*>(bytes(branches)),
                      int64s(t[2]), size_of(leaves), size_of(branches)};
    if (PyArray_ITEMSIZE(reinterpret_cast<PyArrayObject*>(leaves.ptr())) != sizeof(Order::Leaf) ||
        PyArray_ITEMSIZE(reinterpret_cast<PyArrayObject*>(branches.ptr())) != sizeof(Order::Branch) ||
        size_of(t[2]) != Order::FIELDS) {
        throw nb::value_error("these are not the arrays of an order");
    }
    return order;
}

void require_finite(const double* values, int64_t n) {
    if (!std::all_of(values, values + n, [](double x) { return std::isfinite(x); })) {
        throw nb::value_error("priorities must be finite");
    }
}

// Gives the next ids, one for each of `values`, their priorities; those that sat in their slots leave.
void py_order_add(const nb::tuple& arrays, int64_t oldest, int64_t added, nb::handle values) {
    Order order = as_order(arrays);
    double* by_slot = float64s(arrays[3]);
    const double* priorities = float64s(values);
    const int64_t capacity = size_of(arrays[3]), n = size_of(values);
    if (oldest < 0 || order.size() != added - oldest || n > capacity) {
        throw nb::value_error("an entry a live id, and at most one new one a slot");
    }
    require_finite(priorities, n);
    MaybeReleased released(n * 512);
    order_add(order, by_slot, capacity, oldest, added, priorities, n);
}

void py_order_drop(const nb::tuple& arrays, int64_t oldest, int64_t added, int64_t n) {
    Order order = as_order(arrays);
    const double* by_slot = float64s(arrays[3]);
    if (oldest < 0 || order.size() != added - oldest || n < 0 || n > order.size()) {
        throw nb::value_error("an entry a live id, and no more than those can leave");
    }
    MaybeReleased released(n * 256);
    order_drop(order, by_slot, size_of(arrays[3]), oldest, n);
}

int64_t py_order_update(const nb::tuple& arrays, int64_t oldest, int64_t added, nb::handle ids, nb::handle values) {
    Order order = as_order(arrays);
    double* by_slot = float64s(arrays[3]);
    const int64_t *places = int64s(ids), n = size_of(ids);
    const double* priorities = float64s(values);
    if (size_of(values) != n || oldest < 0 || order.size() != added - oldest) {
        throw nb::value_error("one value an id, and an entry a live id");
    }
    require_finite(priorities, n);
    const Ring ring(size_of(arrays[3]), oldest, added);
    MaybeReleased released(n * 512);
    return order_update(order, by_slot, ring, places, priorities, n);
}

// The ids that have these ranks (0: the largest priority, and of equal ones the newest id).
void py_order_find(const nb::tuple& arrays, int64_t oldest, int64_t added, nb::handle ranks, nb::handle ids) {
    const Order order = as_order(arrays);
    const int64_t *wanted = int64s(ranks), n = size_of(ranks), size = order.size();
    int64_t* found = int64s(ids);
    if (size_of(ids) != n || size != added - oldest) throw nb::value_error("one id a rank, and an entry a live id");
    std::vector<int64_t> positions(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
        if (wanted[i] < 0 || wanted[i] >= size) throw nb::index_error("a rank that nobody has");
        positions[static_cast<size_t>(i)] = size - 1 - wanted[i];
    }
    MaybeReleased released(n * 512);
    order.at(positions.data(), n, found);
}

// The ranks of live ids.
void py_order_ranks(const nb::tuple& arrays, int64_t oldest, int64_t added, nb::handle ids, nb::handle ranks) {
    const Order order = as_order(arrays);
    const double* by_slot = float64s(arrays[3]);
    const int64_t *places = int64s(ids), n = size_of(ids), size = order.size();
    int64_t* out = int64s(ranks);
    if (size_of(ranks) != n || oldest < 0 || size != added - oldest) {
        throw nb::value_error("one rank an id, and an entry a live id");
    }
    const Ring ring(size_of(arrays[3]), oldest, added);
    require_live(ring, places, n);
    MaybeReleased released(n * 512);
    for (int64_t i = 0; i < n; ++i) {
        out[i] = size - 1 - order.position({by_slot[ring.slot(places[i])], places[i]});
    }
}

// ---- deck -------------------------------------------------------------------------------------------------------

// (cards, places, counts), as sample_once.py makes it.
Deck as_deck(const nb::tuple& t) {
    const nb::handle cards = t[0], places = t[1], counts = t[2];
    const int64_t capacity = size_of(cards);
    const Deck deck{static_cast<uint32_t*>(PyArray_DATA(as_array(cards, NPY_UINT32))),
                    static_cast<uint32_t*>(PyArray_DATA(as_array(places, NPY_UINT32))), int64s(counts), capacity};
    if (size_of(places) != capacity || size_of(counts) != 2) throw nb::value_error("these are not the arrays of a deck");
    return deck;
}

void py_deck_add(const nb::tuple& arrays, int64_t first_id, int64_t n) {
    Deck deck = as_deck(arrays);
    if (first_id < 0 || n < 0 || n > deck.capacity) throw nb::value_error("at most one id a slot");
    MaybeReleased released(n * 16);
    deck.add(first_id, n);
}

void py_deck_drop(const nb::tuple& arrays, int64_t first_id, int64_t n) {
    Deck deck = as_deck(arrays);
    if (first_id < 0 || n < 0 || n > deck.size()) throw nb::value_error("no more than there are can leave");
    MaybeReleased released(n * 16);
    deck.drop(first_id, n);
}

void py_deck_deal(const nb::tuple& arrays, int64_t kept, nb::handle uniforms, nb::handle slots) {
    Deck deck = as_deck(arrays);
    const double* u = float64s(uniforms);
    int64_t *out = int64s(slots), n = size_of(uniforms);
    if (size_of(slots) != n || kept < 0 || n > deck.waiting() - kept) throw nb::value_error("a waiting slot each");
    MaybeReleased released(n * 128);
    deck.deal(kept, u, n, out);
}

// ---- usage ------------------------------------------------------------------------------------------------------

int64_t py_mark_drawn(nb::handle cursor, int64_t capacity, nb::handle bits, nb::handle seen, nb::handle ids) {
    auto* drawn = static_cast<uint8_t*>(PyArray_DATA(as_array(bits, NPY_UINT8)));
    const int64_t *ends = int64s(cursor), *places = int64s(ids), n = size_of(ids);
    int64_t* counts = int64s(seen);
    if (capacity < 1 || size_of(bits) < (capacity + 7) / 8 || size_of(cursor) < 2 || size_of(seen) != 2) {
        throw nb::value_error("a bit a slot, and two counts");
    }
    const int64_t added = ends[0], oldest = std::max(ends[1], added - capacity);
    if (counts[0] < 0 || oldest < counts[0]) throw nb::value_error("what has left does not come back");
    const Ring ring(capacity, oldest, added);
    bool live = true;
    for (int64_t i = 0; i < n; ++i) live &= (places[i] >= oldest) & (places[i] < added);
    if (!live) require_live(ring, places, n);
    MaybeReleased released(n * 8 + oldest - counts[0]);
    mark_drawn(drawn, capacity, ring, counts, places, n);
    return added;
}

// ---- priorities -------------------------------------------------------------------------------------------------

// Whether these are plainly ids (int64 [n]) and a number for each (float64 [n]); else Python converts, or complains.
bool py_paired(nb::handle ids, nb::handle values) {
    const auto plain = [](nb::handle object, int type) {
        if (!PyArray_CheckExact(object.ptr())) return false;
        auto* array = reinterpret_cast<PyArrayObject*>(object.ptr());
        return PyArray_TYPE(array) == type && PyArray_NDIM(array) == 1 && PyArray_ISCARRAY_RO(array) != 0;
    };
    return plain(ids, NPY_INT64) && plain(values, NPY_FLOAT64) && size_of(ids) == size_of(values);
}

// How many ids are live, or -1 - position of the first that was never given out.
int64_t py_count_live(nb::handle ids, int64_t oldest, int64_t added) {
    const int64_t *x = int64s(ids), n = size_of(ids);
    int64_t live = 0;
    for (int64_t i = 0; i < n; ++i) {
        if (x[i] < 0 || x[i] >= added) return -1 - i;
        live += x[i] >= oldest;
    }
    return live;
}

// out = (scale / probabilities) ^ beta, float32; a scale of NaN stands for the smallest of the probabilities.
void py_importance_weights(nb::handle probabilities, double scale, double beta, nb::handle out) {
    const double* p = float64s(probabilities);
    auto* weights = static_cast<float*>(PyArray_DATA(as_array(out, NPY_FLOAT32)));
    const int64_t n = size_of(probabilities);
    if (size_of(out) != n) throw nb::value_error("one weight a probability");
    if (std::isnan(scale) && n > 0) scale = *std::min_element(p, p + n);
    const float exponent = static_cast<float>(beta);
    for (int64_t i = 0; i < n; ++i) {
        const double ratio = scale / p[i];
        // In single precision, twice as quick, where the ratio fits; its power may fit where it does not.
        const bool fits = ratio > 1e-30 && ratio < 1e30;
        weights[i] = fits ? std::pow(static_cast<float>(ratio), exponent) : static_cast<float>(std::pow(ratio, beta));
    }
}

// out = |values| + epsilon. The largest of them; not finite where one of them is not.
double py_magnitudes(nb::handle values, double epsilon, nb::handle out) {
    const double* x = float64s(values);
    double* y = float64s(out);
    const int64_t n = size_of(values);
    if (size_of(out) != n) throw nb::value_error("out and values differ in length");
    double largest = 0.0;
    bool finite = true;
    for (int64_t i = 0; i < n; ++i) {
        y[i] = std::fabs(x[i]) + epsilon;
        finite &= y[i] <= std::numeric_limits<double>::max();  // false for NaN too
        largest = y[i] > largest ? y[i] : largest;
    }
    return finite ? largest : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

NB_MODULE(_native, m) {
    if (_import_array() < 0) throw nb::python_error();
    nb::set_leak_warnings(false);  // a buffer, and so its lock, may live until the interpreter ends
    m.attr("LANES") = widest_lanes();
    nb::class_<Lock>(m, "Lock")
        .def(nb::init<>())
        .def("__enter__", &Lock::enter)
        .def("__exit__", [](Lock& lock, nb::handle, nb::handle, nb::handle) { lock.exit(); }, nb::arg().none(),
             nb::arg().none(), nb::arg().none())
        .def_prop_ro("owed", &Lock::owed)
        .def_prop_ro("mine", &Lock::mine)
        // A copy is a lock of its own: whatever shared the one shares the other.
        .def("__reduce__", [](nb::handle self) { return nb::make_tuple(self.type(), nb::tuple()); });
    m.def("append", &py_append, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::arg());
    m.def("block", &py_block);
    m.def("columns", &py_columns);
    m.def("channel_drain", &py_channel_drain);
    m.def("channel_end", &py_channel_end);
    m.def("channel_push", &py_channel_push, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::arg(),
          nb::arg(), nb::arg());
#ifndef _WIN32
    m.def("lock_holder", &py_lock_holder);
#endif
    m.def("read", &py_read, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg() = 1);
    m.def("read_stacks", &py_read_stacks, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
          nb::arg() = 1);
    m.def("stacks_complete", &py_stacks_complete);
    m.def("relink", &py_relink);
    m.def("walk", &py_walk);
    m.def("follow", &py_follow);
    m.def("drop", &py_drop);
    m.def("compact", &py_compact);
    m.def("release", &py_release);
    m.def("sequences", &py_sequences, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
          nb::arg(), nb::arg() = 1);
    m.def("returns", &py_returns);
    m.def("tree_update", &py_tree_update);
    m.def("tree_fill", &py_tree_fill);
    m.def("tree_build", &py_tree_build);
    m.def("tree_find", &py_tree_find);
    m.def("deck_add", &py_deck_add);
    m.def("deck_deal", &py_deck_deal);
    m.def("deck_drop", &py_deck_drop);
    m.def("mark_drawn", &py_mark_drawn);
    m.def("order_add", &py_order_add);
    m.def("order_drop", &py_order_drop);
    m.def("order_update", &py_order_update);
    m.def("order_find", &py_order_find);
    m.def("order_ranks", &py_order_ranks);
    m.def("spread", &py_spread);
    m.def("count_live", &py_count_live);
    m.def("paired", &py_paired, nb::arg().none(), nb::arg().none());
    m.def("importance_weights", &py_importance_weights);
    m.def("magnitudes", &py_magnitudes);
}
