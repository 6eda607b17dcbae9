// The model's shape and where its weights lie; what training and decoding share.
#pragma once
#include <cmath>
#include "gemm.h"
#include "threads.h"

// bardlet/native/__init__.py writes this struct: same order there.
struct Shape {
    int32_t llama, layers, heads, kv_heads, head, width, hidden, vocab, context, qk_norm;
    float eps;
    int qkv() const { return (heads + 2 * kv_heads) * head; }
    int rotated() const { return (heads + kv_heads) * head; }  // queries and keys
    int gated() const { return (1 + llama) * hidden; }         // what the MLP's first matrix gives
    int padded_vocab() const { return (int)round_up(vocab, NR); }
};

// Indices into the tables of parameters and gradients; null where the model has no such parameter.
enum { WTE, WPE, LNF, LNF_B, HEAD, FIRST_LAYER };
enum { LN1, LN1_B, QKV, QKV_B, PROJ, PROJ_B, QN, KN, LN2, LN2_B, FC, FC_B, OUT, OUT_B, PER_LAYER };

struct Params {
    float* const* table;
    float* operator[](int i) const { return table[i]; }
    float* at(int layer, int i) const { return table[FIRST_LAYER + layer * PER_LAYER + i]; }
};

// y = norm(x) of one row of C, RMSNorm or LayerNorm; returns 1 / rms, or 1 / sd with `mean` set.
template <class E>
float norm_row(const Shape& s, const float* x, const float* weight, const float* bias, E* y,
               float& mean) {
    const int C = s.width;
    vec sum = set1(0.0f), squares = set1(0.0f);
    if (!s.llama)
        for (int i = 0; i < C; i += W) sum += load(x + i);
    mean = hsum(sum) / C;
    for (int i = 0; i < C; i += W) {
        const vec d = load(x + i) - set1(mean);
        squares = fma(d, d, squares);
    }
    const float scale = 1.0f / std::sqrt(hsum(squares) / C + s.eps);
    for (int i = 0; i < C; i += W) {
        vec v = (load(x + i) - set1(mean)) * set1(scale) * load(weight + i);
        if (bias) v += load(bias + i);
        store(y + i, v);
    }
    return scale;
}

// One query or key of D, times `scale` and `weight` where that is not null, rotated by its
// position's angles (2, context, D).
template <class E>
void rotate_scaled(const Shape& s, const E* x, const float* weight, float scale,
                   const float* rotary, int position, E* y) {
    const int D = s.head, half = D / 2;
    const float* cosines = rotary + (long)position * D;
    const float* sines = rotary + ((long)s.context + position) * D + half;
    for (int i = 0; i < half; i += W) {
        vec a = load(x + i) * set1(scale), b = load(x + half + i) * set1(scale);
        if (weight) a *= load(weight + i), b *= load(weight + half + i);
        const vec cos = load(cosines + i), sin = load(sines + i);
        store(y + i, a * cos - b * sin);
        store(y + half + i, b * cos + a * sin);
    }
}

// One query or key: normed where `weight` is not null, then rotated.
template <class E>
void rotate_row(const Shape& s, const E* x, const float* weight, const float* rotary, int position,
                E* y) {
    float scale = 1.0f;
    if (weight) {
        vec squares = set1(0.0f);
        for (int i = 0; i < s.head; i += W) squares = fma(load(x + i), load(x + i), squares);
        scale = 1.0f / std::sqrt(hsum(squares) / s.head + s.eps);
    }
    rotate_scaled(s, x, weight, scale, rotary, position, y);
}

// W elements of the MLP's hidden layer from what its first matrix gave at x.
template <class E>
vec activate(const Shape& s, const E* x) {
    const vec a = load(x), one = set1(1.0f);
    if (s.llama) return a / (one + exp(-a)) * load(x + s.hidden);  // silu(gate) * up
    const vec z = a * set1(0.70710678f);
    return set1(0.5f) * a * (one + erf(z, exp(-z * z)));
}
