// The extension module: a list of what Python calls. Each function is in bindings/, under the name of its kernel's header:
// it checks the arrays that it is given, releases the GIL where the work is worth it, and calls. The kernels themselves, in
// this folder, know nothing of Python (but for the lock, which gives the GIL away while it waits).
#include "bindings/append.hpp"
#include "bindings/blocks.hpp"
#include "bindings/channel.hpp"
#include "bindings/deck.hpp"
#include "bindings/ids.hpp"
#include "bindings/order.hpp"
#include "bindings/priorities.hpp"
#include "bindings/record_lock.hpp"
#include "bindings/rows.hpp"
#include "bindings/sequences.hpp"
#include "bindings/stacks.hpp"
#include "bindings/store.hpp"
#include "bindings/tree.hpp"
#include "bindings/usage.hpp"
#include "lock.hpp"

using namespace replaybank;

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

    m.def("deck_add", &py_deck_add);
    m.def("deck_deal", &py_deck_deal);
    m.def("deck_drop", &py_deck_drop);

    m.def("count_live", &py_count_live);
    m.def("spread", &py_spread);

    m.def("order_add", &py_order_add);
    m.def("order_drop", &py_order_drop);
    m.def("order_find", &py_order_find);
    m.def("order_ranks", &py_order_ranks);
    m.def("order_update", &py_order_update);

    m.def("importance_weights", &py_importance_weights);
    m.def("magnitudes", &py_magnitudes);
    m.def("paired", &py_paired, nb::arg().none(), nb::arg().none());

    m.def("read", &py_read, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg() = 1);
    m.def("returns", &py_returns);
    m.def("walk", &py_walk);

    m.def("follow", &py_follow);
    m.def("sequences", &py_sequences, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
          nb::arg(), nb::arg() = 1);

    m.def("read_stacks", &py_read_stacks, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
          nb::arg() = 1);
    m.def("stacks_complete", &py_stacks_complete);

    m.def("compact", &py_compact);
    m.def("drop", &py_drop);
    m.def("release", &py_release);
    m.def("relink", &py_relink);

    m.def("tree_build", &py_tree_build);
    m.def("tree_fill", &py_tree_fill);
    m.def("tree_find", &py_tree_find);
    m.def("tree_update", &py_tree_update);

    m.def("mark_drawn", &py_mark_drawn);
}
