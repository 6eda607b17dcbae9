// Dropout whose masks are functions of the seed and of where they apply: nothing is stored for the
// backward pass, and neither threads nor chunks change them.
#pragma once
#include "vector.h"

struct Dropout {
    float rate;  // 0: none
    uint32_t seed;

    static uint32_t mix(uint32_t x) {  // MurmurHash3's finaliser
        x = (x ^ x >> 16) * 0x85ebca6b;
        x = (x ^ x >> 13) * 0xc2b2ae35;
        return x ^ x >> 16;
    }

    // What the masks of one row at one site follow from.
    uint32_t key(uint32_t site, uint32_t row) const { return mix(seed + mix(site + mix(row))); }

    // 0 or 1 / (1 - rate) for each of W columns from `column` on.
    vec scale(uint32_t key, uint32_t column) const {
        using lanes = uint32_t __attribute__((vector_size(4 * W)));
        lanes x;
        for (int i = 0; i < W; i++) x[i] = key + (column + i) * 0x9e3779b9;
        x = (x ^ x >> 16) * 0x85ebca6b;
        x = (x ^ x >> 13) * 0xc2b2ae35;
        x = x ^ x >> 16;
        const float kept = 1.0f / (1.0f - rate);
        uint32_t bits;
        memcpy(&bits, &kept, 4);
        const lanes y = (lanes)(x >= (uint32_t)(rate * 4294967295.0f)) & bits;
        return as_floats(load_words(&y));
    }
};
