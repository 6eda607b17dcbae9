// Matrices whose weights are integers of 8 or 4 bits, and their product with rows of floats.
//
// 32 weights of a row share a scale of 16 bits: weight = scale * q, with q in [-127, 127] or [-8, 7].
// These are the numbers of GGUF's Q8_0 and Q4_0. Rows of activations become integers of 16 bits with
// one scale each, whose rounding is below bfloat16's, and products are summed as integers within
// a group: exactly, so that a row's result does not depend on the rows beside it.
#pragma once
#include <algorithm>
#include <cmath>
#include "arena.h"
#include "gemm.h"

constexpr int GROUP = 32;  // weights that share a scale
constexpr float TINY = 1e-30f;  // what is no larger counts as 0

// M rows of K activations as integers: x = scale * q.
struct IntegerRows {
    int16_t* q;
    float* scale;
    int32_t* sums;  // of each group's q

    static IntegerRows take(Arena& arena, long M, long K) {
        return {arena.take<int16_t>(M * K), arena.take<float>(M),
                arena.take<int32_t>(M * K / GROUP)};
    }

    template <class E>
    void round(const E* x, int M, int K) {
        for (int m = 0; m < M; m++, x += K) {
            vec highest = set1(0.0f), poison = set1(0.0f);  // NaN where x is not finite
            for (int i = 0; i < K; i += W) {
                const vec v = load(x + i);
                highest = max(abs(v), highest);
                poison = fma(v, set1(0.0f), poison);
            }
            const float size = hmax(highest);
            scale[m] = size / 32767.0f + hsum(poison);
            const vec inverse = set1(size > TINY ? 32767.0f / size : 0.0f);
            int16_t* to = q + (long)m * K;
            for (int i = 0; i < K; i += W) store_nearest(to + i, load(x + i) * inverse);
            for (int g = 0; g < K / GROUP; g++) {
                int32_t sum = 0;
                for (int i = 0; i < GROUP; i++) sum += to[g * GROUP + i];
                sums[(long)m * (K / GROUP) + g] = sum;
            }
        }
    }
};

// One matrix, in panels of NR columns of the product; for each group of a panel
//     NR scales, then for each two weights of 8 bits, or four of 4, of every column 16 bits.
template <int BITS>
struct Quantised {
    uint8_t* panels;

    static constexpr long GROUP_BYTES = NR * (2 + GROUP * BITS / 8);

    static Quantised take(Arena& arena, long rows, long columns, bool) {
        return {arena.take<uint8_t>(round_up(rows, NR) / NR * (columns / GROUP) * GROUP_BYTES)};
    }

    // Pack w (rows, columns).
    void pack(const float* w, int rows, int columns, void*) {
        uint8_t* to = panels;
        for (int n = 0; n < rows; n += NR)
            for (int k = 0; k < columns; k += GROUP, to += GROUP_BYTES)
                pack_group(w + (long)n * columns + k, columns, std::min(NR, rows - n), to);
    }

  private:
    static void pack_group(const float* w, long stride, int rows, uint8_t* to) {
        int16_t q[NR][GROUP] = {};
        for (int r = 0; r < NR; r++) {
            const uint16_t scale = r < rows ? round_group(w + r * stride, q[r]) : 0;
            memcpy(to + 2 * r, &scale, 2);
        }
        to += 2 * NR;
        if (BITS == 8)
            for (int k = 0; k < GROUP; k += 2)
                for (int r = 0; r < NR; r++, to += 2)
                    to[0] = (uint8_t)q[r][k], to[1] = (uint8_t)q[r][k + 1];
        else
            for (int k = 0; k < GROUP; k += 4)
                for (int r = 0; r < NR; r++, to += 2)
                    for (int i = 0; i < 2; i++)
                        to[i] = (uint8_t)((q[r][k + i] + 8) | (q[r][k + i + 2] + 8) << 4);
    }

    // The scale of 32 weights, as a float of 16 bits, with their integers in q.
    static uint16_t round_group(const float* w, int16_t* q) {
        vec highest = set1(0.0f), lowest = set1(0.0f), poison = set1(0.0f);
        for (int i = 0; i < GROUP; i += W) {
            const vec v = load(w + i);
            highest = max(v, highest), lowest = max(-v, lowest);
            poison = fma(v, set1(0.0f), poison);
        }
        const float high = hmax(highest), low = hmax(lowest);
        // of 4 bits the largest weight becomes -8, whose mirror image there is not
        const float scale = BITS == 8 ? std::max(high, low) / 127.0f
                                      : (high > low ? high / -8.0f : low / 8.0f);
        const vec inverse = set1(std::fabs(scale) > TINY ? 1.0f / scale : 0.0f);
        const vec top = set1(BITS == 8 ? 127.0f : 7.0f);
        for (int i = 0; i < GROUP; i += W)
            store_nearest(q + i, min(::round(load(w + i) * inverse), top));
        return half_bits(scale + hsum(poison));
    }
};

// The sums of R rows and one panel.
template <int BITS, int R, class Out>
inline __attribute__((always_inline)) void tile(const IntegerRows& x, int m, int K,
                                                const uint8_t* panel, int n, Out out) {
    using Byte = std::conditional_t<BITS == 8, int8_t, uint8_t>;
    const int16_t* a = x.q + (long)m * K;
    const int32_t* sums = x.sums + (long)m * (K / GROUP);
    vec low[R], high[R];
    for (int r = 0; r < R; r++) low[r] = high[r] = set1(0.0f);
    for (int g = 0; g < K / GROUP; g++, panel += Quantised<BITS>::GROUP_BYTES) {
        words l[R], h[R];  // nibbles are 8 above their weights
        for (int r = 0; r < R; r++)
            l[r] = h[r] = broadcast(BITS == 8 ? 0 : -8 * sums[(long)r * (K / GROUP) + g]);
        auto add = [&](words low_weights, words high_weights, const int16_t* at) {
            for (int r = 0; r < R; r++) {
                int32_t pair;
                memcpy(&pair, at + (long)r * K, 4);
                l[r] = multiply_add(l[r], broadcast(pair), low_weights);
                h[r] = multiply_add(h[r], broadcast(pair), high_weights);
            }
        };
        const Byte* q = (const Byte*)panel + 2 * NR;
        for (int k = 0; k < GROUP; k += 16 / BITS, a += 16 / BITS, q += 2 * NR) {
            const words lower = load_bytes(q), upper = load_bytes(q + 2 * W);
            if (BITS == 8) {
                add(lower, upper, a);
            } else {
                add(low_nibbles(lower), low_nibbles(upper), a);
                add(high_nibbles(lower), high_nibbles(upper), a + 2);
            }
        }
        const vec low_scales = load_halves((const uint16_t*)panel);
        const vec high_scales = load_halves((const uint16_t*)panel + W);
        for (int r = 0; r < R; r++) {
            low[r] = fma(to_floats(l[r]), low_scales, low[r]);
            high[r] = fma(to_floats(h[r]), high_scales, high[r]);
        }
    }
    for (int r = 0; r < R; r++) {
        out(m + r, n, low[r] * set1(x.scale[m + r]));
        out(m + r, n + W, high[r] * set1(x.scale[m + r]));
    }
}

// out(m, n, sums) for the W sums from column n on of each of M rows times a part of a matrix,
// `columns` from `first` on.
template <int BITS, class Out>
inline __attribute__((always_inline)) void multiply(const IntegerRows& x, const Quantised<BITS>& w,
                                                    int M, int K, int first, int columns, Out out) {
    constexpr int ROWS = W == 16 ? 6 : 2;
    for (int n = first; n < first + columns; n += NR) {
        const uint8_t* panel = w.panels + n / NR * (K / GROUP) * Quantised<BITS>::GROUP_BYTES;
        int m = 0;
        for (; m + ROWS <= M; m += ROWS) tile<BITS, ROWS>(x, m, K, panel, n, out);
        for (; m + 2 <= M; m += 2) tile<BITS, 2>(x, m, K, panel, n, out);
        for (; m < M; m++) tile<BITS, 1>(x, m, K, panel, n, out);
    }
}
