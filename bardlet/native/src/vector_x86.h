// vector.h for x86-64: a register of AVX-512, or of AVX2 with FMA and F16C.
#pragma once
#include <immintrin.h>

#ifdef __AVX512F__
constexpr int W = 16;  // floats in a register
using vec = __m512;
using words = __m512i;  // W words of 32 bits: a float or two bf16 each
inline vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, vec x) { _mm512_storeu_ps(p, x); }
inline words load_words(const void* p) { return _mm512_loadu_si512(p); }
inline void store_words(void* p, words x) { _mm512_storeu_si512(p, x); }
inline words broadcast(int32_t x) { return _mm512_set1_epi32(x); }
inline vec as_floats(words x) { return _mm512_castsi512_ps(x); }
inline vec set1(float x) { return _mm512_set1_ps(x); }
inline vec fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
inline vec max(vec a, vec b) { return _mm512_max_ps(a, b); }  // b where one is NaN
inline vec min(vec a, vec b) { return _mm512_min_ps(a, b); }
inline vec round(vec x) { return _mm512_roundscale_ps(x, 8); }
inline vec sqrt(vec x) { return _mm512_sqrt_ps(x); }
inline vec times_power_of_two(vec x, vec n) { return _mm512_scalef_ps(x, n); }
inline vec add_to_exponent(vec x, vec n) {  // x times two to the power of n's low bits
    return as_floats(_mm512_add_epi32((words)x, _mm512_slli_epi32((words)n, 23)));
}
inline vec reciprocal(vec x) {  // of a finite x, to 2 units in the last place, sooner than 1 / x
    const vec y = _mm512_rcp14_ps(x);
    return fma(y, _mm512_fnmadd_ps(x, y, set1(1.0f)), y);
}
inline float hsum(vec x) { return _mm512_reduce_add_ps(x); }
inline float hmax(vec x) { return _mm512_reduce_max_ps(x); }
inline vec abs(vec x) { return _mm512_abs_ps(x); }
inline vec to_floats(words x) { return _mm512_cvtepi32_ps(x); }
inline vec load_halves(const uint16_t* p) {  // W floats of 16 bits
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
}
inline words load_bytes(const int8_t* p) {  // 2 W of them, each as 16 bits
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p));
}
inline words load_bytes(const uint8_t* p) {
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)p));
}
inline words low_nibbles(words x) { return _mm512_and_si512(x, _mm512_set1_epi16(15)); }
inline words high_nibbles(words x) { return _mm512_srli_epi16(x, 4); }
inline void store_nearest(int16_t* p, vec x) {
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x)));
}
#else
constexpr int W = 8;
using vec = __m256;
using words = __m256i;
inline vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, vec x) { _mm256_storeu_ps(p, x); }
inline words load_words(const void* p) { return _mm256_loadu_si256((const words*)p); }
inline void store_words(void* p, words x) { _mm256_storeu_si256((words*)p, x); }
inline words broadcast(int32_t x) { return _mm256_set1_epi32(x); }
inline vec as_floats(words x) { return _mm256_castsi256_ps(x); }
inline vec set1(float x) { return _mm256_set1_ps(x); }
inline vec fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
inline vec max(vec a, vec b) { return _mm256_max_ps(a, b); }
inline vec min(vec a, vec b) { return _mm256_min_ps(a, b); }
inline vec round(vec x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline vec sqrt(vec x) { return _mm256_sqrt_ps(x); }
inline vec times_power_of_two(vec x, vec n) {
    const words shift =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), broadcast(127)), 23);
    return x * as_floats(shift);
}
inline vec add_to_exponent(vec x, vec n) {  // x times two to the power of n's low bits
    return as_floats(_mm256_add_epi32((words)x, _mm256_slli_epi32((words)n, 23)));
}
inline vec reciprocal(vec x) { return set1(1.0f) / x; }
inline float fold(vec x, bool add) {
    float lanes[W], y;
    store(lanes, x);
    y = lanes[0];
    for (int i = 1; i < W; i++) y = add ? y + lanes[i] : (lanes[i] > y ? lanes[i] : y);
    return y;
}
inline float hsum(vec x) { return fold(x, true); }
inline float hmax(vec x) { return fold(x, false); }
inline vec abs(vec x) { return _mm256_andnot_ps(set1(-0.0f), x); }
inline vec to_floats(words x) { return _mm256_cvtepi32_ps(x); }
inline vec load_halves(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
}
inline words load_bytes(const int8_t* p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p));
}
inline words load_bytes(const uint8_t* p) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)p));
}
inline words low_nibbles(words x) { return _mm256_and_si256(x, _mm256_set1_epi16(15)); }
inline words high_nibbles(words x) { return _mm256_srli_epi16(x, 4); }
inline void store_nearest(int16_t* p, vec x) {
    const words all = _mm256_cvtps_epi32(x);
    const __m128i low = _mm256_castsi256_si128(all), high = _mm256_extracti128_si256(all, 1);
    _mm_storeu_si128((__m128i*)p, _mm_packs_epi32(low, high));
}
#endif

// sum + a.b of the two 16-bit integers that each word of a and of b holds.
inline words multiply_add(words sum, words a, words b) {
#if defined(__AVX512VNNI__)
    return _mm512_dpwssd_epi32(sum, a, b);
#elif defined(__AVX512F__)
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#else
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
#endif
}

inline vec or_sign(vec x, vec y) {  // x, its sign bit set where y's is
    return as_floats((words)((words)x | ((words)y & broadcast(INT32_MIN))));
}

inline uint16_t half_bits(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }

inline void pause_spinning() { _mm_pause(); }  // a hint: another thread may use this core meanwhile

#ifdef __AVX512BF16__
constexpr bool MULTIPLIES_BF16 = true;
inline vec load(const bf16* p) {
    const __m256i half = _mm256_loadu_si256((const __m256i*)p);
    return as_floats(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline void store(bf16* p, vec x) {
    _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x));
}
inline words two_rows(const bf16* even, const bf16* odd) {  // word i: even[i] below odd[i]
    const words low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)even));
    const words high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)odd));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}
inline vec multiply_add(vec sum, words a, words b, bf16) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
#else
constexpr bool MULTIPLIES_BF16 = false;
#endif
