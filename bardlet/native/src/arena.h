// Aligned pieces of one block of memory that the caller owns.
#pragma once
#include <cstddef>

struct Arena {
    char* base;  // null: the pieces are only counted
    size_t used = 0;

    template <class E>
    E* take(size_t n) {
        E* piece = (E*)(base + used);
        // an odd line apart: caches dislike distances that are powers of two
        used += (n * sizeof(E) + 63) / 64 * 64 + 64;
        return piece;
    }
};
