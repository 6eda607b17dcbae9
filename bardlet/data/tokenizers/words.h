// Splits a text into words as the patterns of patterns.py do, one alternative after the other.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "unicode_classes.h"
#if defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
#endif
#ifdef _MSC_VER
#include <intrin.h>
#endif

using byte = uint8_t;

// What a character is. Most scripts have no capitals: their letters are UPPER and LOWER, and so are
// marks, such as accents.
enum : byte { UPPER = 1, LOWER = 2, NUMBER = 4, SPACE = 8, MARK = 16, ALTERNATING = 32 };

enum Pattern { GPT2, CL100K, LLAMA3, O200K };

// The bits of every code point.
inline const byte* classes() {
    static const std::vector<byte> table = [] {
        std::vector<byte> bits(0x110000);
        const size_t runs = sizeof(CLASS_RUNS) / sizeof(*CLASS_RUNS);
        for (size_t i = 0; i < runs; i++) {
            const size_t first = CLASS_RUNS[i] >> 8;
            const size_t end = i + 1 < runs ? CLASS_RUNS[i + 1] >> 8 : bits.size();
            const byte kind = CLASS_RUNS[i] & (ALTERNATING - 1);
            const byte other = CLASS_RUNS[i] & ALTERNATING ? kind ^ (UPPER | LOWER) : kind;
            for (size_t at = first; at < end; at++) bits[at] = (at - first) % 2 ? other : kind;
        }
        return bits;
    }();
    return table.data();
}

inline int lowest_bit(uint64_t bits) {
#ifdef _MSC_VER
    unsigned long at;
    _BitScanForward64(&at, bits);
    return int(at);
#else
    return __builtin_ctzll(bits);
#endif
}

// What 64 bytes of ASCII are, a bit each; `other` has those that are not ASCII.
struct Masks {
    uint64_t letters = 0, numbers = 0, spaces = 0, blanks = 0, quotes = 0, other = 0;
    explicit Masks(const byte* at) {
#if defined(__SSE2__) || defined(_M_X64)
        const auto all = [](int c) { return _mm_set1_epi8(char(c)); };
        for (int part = 0; part < 64; part += 16) {
            const __m128i c = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + part));
            const auto add = [&](uint64_t& mask, __m128i bits) {
                mask |= uint64_t(unsigned(_mm_movemask_epi8(bits))) << part;
            };
            // below `count` after taking away `first`, both as unsigned bytes
            const auto within = [&](__m128i value, int first, int count) {
                const __m128i from = _mm_sub_epi8(value, all(first + 128));
                return _mm_cmplt_epi8(from, all(count - 128));
            };
            const __m128i blank = _mm_cmpeq_epi8(c, all(' '));
            add(letters, within(_mm_or_si128(c, all(0x20)), 'a', 26));
            add(numbers, within(c, '0', 10));
            add(blanks, blank);
            add(spaces, _mm_or_si128(blank, within(c, '\t', 5)));
            add(quotes, _mm_cmpeq_epi8(c, all('\'')));
            add(other, c);
        }
#else
        const byte* kinds = classes();
        for (int i = 0; i < 64; i++) {
            const byte c = at[i], kind = c < 0x80 ? kinds[c] : 0;
            letters |= uint64_t((kind & (UPPER | LOWER)) != 0) << i;
            numbers |= uint64_t((kind & NUMBER) != 0) << i;
            spaces |= uint64_t((kind & SPACE) != 0) << i;
            blanks |= uint64_t(c == ' ') << i;
            quotes |= uint64_t(c == '\'') << i;
            other |= uint64_t(c >> 7) << i;
        }
#endif
    }
};

class Splitter {
  public:
    Splitter(Pattern pattern, const byte* end) : kinds(classes()), pattern(pattern), end(end) {}

    // The end of the word that begins at `at`, which is not the end of the text.
    const byte* word(const byte* at) const {
        if (pattern == GPT2) return word_gpt2(at);
        return pattern == O200K ? word_o200k(at) : word_cl100k(at);
    }

    // Put the ends of the words from `at` on into `ends`, at least one and up to 64; returns how
    // many.
    int words(const byte* at, const byte** ends) const {
        if (pattern == GPT2 && end - at > 64)
            if (const int count = words_gpt2(at, ends)) return count;
        *ends = word(at);
        return 1;
    }

  private:
    const byte* kinds;
    Pattern pattern;
    const byte* end;

    static uint32_t point(const byte* at) {
        if (*at < 0x80) return *at;
        if (*at < 0xE0) return (*at & 0x1F) << 6 | (at[1] & 0x3F);
        if (*at < 0xF0) return (*at & 0x0F) << 12 | (at[1] & 0x3F) << 6 | (at[2] & 0x3F);
        return (*at & 0x07) << 18 | (at[1] & 0x3F) << 12 | (at[2] & 0x3F) << 6 | (at[3] & 0x3F);
    }
    static const byte* next(const byte* at) {
        return at + (*at < 0x80 ? 1 : *at < 0xE0 ? 2 : *at < 0xF0 ? 3 : 4);
    }
    byte kind(const byte* at) const { return at < end ? kinds[point(at)] : 0; }
    static bool is_line(byte c) { return c == '\n' || c == '\r'; }
    // A mark belongs to words of O200K, but does not begin one where something else could.
    static bool is_letter(byte kind) { return kind & (UPPER | LOWER) && !(kind & MARK); }
    bool is_sign(const byte* at) const {
        const byte k = kind(at);
        return at < end && !(k & (NUMBER | SPACE)) && !is_letter(k);
    }

    const byte* word_gpt2(const byte* at) const {
        if (*at == '\'') {
            const byte a = end - at > 1 ? at[1] : 0, b = end - at > 2 ? at[2] : 0;
            if (a == 's' || a == 'd' || a == 'm' || a == 't') return at + 2;
            if ((a == 'l' && b == 'l') || (b == 'e' && (a == 'v' || a == 'r'))) return at + 3;
        }
        const byte* to = *at == ' ' ? at + 1 : at;
        const byte first = kind(to);
        if (is_letter(first)) {
            do to = next(to);
            while (is_letter(kind(to)));
        } else if (first & NUMBER) {
            do to = next(to);
            while (kind(to) & NUMBER);
        } else if (to < end && !(first & SPACE)) {
            do to = next(to);
            while (is_sign(to));
        } else {
            const byte* last = at;
            for (to = at; kind(to) & SPACE; to = next(to)) last = to;
            if (to < end && last > at) to = last;
        }
        return to;
    }

    // Those of the 64 bytes from `at` on whose ends do not depend on what follows these.
    int words_gpt2(const byte* at, const byte** ends) const {
        Masks is(at);
        const int known = is.other ? add_others(is, at) : 64;
        if (known < 3) return 0;
        const auto changes = [](uint64_t mask) { return mask ^ mask << 1; };
        const uint64_t last = is.spaces & ~(is.spaces >> 1);  // of white space
        uint64_t begins = changes(is.letters) | changes(is.numbers) | changes(is.spaces);
        begins = (begins | last | 1) & ~((last & is.blanks) << 1);
        for (uint64_t rest = begins & is.quotes; rest; rest &= rest - 1) {
            const int i = lowest_bit(rest);
            if (i + 2 >= known) break;
            const int size = int(word_gpt2(at + i) - (at + i));
            const byte c = at[i + 1] | 0x20;
            if (c < 'a' || c > 'z' || size < 2) continue;
            begins &= ~(uint64_t(2) << i);
            if (i + size < 64) begins |= uint64_t(1) << (i + size);
        }
        begins &= ~uint64_t(1) & (~uint64_t(0) >> (65 - known));  // up to known - 2
        int count = 0;
        for (; begins; begins &= begins - 1) ends[count++] = at + lowest_bit(begins);
        return count;
    }

    // Add what the characters are that are not ASCII, all their bytes; returns how many bytes are
    // known: up to white space, or to one that goes on after the 64.
    int add_others(Masks& is, const byte* at) const {
        for (uint64_t rest = is.other; rest;) {
            const int i = lowest_bit(rest), size = int(next(at + i) - (at + i));
            const byte k = kinds[point(at + i)];
            if (i + size > 64 || k & SPACE) return i;
            const uint64_t bits = ((uint64_t(1) << size) - 1) << i;
            is.letters |= is_letter(k) ? bits : 0;
            is.numbers |= k & NUMBER ? bits : 0;
            rest &= ~bits;
        }
        return 64;
    }

    const byte* word_cl100k(const byte* at) const {
        if (const byte* to = contraction(at); to != at) return to;
        const byte first = kind(at);
        if (first & NUMBER) return numbers(at);
        const byte* to = is_letter(first) || is_line(*at) ? at : next(at);
        const byte* from = to;
        while (is_letter(kind(to))) to = next(to);
        if (to != from) return to;
        if ((to = signs(*at == ' ' ? at + 1 : at))) return to;
        return spaces(at);
    }

    const byte* word_o200k(const byte* at) const {
        const byte first = kind(at);
        if (first & NUMBER) return numbers(at);
        if (is_letter(first)) return letters(at);
        if (!is_line(*at))  // one character of another kind may stand before letters
            if (const byte* to = letters(next(at), !(first & MARK))) return to;
        if (first & MARK) return letters(at);
        if (const byte* to = signs(*at == ' ' ? at + 1 : at)) return to;
        return spaces(at);
    }

    const byte* numbers(const byte* at) const {
        const byte* to = next(at);
        for (int i = 1; i < 3 && kind(to) & NUMBER; i++) to = next(to);
        return to;
    }

    // Letters of O200K: any capitals and then small ones, or capitals alone; a contraction may
    // follow.
    const byte* letters(const byte* at, bool alone = true) const {
        const byte *to = at, *small = nullptr;  // the end of the last that is both
        byte k = kind(to);
        for (; k & UPPER; k = kind(to)) {
            to = next(to);
            if (k & LOWER) small = to;
        }
        if (k & LOWER)
            while (kind(to) & LOWER) to = next(to);
        else if (small) to = small;
        else if (to == at || !alone) return nullptr;
        return contraction(to);
    }

    const byte* contraction(const byte* at) const {
        if (at >= end || *at != '\'') return at;
        const ptrdiff_t left = end - at;
        const byte a = left > 1 ? at[1] | 0x20 : 0, b = left > 2 ? at[2] | 0x20 : 0;
        if (a == 's' || a == 't' || a == 'm' || a == 'd') return at + 2;
        if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
            return at + 3;
        return left > 2 && at[1] == 0xC5 && at[2] == 0xBF ? at + 3 : at;  // the long s
    }

    const byte* signs(const byte* at) const {
        const byte* to = at;
        while (is_sign(to)) to = next(to);
        if (to == at) return nullptr;
        while (to < end && (is_line(*to) || (pattern == O200K && *to == '/'))) to++;
        return to;
    }

    // White space: up to the last end of a line in it, else all but the last before a word.
    const byte* spaces(const byte* at) const {
        const byte *to = at, *last = at, *line = nullptr;
        while (kind(to) & SPACE) {
            last = to;
            if (is_line(*to)) line = to + 1;
            to = next(to);
        }
        if (to >= end && pattern == CL100K) return to;
        return line ? line : to >= end || last == at ? to : last;
    }
};
