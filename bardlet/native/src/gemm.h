// Matrix products over packed panels: the one inner loop that everything here spends its time in.
//
// A packed matrix has its columns cut into panels of NR = two registers; within a panel the words
// of one step of the contraction lie side by side, so that the loop reads it front to back:
//     [columns / NR][steps][NR] words of 32 bits, a step being two bf16 elements or one float.
#pragma once
#include "tiles.h"

constexpr int NR = 2 * W;
constexpr int MR = W == 16 ? 8 : 4;  // rows whose sums stay in registers

inline long round_up(long n, long unit) { return (n + unit - 1) / unit * unit; }

// Elements of a packed matrix that contracts `depth` elements for each of `columns` columns.
template <class E>
long packed_size(long depth, long columns) {
    return round_up(depth, PAIR<E>) * round_up(columns, NR);
}

// Pack x (depth, columns), contracted over its rows, into panels `panel` elements apart. Both are
// multiples of PAIR and of NR.
template <class E>
void pack_rows(const E* x, long stride, int depth, int columns, E* out, long panel) {
    for (int n = 0; n < columns; n += NR, out += panel)
        for (int k = 0; k < depth; k += PAIR<E>)
            for (int j = 0; j < NR; j += W) {
                const E* row = x + k * stride + n + j;
                store_words(out + k * NR + j * PAIR<E>, two_rows(row, row + stride));
            }
}
template <class E>
void pack_rows(const E* x, long stride, int depth, int columns, E* out) {
    pack_rows(x, stride, depth, columns, out, (long)depth * NR);
}

// Pack x (columns, depth), contracted along its rows: a transposition of words.
template <class E>
void pack_columns(const E* x, long stride, int depth, int columns, E* out) {
    auto* to = (int32_t*)out;
#ifdef __AVX512F__
    for (int n = 0; n < columns; n += NR)
        for (int k = 0; k < depth; k += SIDE * PAIR<E>, to += SIDE * NR)
            for (int j = 0; j < NR; j += SIDE) {
                words block[SIDE];
                for (int i = 0; i < SIDE; i++) block[i] = load_words(x + (n + j + i) * stride + k);
                transpose(block);
                for (int i = 0; i < SIDE; i++) store_words(to + i * NR + j, block[i]);
            }
#else
    for (int n = 0; n < columns; n += NR)
        for (int k = 0; k < depth; k += PAIR<E>, to += NR)
            for (int j = 0; j < NR; j++) memcpy(to + j, x + (n + j) * stride + k, 4);
#endif
}

// Pack x (depth, columns) as the A^T of multiply_transposed, `panel` elements for NR columns.
template <class E>
void pack_left(const E* x, long stride, int depth, int columns, E* out, long panel) {
    if constexpr (TILED<E>) pack_for_tiles(x, stride, depth, columns, out, panel / NR);
    else pack_rows(x, stride, depth, columns, out, panel);
}

// Where step k of its contraction begins in what pack_left writes.
template <class E>
long left_offset(long k) {
    return TILED<E> ? k : k * NR;
}

// The sums of R rows and one panel. Row r at step k is the word at a + r * row + k * step.
template <int R, class E, class Out>
inline __attribute__((always_inline)) void tile(const E* a, long row, long step, const E* panel,
                                                int steps, int m, int n, Out out) {
    vec low[R], high[R];
    for (int r = 0; r < R; r++) low[r] = high[r] = set1(0.0f);
    for (int k = 0; k < steps; k++) {
        const words b0 = load_words(panel), b1 = load_words(panel + W * PAIR<E>);
        for (int r = 0; r < R; r++) {
            int32_t word;
            memcpy(&word, a + r * row, 4);
            low[r] = multiply_add(low[r], broadcast(word), b0, E{});
            high[r] = multiply_add(high[r], broadcast(word), b1, E{});
        }
        a += step;
        panel += NR * PAIR<E>;
    }
    for (int r = 0; r < R; r++) {
        out(m + r, n, low[r]);
        out(m + r, n + W, high[r]);
    }
}

// out(m, n, sums) for the W sums from column n on of each row m of A (rows) x B (packed, columns).
// A's row m at step k is the word at a + m * row + k * step; B's panels are `panel` elements apart.
template <class E, class Out>
inline __attribute__((always_inline)) void gemm(const E* a, long row, long step, const E* b,
                                                long panel, int rows, int columns, int steps,
                                                Out out) {
    if constexpr (TILED<E>) return multiply_tiles(a, row, b, panel, rows, columns, steps, out);
    for (int n = 0; n < columns; n += NR, b += panel) {
        int m = 0;
        for (; m + MR <= rows; m += MR) tile<MR>(a + m * row, row, step, b, steps, m, n, out);
        for (; m + 2 <= rows; m += 2) tile<2>(a + m * row, row, step, b, steps, m, n, out);
        for (; m < rows; m++) tile<1>(a + m * row, row, step, b, steps, m, n, out);
    }
}

// A (rows, depth), row by row, times a packed B.
template <class E, class Out>
inline __attribute__((always_inline)) void multiply(const E* a, long stride, const E* b, int rows,
                                                    int columns, int depth, Out out) {
    gemm(a, stride, (long)PAIR<E>, b, (long)depth * NR, rows, columns, depth / PAIR<E>, out);
}

// multiply() with its sums stored in rows `to_stride` apart.
template <class E>
void multiply_into(const E* a, long stride, const E* b, int rows, int columns, int depth, float* to,
                   long to_stride) {
    if constexpr (TILED<E>)
        return add_tiles(a, stride, b, (long)depth * NR, rows, columns, depth / PAIR<E>, nullptr,
                         to, to_stride);
    multiply(a, stride, b, rows, columns, depth,
             [=](int m, int n, vec v) { store(to + m * to_stride + n, v); });
}

// A^T B over `steps` steps of both, A packed by pack_left; NR columns take a_panel and b_panel
// elements.
template <class E, class Out>
inline __attribute__((always_inline)) void multiply_transposed(const E* a, long a_panel, const E* b,
                                                               long b_panel, int rows, int columns,
                                                               int steps, Out out) {
    if constexpr (TILED<E>)
        return multiply_tiles(a, a_panel / NR, b, b_panel, rows, columns, steps, out);
    for (int m = 0; m < rows; m += NR, a += a_panel) {
        auto shifted = [&](int i, int n, vec sums) { out(m + i, n, sums); };
        const int here = rows - m < NR ? rows - m : NR;
        gemm(a, (long)PAIR<E>, (long)NR * PAIR<E>, b, b_panel, here, columns, steps, shifted);
    }
}

// The same into rows of `to`, `stride` apart: added to what is there unless `fresh`.
template <class E>
void add_transposed(const E* a, long a_panel, const E* b, long b_panel, int rows, int columns,
                    int steps, bool fresh, float* to, long stride) {
    if constexpr (TILED<E>)
        return add_tiles(a, a_panel / NR, b, b_panel, rows, columns, steps, fresh ? nullptr : to,
                         to, stride);
    multiply_transposed(a, a_panel, b, b_panel, rows, columns, steps, [=](int m, int n, vec sums) {
        float* at = to + m * stride + n;
        store(at, fresh ? sums : load(at) + sums);
    });
}
