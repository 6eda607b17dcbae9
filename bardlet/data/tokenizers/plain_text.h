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

// The number of characters of a text, -1 where it is not UTF-8, has a NUL or a carriage return, or
// a line that begins as the marks do that corpora have between documents.
inline long plain_characters(const byte* text, long bytes) {
    const byte *at = text, *end = text + bytes;
    const auto is_mark = [&](const byte* sign) {
        if (sign > text && sign[-1] != '\n') return false;
        return end - sign < 2 || sign[1] == '|' || sign[1] == '/' || sign[1] == 'e';
    };
    long characters = 0;
    while (at < end) {
#if defined(__SSE2__) || defined(_M_X64)
        for (; end - at >= 16; at += 16, characters += 16) {
            const __m128i c = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
            const auto is = [&](char value) { return _mm_cmpeq_epi8(c, _mm_set1_epi8(value)); };
            if (_mm_movemask_epi8(c)) break;
            if (_mm_movemask_epi8(_mm_or_si128(is(0), is('\r')))) return -1;
            for (int signs = _mm_movemask_epi8(is('<')); signs; signs &= signs - 1)
                if (is_mark(at + lowest_bit(uint64_t(signs)))) return -1;
        }
#endif
        // up to the next run of ASCII
        for (int plain = 0; at < end && plain < 16; characters++) {
            const int size = whole_character(at, end);
            if (!size || !*at || *at == '\r' || (*at == '<' && is_mark(at))) return -1;
            plain = size == 1 ? plain + 1 : 0;
            at += size;
        }
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
