// Blocks of 16 by 16 words: their transposition, and products on Intel's AMX, whose registers
// ("tiles") hold 16 rows of 64 bytes; one instruction multiplies two of them.
#pragma once
#include "vector.h"

// Whether products of E run on tiles.
#ifdef __AMX_BF16__
template <class E>
constexpr bool TILED = std::is_same_v<E, bf16>;
#else
template <class E>
constexpr bool TILED = false;
#endif

#ifdef __AVX512F__
constexpr int SIDE = 16;  // words in a register, and registers in a block

// Word j of rows[i] and word i of rows[j] change places.
inline void transpose(words (&rows)[SIDE]) {
    words a[SIDE], b[SIDE];
    for (int i = 0; i < SIDE; i += 2) {
        a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < SIDE; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm512_unpacklo_epi64(a[i + j], a[i + 2 + j]);
            b[i + 2 * j + 1] = _mm512_unpackhi_epi64(a[i + j], a[i + 2 + j]);
        }
    for (int j = 0; j < 4; j++)  // what is left are the blocks of four words
        for (int half = 0; half < 2; half++) {
            a[8 * half + j] = _mm512_shuffle_i32x4(b[8 * half + j], b[8 * half + 4 + j], 0x88);
            a[8 * half + 4 + j] = _mm512_shuffle_i32x4(b[8 * half + j], b[8 * half + 4 + j], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        rows[i] = _mm512_shuffle_i32x4(a[i], a[8 + i], 0x88);
        rows[8 + i] = _mm512_shuffle_i32x4(a[i], a[8 + i], 0xdd);
    }
}
#endif

#ifdef __AVX512F__
// Lane i: what `add` makes of rows[i], in whichever order.
template <class Add>
inline vec fold_rows(vec (&rows)[W], Add add) {
    transpose((words(&)[SIDE])rows);
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; i++) rows[i] = add(rows[i], rows[half + i]);
    return rows[0];
}
#endif

// Lane i: the sum, or the greatest, of rows[i].
inline vec sums_of(vec (&rows)[W]) {
#ifdef __AVX512F__
    return fold_rows(rows, [](vec a, vec b) { return a + b; });
#else
    float lanes[W];
    for (int i = 0; i < W; i++) lanes[i] = hsum(rows[i]);
    return load(lanes);
#endif
}
inline vec maxima_of(vec (&rows)[W]) {
#ifdef __AVX512F__
    return fold_rows(rows, [](vec a, vec b) { return max(a, b); });
#else
    float lanes[W];
    for (int i = 0; i < W; i++) lanes[i] = hmax(rows[i]);
    return load(lanes);
#endif
}

#ifdef __AMX_BF16__
constexpr int BLOCK = 2 * SIDE;   // rows and columns of the four tiles of sums
constexpr int AHEAD = 8192;       // bytes of panels that are fetched before they are multiplied
constexpr int STRIP = 2 * BLOCK;  // rows that all panels multiply before others: they stay cached

// How many rows of a block this thread's tiles hold: 0, 1 and 4 those of its upper half, 2, 3 and 5
// those of the lower one. Tiles 6 and 7 hold 16 columns of 16 steps, which are two numbers each.
inline thread_local int tile_rows = 0;

inline void set_tile_rows(int rows) {
    if (rows == tile_rows) return;
    struct alignas(64) {
        uint8_t palette = 1, first_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};
    } shape;
    const int upper = rows < SIDE ? rows : SIDE, lower = rows - upper;
    for (int tile = 0; tile < 8; tile++) {
        shape.rows[tile] = tile > 5 ? SIDE : tile < 2 || tile == 4 ? upper : lower;
        shape.row_bytes[tile] = shape.rows[tile] ? 64 : 0;
    }
    asm volatile("" ::"r"(&shape) : "memory");  // the compiler does not know that it is read
    _tile_loadconfig(&shape);
    tile_rows = rows;
}

// While it lives, its thread can multiply on tiles. torch may have left them in another shape.
struct Tiles {
    Tiles() { tile_rows = 0, set_tile_rows(BLOCK); }
    ~Tiles() { _tile_release(); }
};

// Begin the sums of up to 32 rows, as many as the tiles have, with zeros or the floats at `from`.
template <bool LOWER>
inline void begin_sums(const float* from, long stride) {
    asm volatile("" ::: "memory");  // the compiler does not know that tiles are loaded from memory
    if (!from) {
        _tile_zero(0);
        _tile_zero(1);
        if (!LOWER) return;
        _tile_zero(2);
        _tile_zero(3);
        return;
    }
    _tile_loadd(0, from, stride * sizeof(float));
    _tile_loadd(1, from + SIDE, stride * sizeof(float));
    if (!LOWER) return;
    _tile_loadd(2, from + SIDE * stride, stride * sizeof(float));
    _tile_loadd(3, from + SIDE * stride + SIDE, stride * sizeof(float));
}

template <bool LOWER>
inline void store_sums(float* to, long stride) {
    _tile_stored(0, to, stride * sizeof(float));
    _tile_stored(1, to + SIDE, stride * sizeof(float));
    if (!LOWER) return;
    _tile_stored(2, to + SIDE * stride, stride * sizeof(float));
    _tile_stored(3, to + SIDE * stride + SIDE, stride * sizeof(float));
}

// Add the products of those rows and one panel (gemm.h). With FETCH, what lies behind the part of
// the panel that is read is on its way into the second-level cache.
template <bool LOWER, bool FETCH>
inline void add_products(const bf16* a, long row, const bf16* panel, int steps) {
    constexpr long LINE = 2 * SIDE * sizeof(int32_t);
    for (int k = 0; k < steps; k += SIDE, a += 2 * SIDE, panel += 2 * SIDE * BLOCK) {
        if (FETCH)
            for (int line = 0; line < 2 * SIDE; line++)
                __builtin_prefetch((const char*)panel + AHEAD + 64 * line, 0, 2);
        _tile_loadd(4, a, row * sizeof(bf16));
        _tile_loadd(6, panel, LINE);
        _tile_loadd(7, panel + 2 * SIDE, LINE);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (!LOWER) continue;
        _tile_loadd(5, a + SIDE * row, row * sizeof(bf16));
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

// One block: to = from + A's rows times a panel, which the first rows bring in for the others.
inline void multiply_block(const bf16* a, long row, const bf16* panel, int steps, int rows,
                           bool fetch, const float* from, float* to, long stride) {
    if (rows <= SIDE) {
        begin_sums<false>(from, stride);
        add_products<false, true>(a, row, panel, steps);
        store_sums<false>(to, stride);
        return;
    }
    begin_sums<true>(from, stride);
    if (fetch) add_products<true, true>(a, row, panel, steps);
    else add_products<true, false>(a, row, panel, steps);
    store_sums<true>(to, stride);
}

// Write x (depth, columns) column by column, each `column` elements apart. Both are multiples of
// BLOCK.
inline void pack_for_tiles(const bf16* x, long stride, int depth, int columns, bf16* out,
                           long column) {
    constexpr int EIGHT = 8;  // numbers in 128 bits
    // three of these: 8 by 8 numbers change places in each quarter of the registers
    auto mix = [](const words(&x)[EIGHT], words(&y)[EIGHT]) {
        for (int i = 0; i < EIGHT / 2; i++) {
            y[2 * i] = _mm512_unpacklo_epi16(x[i], x[EIGHT / 2 + i]);
            y[2 * i + 1] = _mm512_unpackhi_epi16(x[i], x[EIGHT / 2 + i]);
        }
    };
    for (int first = 0; first < columns; first += BLOCK)  // whole lines of 32 rows at once
        for (int k = 0; k < depth; k += BLOCK)
            for (int n = first; n < first + BLOCK; n += EIGHT) {
                words a[EIGHT], b[EIGHT];
                for (int i = 0; i < EIGHT; i++) {
                    auto row = [&](int j) {
                        return _mm_loadu_si128((const __m128i*)(x + (k + i + j) * stride + n));
                    };
                    a[i] = _mm512_castsi128_si512(row(0));
                    a[i] = _mm512_inserti32x4(a[i], row(EIGHT), 1);
                    a[i] = _mm512_inserti32x4(a[i], row(2 * EIGHT), 2);
                    a[i] = _mm512_inserti32x4(a[i], row(3 * EIGHT), 3);
                }
                mix(a, b), mix(b, a), mix(a, b);
                for (int i = 0; i < EIGHT; i++) store_words(out + (n + i) * column + k, b[i]);
            }
}

// Call each(m, n, block) for blocks of up to BLOCK rows, which the tiles are set for, and panels.
template <class Each>
inline __attribute__((always_inline)) void in_blocks(int rows, int columns, Each each) {
    for (int first = 0, end; first < rows; first = end) {
        const int rest = rows - first < STRIP ? rows - first : STRIP;
        const int block = rest < BLOCK ? rest : BLOCK;
        end = first + rest / block * block;
        set_tile_rows(block);
        for (int n = 0; n < columns; n += BLOCK)
            for (int m = first; m < end; m += block) each(m, n, block);
    }
}

// gemm() of gemm.h for A's steps side by side. A row's sums do not depend on the rows beside it.
template <class Out>
inline __attribute__((always_inline)) void multiply_tiles(const bf16* a, long row, const bf16* b,
                                                          long panel, int rows, int columns,
                                                          int steps, Out out) {
    alignas(64) float sums[BLOCK][BLOCK];
    in_blocks(rows, columns, [&](int m, int n, int block) {
        multiply_block(a + m * row, row, b + n / BLOCK * panel, steps, block, !m, nullptr, sums[0],
                       BLOCK);
        for (int r = 0; r < block; r++) {
            out(m + r, n, load(sums[r]));
            out(m + r, n + W, load(sums[r] + W));
        }
    });
}

// to (rows, columns) = from + A B, both with rows `stride` apart; a null `from` is zeros.
inline void add_tiles(const bf16* a, long row, const bf16* b, long panel, int rows, int columns,
                      int steps, const float* from, float* to, long stride) {
    in_blocks(rows, columns, [&](int m, int n, int block) {
        const long at = m * stride + n;
        for (int r = 0; r < block; r++) {  // two lines each, there when the sums are
            __builtin_prefetch(to + at + r * stride, 1);
            __builtin_prefetch(to + at + r * stride + SIDE, 1);
        }
        multiply_block(a + m * row, row, b + n / BLOCK * panel, steps, block, !m,
                       from ? from + at : nullptr, to + at, stride);
    });
}
#else
struct Tiles {};
#endif
