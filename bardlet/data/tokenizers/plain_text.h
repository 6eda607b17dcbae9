// Tells text that can be encoded as it is from text that needs a closer look; counts and looks up bytes.
#pragma once
#include "words.h"

// The bytes of the character of UTF-8 at `at`, 0 where there is none.
inline int whole_character(const byte* at, const byte* end) {
    const auto follows = [&](int i) { return (at[i] & 0xC0) == 0x80; };
    const byte c = *at;
    if (c < 0x80) return 1;
    if (c < 0xE0) return c >= 0xC2 && end - at > 1 && follows(1) ? 2 : 0;
    if (c < 0xF0) {
        if (end - at < 3 || !follows(1) || !follows(2)) return 0;
        // not one that two bytes hold, nor half a surrogate pair
        return (c == 0xE0 && at[1] < 0xA0) || (c == 0xED && at[1] >= 0xA0) ? 0 : 3;
    }
    if (c > 0xF4 || end - at < 4 || !follows(1) || !follows(2) || !follows(3)) return 0;
    return (c == 0xF0 && at[1] < 0x90) || (c == 0xF4 && at[1] >= 0x90) ? 0 : 4;
}

// Whether a line that begins at `sign`, a `<`, begins as the marks do that corpora have between
// documents.
inline bool is_mark(const byte* sign, const byte* text, const byte* end) {
    if (sign > text && sign[-1] != '\n') return false;
    return end - sign < 2 || sign[1] == '|' || sign[1] == '/' || sign[1] == 'e';
}

#if defined(__SSE2__) || defined(_M_X64)
// `plain_characters` of the bytes from `at` on, 16 at a time, with at least three before them and
// one after them; moves `at` behind the last that were looked at.
inline long plain_sixteens(const byte*& at, const byte* text, const byte* end) {
    const auto all = [](int value) { return _mm_set1_epi8(char(value)); };
    const auto is = [&](__m128i c, int value) { return _mm_cmpeq_epi8(c, all(value)); };
    // as signed bytes
    const auto below = [&](__m128i c, int value) { return _mm_cmplt_epi8(c, all(value)); };
    const auto above = [&](__m128i c, int value) { return _mm_subs_epu8(c, all(value)); };  // or 0
    const auto load = [](const byte* from) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    };
    const __m128i zero = _mm_setzero_si128();
    long characters = 0;
    for (; end - at > 16; at += 16) {
        const __m128i c = load(at), before = load(at - 1);
        __m128i bad = _mm_or_si128(is(c, 0), is(c, '\r'));
        const __m128i signs = _mm_and_si128(is(c, '<'), is(before, '\n'));
        if (_mm_movemask_epi8(_mm_or_si128(c, load(at - 3)))) {
            const __m128i following = below(c, -64);  // 80 to BF
            // where a byte has to follow
            const __m128i second = above(before, 0xBF), third = above(load(at - 2), 0xDF);
            const __m128i fourth = above(load(at - 3), 0xEF);
            const __m128i needed = _mm_or_si128(second, _mm_or_si128(third, fourth));
            bad = _mm_or_si128(bad, _mm_cmpeq_epi8(_mm_cmpeq_epi8(needed, zero), following));
            // characters that fewer bytes hold, halves of surrogate pairs, and beyond the last
            const __m128i narrow = below(c, -96), narrower = below(c, -112);  // to 9F, to 8F
            bad = _mm_or_si128(bad, _mm_and_si128(is(before, 0xE0), narrow));
            bad = _mm_or_si128(bad, _mm_andnot_si128(narrow, is(before, 0xED)));
            bad = _mm_or_si128(bad, _mm_and_si128(is(before, 0xF0), narrower));
            bad = _mm_or_si128(bad, _mm_andnot_si128(narrower, is(before, 0xF4)));
            bad = _mm_or_si128(bad, is(_mm_and_si128(c, all(0xFE)), 0xC0));
            bad = _mm_or_si128(bad, _mm_cmpeq_epi8(c, _mm_max_epu8(c, all(0xF5))));
            const __m128i sums = _mm_sad_epu8(_mm_sub_epi8(zero, following), zero);
            characters -= _mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4);
        }
        characters += 16;
        if (_mm_movemask_epi8(bad)) return -1;
        for (int left = _mm_movemask_epi8(signs); left; left &= left - 1)
            if (is_mark(at + lowest_bit(uint64_t(left)), text, end)) return -1;
    }
    return characters;
}
#endif

// The number of characters of a text, -1 where it is not UTF-8, has a NUL or a carriage return, or
// a line that begins as the marks do that corpora have between documents.
inline long plain_characters(const byte* text, long bytes) {
    const byte *at = text, *end = text + bytes;
    long characters = 0;
    while (at < end) {
#if defined(__SSE2__) || defined(_M_X64)
        if (at - text > 2 && end - at > 16) {
            const long plain = plain_sixteens(at, text, end);
            if (plain < 0) return -1;
            characters += plain - 1;  // the last of these may go on
            while ((*--at & 0xC0) == 0x80) {}
        }
#endif
        const int size = whole_character(at, end);
        if (!size || !*at || *at == '\r' || (*at == '<' && is_mark(at, text, end))) return -1;
        characters++;
        at += size;
    }
    return characters;
}

// Add to `counts` how often each byte is there, in four tables: in one, equal neighbours would wait
// for each other.
inline void count_bytes(const byte* text, long bytes, int64_t* counts) {
    std::vector<int64_t> tables(4 * 256);
    long at = 0;
    for (; at + 4 <= bytes; at += 4)
        for (int i = 0; i < 4; i++) tables[256 * i + text[at + i]]++;
    for (; at < bytes; at++) tables[text[at]]++;
    for (int i = 0; i < 4 * 256; i++) counts[i % 256] += tables[i];
}

// The entry of `table` for each byte; false where one has none, which is 0xFFFF.
inline bool look_up_bytes(const byte* text, long bytes, const uint16_t* table, uint16_t* ids) {
    bool all = true;
    for (long at = 0; at < bytes; at++) {
        ids[at] = table[text[at]];
        all &= ids[at] != 0xFFFF;
    }
    return all;
}
