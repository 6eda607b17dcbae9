// A model's matrices, packed for the loop that multiplies them.
#pragma once
#include <algorithm>
#include <vector>
#include "arena.h"
#include "model.h"

// A matrix twice: packed to multiply activations forward, and gradients backward.
template <class E>
struct Packed {
    E *forward, *back;

    static Packed take(Arena& arena, long rows, long columns, bool back) {
        const long n = round_up(rows, NR) * round_up(columns, NR);
        return {arena.take<E>(n), back ? arena.take<E>(n) : nullptr};
    }

    // Pack w (rows, columns), a band of NR rows at a time.
    void pack(const float* w, int rows, int columns, E* band) {
        for (int n = 0; n < rows; n += NR) {
            for (int r = 0; r < NR; r++)
                for (int i = 0; i < columns; i += W)
                    store(band + r * columns + i,
                          n + r < rows ? load(w + (long)(n + r) * columns + i) : set1(0.0f));
            pack_columns(band, columns, columns, NR, forward + (long)n * columns);
            if (!back) continue;
            for (int c = 0; c < columns; c += NR)  // this band's part of each panel of columns
                pack_rows(band + c, columns, NR, NR,
                          back + c * round_up(rows, NR) + (long)n * NR);
        }
    }
};

// `Matrix` is what each is packed as, `E` what rows are rounded to before.
template <class E, class Matrix = Packed<E>>
struct Weights {
    std::vector<Matrix> qkv, proj, fc, out;
    Matrix head;
    E* rows[MAX_THREADS];  // per thread: one matrix converted to E, row by row

    Weights(const Shape& s, int threads, Arena& arena, bool back)
        : qkv(s.layers), proj(s.layers), fc(s.layers), out(s.layers) {
        auto take = [&](long rows, long columns) {
            return Matrix::take(arena, rows, columns, back);
        };
        for (int l = 0; l < s.layers; l++) {
            qkv[l] = take(s.qkv(), s.width);
            proj[l] = take(s.width, s.heads * s.head);
            fc[l] = take(s.gated(), s.width);
            out[l] = take(s.width, s.hidden);
        }
        head = take(s.vocab, s.width);
        for (int t = 0; t < threads; t++)
            rows[t] = arena.take<E>(NR * std::max({s.width, s.hidden, s.heads * s.head}));
    }

    // Pack matrix `i` of all; returns false past the last.
    bool pack_one(const Shape& s, Params p, int i, int thread) {
        const int l = i / 4;
        if (i == 4 * s.layers) head.pack(p[HEAD], s.vocab, s.width, rows[thread]);
        if (l >= s.layers) return i <= 4 * s.layers;
        if (i % 4 == 0) qkv[l].pack(p.at(l, QKV), s.qkv(), s.width, rows[thread]);
        if (i % 4 == 1) proj[l].pack(p.at(l, PROJ), s.width, s.heads * s.head, rows[thread]);
        if (i % 4 == 2) fc[l].pack(p.at(l, FC), s.gated(), s.width, rows[thread]);
        if (i % 4 == 3) out[l].pack(p.at(l, OUT), s.width, s.hidden, rows[thread]);
        return true;
    }
};
