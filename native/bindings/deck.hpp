// `deck_add`, `deck_drop` and `deck_deal`: slots that are dealt once a round.
#pragma once

#include "../deck.hpp"

#include "arrays.hpp"
#include "thresholds.hpp"

namespace replaybank {

// (cards, places, counts), as sample_once.py makes it.
inline Deck as_deck(const nb::tuple& t) {
    const nb::handle cards = t[0], places = t[1], counts = t[2];
    const Deck deck{uint32s(cards), uint32s(places), int64s(counts), size_of(cards)};
    if (size_of(places) != deck.capacity || size_of(counts) != 2) {
        throw nb::value_error("these are not the arrays of a deck");
    }
    return deck;
}

inline void py_deck_add(const nb::tuple& arrays, int64_t first_id, int64_t n) {
    Deck deck = as_deck(arrays);
    if (first_id < 0 || n < 0 || n > deck.capacity) throw nb::value_error("at most one id a slot");
    MaybeReleased released(n * 16);
    deck.add(first_id, n);
}

inline void py_deck_drop(const nb::tuple& arrays, int64_t first_id, int64_t n) {
    Deck deck = as_deck(arrays);
    if (first_id < 0 || n < 0 || n > deck.size()) throw nb::value_error("no more than there are can leave");
    MaybeReleased released(n * 16);
    deck.drop(first_id, n);
}

inline void py_deck_deal(const nb::tuple& arrays, int64_t kept, nb::handle uniforms, nb::handle slots) {
    Deck deck = as_deck(arrays);
    const double* u = float64s(uniforms);
    int64_t *out = int64s(slots), n = size_of(uniforms);
    if (size_of(slots) != n || kept < 0 || n > deck.waiting() - kept) throw nb::value_error("a waiting slot each");
    MaybeReleased released(n * 128);
    deck.deal(kept, u, n, out);
}

}  // namespace replaybank
