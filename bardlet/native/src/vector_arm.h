// vector.h for 64-bit Arm: two registers of NEON as one, so that a tile's sums take 16 of the 32.
#pragma once
#include <arm_neon.h>

constexpr int W = 8;  // floats in both
struct vec {
    float32x4_t a, b;
    float operator[](int i) const { return i < 4 ? a[i] : b[i - 4]; }
};
struct words {  // W words of 32 bits: a float or two bf16 each
    int32x4_t a, b;
};
inline vec operator+(vec x, vec y) { return {x.a + y.a, x.b + y.b}; }
inline vec operator-(vec x, vec y) { return {x.a - y.a, x.b - y.b}; }
inline vec operator*(vec x, vec y) { return {x.a * y.a, x.b * y.b}; }
inline vec operator/(vec x, vec y) { return {x.a / y.a, x.b / y.b}; }
inline vec operator-(vec x) { return {-x.a, -x.b}; }
inline vec& operator+=(vec& x, vec y) { return x = x + y; }
inline vec& operator*=(vec& x, vec y) { return x = x * y; }

inline vec load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
inline void store(float* p, vec x) { vst1q_f32(p, x.a), vst1q_f32(p + 4, x.b); }
inline words load_words(const void* p) {
    const uint8x16_t a = vld1q_u8((const uint8_t*)p), b = vld1q_u8((const uint8_t*)p + 16);
    return {vreinterpretq_s32_u8(a), vreinterpretq_s32_u8(b)};
}
inline void store_words(void* p, words x) {
    vst1q_u8((uint8_t*)p, vreinterpretq_u8_s32(x.a));
    vst1q_u8((uint8_t*)p + 16, vreinterpretq_u8_s32(x.b));
}
inline words broadcast(int32_t x) { return {vdupq_n_s32(x), vdupq_n_s32(x)}; }
inline vec as_floats(words x) {
    return {vreinterpretq_f32_s32(x.a), vreinterpretq_f32_s32(x.b)};
}
inline vec set1(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
inline vec fma(vec a, vec b, vec c) { return {vfmaq_f32(c.a, a.a, b.a), vfmaq_f32(c.b, a.b, b.b)}; }
inline vec max(vec a, vec b) {  // b where one is NaN
    return {vbslq_f32(vcgtq_f32(a.a, b.a), a.a, b.a), vbslq_f32(vcgtq_f32(a.b, b.b), a.b, b.b)};
}
inline vec min(vec a, vec b) {
    return {vbslq_f32(vcltq_f32(a.a, b.a), a.a, b.a), vbslq_f32(vcltq_f32(a.b, b.b), a.b, b.b)};
}
inline vec sqrt(vec x) { return {vsqrtq_f32(x.a), vsqrtq_f32(x.b)}; }
inline vec round(vec x) { return {vrndnq_f32(x.a), vrndnq_f32(x.b)}; }
inline vec times_power_of_two(vec x, vec n) {
    const auto power = [](float32x4_t n) {
        return vreinterpretq_f32_s32(vshlq_n_s32(vcvtnq_s32_f32(n) + vdupq_n_s32(127), 23));
    };
    return {x.a * power(n.a), x.b * power(n.b)};
}
inline vec add_to_exponent(vec x, vec n) {  // x times two to the power of n's low bits
    const auto add = [](float32x4_t x, float32x4_t n) {
        const int32x4_t power = vshlq_n_s32(vreinterpretq_s32_f32(n), 23);
        return vreinterpretq_f32_s32(vreinterpretq_s32_f32(x) + power);
    };
    return {add(x.a, n.a), add(x.b, n.b)};
}
inline vec reciprocal(vec x) { return set1(1.0f) / x; }
inline float hsum(vec x) { return vaddvq_f32(x.a + x.b); }
inline float hmax(vec x) { return vmaxvq_f32(vmaxq_f32(x.a, x.b)); }
inline vec abs(vec x) { return {vabsq_f32(x.a), vabsq_f32(x.b)}; }
inline vec or_sign(vec x, vec y) {  // x, its sign bit set where y's is
    const auto set = [](float32x4_t x, float32x4_t y) {
        const uint32x4_t sign = vreinterpretq_u32_f32(y) & vdupq_n_u32(1u << 31);
        return vreinterpretq_f32_u32(vreinterpretq_u32_f32(x) | sign);
    };
    return {set(x.a, y.a), set(x.b, y.b)};
}
inline vec to_floats(words x) { return {vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b)}; }
inline vec load_halves(const uint16_t* p) {  // W floats of 16 bits
    const float16x8_t x = vreinterpretq_f16_u16(vld1q_u16(p));
    return {vcvt_f32_f16(vget_low_f16(x)), vcvt_high_f32_f16(x)};
}
inline uint16_t half_bits(float x) {
    return vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(x))), 0);
}
inline words load_bytes(const int8_t* p) {  // 2 W of them, each as 16 bits
    const int8x16_t x = vld1q_s8(p);
    return {vreinterpretq_s32_s16(vmovl_s8(vget_low_s8(x))),
            vreinterpretq_s32_s16(vmovl_high_s8(x))};
}
inline words load_bytes(const uint8_t* p) {
    const uint8x16_t x = vld1q_u8(p);
    return {vreinterpretq_s32_u16(vmovl_u8(vget_low_u8(x))),
            vreinterpretq_s32_u16(vmovl_high_u8(x))};
}
inline words low_nibbles(words x) {
    return {x.a & vdupq_n_s32(0x000f000f), x.b & vdupq_n_s32(0x000f000f)};
}
inline words high_nibbles(words x) {
    const auto shift = [](int32x4_t x) {
        return vreinterpretq_s32_u16(vshrq_n_u16(vreinterpretq_u16_s32(x), 4));
    };
    return {shift(x.a), shift(x.b)};
}
inline void store_nearest(int16_t* p, vec x) {
    vst1q_s16(p, vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(x.a)), vcvtnq_s32_f32(x.b)));
}

// sum + a.b of the two 16-bit integers that each word of a and of b holds.
inline words multiply_add(words sum, words a, words b) {
    const auto add = [](int32x4_t sum, int32x4_t a, int32x4_t b) {
        const int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
        const int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y));
        return sum + vpaddq_s32(low, vmull_high_s16(x, y));
    };
    return {add(sum.a, a.a, b.a), add(sum.b, a.b, b.b)};
}

inline void pause_spinning() { __asm__ volatile("yield"); }

#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
constexpr bool MULTIPLIES_BF16 = true;
inline vec load(const bf16* p) {
    const uint16x8_t x = vld1q_u16(&p->bits), zero = vdupq_n_u16(0);
    return {vreinterpretq_f32_u16(vzip1q_u16(zero, x)), vreinterpretq_f32_u16(vzip2q_u16(zero, x))};
}
inline void store(bf16* p, vec x) {
    const bfloat16x8_t y = vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(x.a), x.b);
    vst1q_u16(&p->bits, vreinterpretq_u16_bf16(y));
}
inline words two_rows(const bf16* even, const bf16* odd) {  // word i: even[i] below odd[i]
    const uint16x8_t low = vld1q_u16(&even->bits), high = vld1q_u16(&odd->bits);
    return {vreinterpretq_s32_u16(vzip1q_u16(low, high)),
            vreinterpretq_s32_u16(vzip2q_u16(low, high))};
}
inline vec multiply_add(vec sum, words a, words b, bf16) {
    const auto add = [](float32x4_t sum, int32x4_t a, int32x4_t b) {
        return vbfdotq_f32(sum, vreinterpretq_bf16_s32(a), vreinterpretq_bf16_s32(b));
    };
    return {add(sum.a, a.a, b.a), add(sum.b, a.b, b.b)};
}
#else
constexpr bool MULTIPLIES_BF16 = false;
#endif
