// One vector register of floats, and the two dtypes of matrices: float and bf16.
//
// vector_x86.h or vector_arm.h, by the compiler's flags; every other file is written once for all.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

struct bf16 {  // the upper half of a float
    uint16_t bits;
};

#ifdef __aarch64__
#include "vector_arm.h"
#else
#include "vector_x86.h"
#endif

inline words two_rows(const float* row, const float*) { return load_words(row); }
inline vec multiply_add(vec sum, words a, words b, float) {
    return fma(as_floats(a), as_floats(b), sum);
}

// How many elements lie in one word of 32 bits, multiplied and added by one instruction.
template <class E>
constexpr int PAIR = sizeof(float) / sizeof(E);

// e^x to about 2 units in the last place; NaN stays NaN. Cephes' polynomial.
inline vec exp(vec x) {
    x = min(set1(88.3f), max(set1(-87.3f), x));
    const vec n = round(x * set1(1.44269504f));
    const vec r = fma(n, set1(2.12194440e-4f), fma(n, set1(-0.693359375f), x));
    vec y = set1(1.9875691500e-4f);
    y = fma(y, r, set1(1.3981999507e-3f));
    y = fma(y, r, set1(8.3334519073e-3f));
    y = fma(y, r, set1(4.1665795894e-2f));
    y = fma(y, r, set1(1.6666665459e-1f));
    y = fma(y, r, set1(5.0000001201e-1f));
    return times_power_of_two(fma(y, r * r, r + set1(1.0f)), n);
}

// e^x for results that are rounded to E: in bf16, whose half unit is 2e-3 of a number, to 4e-6.
template <class E>
inline vec exp_for(vec x) {
    if constexpr (std::is_same_v<E, float>) return exp(x);
    x = min(set1(88.3f), max(set1(-87.3f), x));
    // 2^23 1.5 more than the nearest integer n to log2(e^x): its low bits are n
    const vec shifted = fma(x, set1(1.44269504f), set1(12582912.0f));
    const vec r = fma(x, set1(1.44269504f), set1(12582912.0f) - shifted);
    vec y = fma(set1(9.582862066e-3f), r, set1(5.590646326e-2f));  // minimax for 2^r
    y = fma(y, r, set1(2.402409869e-1f));
    y = fma(y, r, set1(6.931241890e-1f));
    return add_to_exponent(fma(y, r, set1(1.0f)), shifted);
}

// Gauss's error function to 1.5e-7 (Abramowitz and Stegun 7.1.26); `bell` is e^(-x^2).
inline vec erf(vec x, vec bell) {
    const vec size = abs(x);
    const vec t = reciprocal(fma(set1(0.3275911f), size, set1(1.0f)));
    vec y = set1(1.061405429f);
    y = fma(y, t, set1(-1.453152027f));
    y = fma(y, t, set1(1.421413741f));
    y = fma(y, t, set1(-0.284496736f));
    y = fma(y, t, set1(0.254829592f));
    y = set1(1.0f) - y * t * bell;
    return or_sign(y, x);
}
