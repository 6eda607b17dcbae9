// Encodes text with a byte-level BPE: its words are looked up among those met before, and merged
// pair by pair where they are new.
//
// bpe_encoding.py is its only caller. Where this is not compiled, the tokenizers library has the
// same ids.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <new>
#include <queue>
#include <string>
#include <unordered_map>
#include <utility>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "plain_text.h"
#include "words.h"

namespace {

const uint32_t NONE = ~uint32_t(0);

inline void prefetch(const void* at) {
#ifndef _MSC_VER
    __builtin_prefetch(at);
#endif
}

inline uint64_t load(const byte* at) {
    uint64_t word;
    std::memcpy(&word, at, 8);
    return word;
}

inline uint64_t mixed(uint64_t a, uint64_t b) {
    const uint64_t hash = a * 0x9E3779B97F4A7C15 ^ (b + (a >> 32)) * 0xC2B2AE3D27D4EB4F;
    return (hash ^ hash >> 29) * 0x165667B19E3779F9;
}

// Memory in pages of 2 MB where the system has them: what is read at random waits less for it.
template <class T>
struct LargePages {
    using value_type = T;
    LargePages() = default;
    template <class U>
    explicit LargePages(const LargePages<U>&) {}
    T* allocate(size_t count) {
        const size_t page = size_t(1) << 21, size = (count * sizeof(T) + page - 1) & ~(page - 1);
        void* at = std::aligned_alloc(page, size);
        if (!at) throw std::bad_alloc();
#ifdef __linux__
        madvise(at, size, MADV_HUGEPAGE);
#endif
        return static_cast<T*>(at);
    }
    void deallocate(T* at, size_t) { std::free(at); }
    bool operator==(const LargePages&) const { return true; }
    bool operator!=(const LargePages&) const { return false; }
};
template <class T>
using Table = std::vector<T, LargePages<T>>;

// Which pair of tokens makes which other: ranks by both ids, in a hash table where each pair has a
// place of its own, since the pairs of a bucket are shifted together to where all places are free
// (Belazzougui, Botelho and Dietzfelbinger 2009, "Hash, displace, and compress"): one look tells.
// A slot has 21 bits of each id and 22 of the rank.
class Merges {
  public:
    static const uint32_t NO_ID = (1 << 21) - 1;  // of no token

    // `merges` has left, right and made for each rank; of equal pairs the last counts.
    // `joints` says for each two bytes whether a token has them side by side, `wide_joints` for the
    // last two bytes of a character and the first of one of three bytes, six, six and four bits of
    // them.
    Merges(const int32_t* merges, long count, const byte* joints, const byte* wide_joints,
           const int32_t* of_bytes)
        : joints(joints, joints + 65536), wide_joints(wide_joints, wide_joints + 65536),
          of_two(65536) {
        std::vector<uint64_t> filled(count);
        for (long rank = 0; rank < count; rank++) {
            filled[rank] = key_of(merges[3 * rank], merges[3 * rank + 1]) | uint64_t(rank);
            made.push_back(merges[3 * rank + 2]);
        }
        std::sort(filled.begin(), filled.end(), std::greater<uint64_t>());
        const auto same = [](uint64_t a, uint64_t b) { return (a ^ b) >> 22 == 0; };
        filled.erase(std::unique(filled.begin(), filled.end(), same), filled.end());
        while (5 * filled.size() > size_t(4) << bits) bits++;
        while (!place_all(filled))
            if (++bits > 24) throw std::bad_alloc();
        for (int two = 0; two < 65536; two++)
            of_two[two] = rank(of_bytes[two >> 8], of_bytes[two & 255]);
    }
    // Of the tokens of two bytes.
    uint32_t rank_of_bytes(byte left, byte right) const { return of_two[left << 8 | right]; }
    // The rank of a pair, NONE where it makes no token.
    uint32_t rank(uint32_t left, uint32_t right) const {
        const uint64_t key = key_of(left, right), hash = hash_of(key);
        const uint64_t slot = slots[place_of(hash, shifts[bucket_of(hash)])];
        return (slot ^ key) >> 22 ? NONE : uint32_t(slot & MAX_RANK);
    }
    uint32_t of_rank(uint32_t rank) const { return made[rank]; }
    // Whether a token may span the two bytes beside `border`.
    bool may_join(const byte* border) const { return joints[border[-1] << 8 | *border]; }
    // The same, where two bytes are known before it.
    bool may_join_wide(const byte* border) const {
        if ((*border & 0xF0) != 0xE0) return may_join(border);
        return wide_joints[(border[-2] & 63) << 10 | (border[-1] & 63) << 4 | (*border & 15)];
    }

  private:
    static const uint64_t MAX_RANK = (1 << 22) - 1, EMPTY = ~uint64_t(0);
    static const int PER_BUCKET = 3;  // the logarithm of places for each bucket
    int bits = 10;
    Table<uint64_t> slots;
    std::vector<uint16_t> shifts;  // by bucket, odd
    std::vector<uint32_t> made;
    std::vector<bool> joints, wide_joints;
    std::vector<uint32_t> of_two;

    static uint64_t key_of(uint64_t left, uint64_t right) { return left << 43 | right << 22; }
    static uint64_t hash_of(uint64_t key) { return key * 0x9E3779B97F4A7C15; }
    size_t bucket_of(uint64_t hash) const { return hash >> (64 + PER_BUCKET - bits); }
    size_t place_of(uint64_t hash, uint64_t shift) const {
        return (hash ^ hash >> 32) * shift >> (64 - bits);
    }

    // Fill the table; false where a bucket has no shift that all its places are free with.
    bool place_all(const std::vector<uint64_t>& filled) {
        slots.assign(size_t(1) << bits, uint64_t(EMPTY));
        shifts.assign(slots.size() >> PER_BUCKET, 1);
        std::vector<std::vector<uint64_t>> buckets(shifts.size());
        for (const uint64_t slot : filled)
            buckets[bucket_of(hash_of(slot & ~MAX_RANK))].push_back(slot);
        std::vector<uint32_t> order(buckets.size());
        for (size_t i = 0; i < order.size(); i++) order[i] = uint32_t(i);
        std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
            return buckets[a].size() > buckets[b].size();
        });
        for (const uint32_t i : order) {
            uint32_t shift = 1;
            while (!place(buckets[i], shift))
                if ((shift += 2) > 65535) return false;
            shifts[i] = uint16_t(shift);
        }
        return true;
    }
    bool place(const std::vector<uint64_t>& bucket, uint32_t shift) {
        size_t count = 0;
        const auto at = [&](uint64_t slot) -> uint64_t& {
            return slots[place_of(hash_of(slot & ~MAX_RANK), shift)];
        };
        while (count < bucket.size() && at(bucket[count]) == EMPTY) {
            at(bucket[count]) = bucket[count];
            count++;
        }
        if (count == bucket.size()) return true;
        while (count) at(bucket[--count]) = EMPTY;
        return false;
    }
};

// The words met before, each in the one place or two that its hash has: new ones drive old ones
// out, so that memory has a bound.
template <class Id>
class Cache {
  public:
    static const uint32_t SHORT = 15, LONG = 127;                        // bytes of a word
    static const uint32_t FEW = 16 / sizeof(Id) - 1, MANY = 64 / sizeof(Id) - 1;  // ids of a word

    struct ShortWord {  // the last byte is its size, the last of the ids their number
        uint64_t low, high;
        Id ids[FEW + 1];
        void keep(uint64_t its_low, uint64_t its_high, const Id* from, const Id* to) {
            low = its_low, high = its_high;
            std::copy(from, to, ids);
            ids[FEW] = Id(to - from);
        }
    };
    struct alignas(64) LongWord {
        Id ids[MANY + 1];
        byte size;
        byte bytes[LONG];
    };

    struct alignas(64) Pair {  // in one line of the processor's own memory
        ShortWord words[2];
    };

    struct Character {  // of three bytes; the last of the ids is their number
        Id ids[4];
    };

    Cache()
        : shorts(size_t(1) << SHORT_BITS),
          longs(size_t(1) << LONG_BITS),
          parts(size_t(1) << PART_BITS),
          characters(1 << 16) {}
    ShortWord* short_place(uint64_t hash) { return shorts[hash >> (64 - SHORT_BITS)].words; }
    LongWord* long_place(uint64_t hash) { return &longs[hash >> (64 - LONG_BITS)]; }
    // Of parts of words, mostly characters of scripts without spaces.
    ShortWord* part_place(uint64_t hash) { return &parts[hash >> (64 - PART_BITS)]; }
    Character* character_place(const byte* at) {
        return &characters[(at[0] & 15) << 12 | (at[1] & 63) << 6 | (at[2] & 63)];
    }

  private:
    static const int SHORT_BITS = 18, LONG_BITS = 16, PART_BITS = 13;
    Table<Pair> shorts;
    Table<LongWord> longs;
    std::vector<ShortWord> parts;
    std::vector<Character> characters;
};

class AnyEncoder {
  public:
    virtual ~AnyEncoder() = default;
    virtual long encode(const byte* text, const byte* end, void* out) = 0;
};

template <class Id>
class Encoder : public AnyEncoder {
  public:
    Encoder(Pattern pattern, const int32_t* of_bytes, const int32_t* merges, long count,
            const byte* joints, const byte* wide_joints,
            std::unordered_map<std::string, uint32_t> whole)
        : pattern(pattern), merges(merges, count, joints, wide_joints, of_bytes),
          whole(std::move(whole)) {
        std::copy(of_bytes, of_bytes + 256, of_byte);
        const auto mask = [](uint32_t n) {
            return n < 8 ? (uint64_t(1) << 8 * n) - 1 : ~uint64_t(0);
        };
        for (uint32_t n = 0; n <= SHORT; n++)
            first_bytes[n] = {mask(n), n > 8 ? mask(n - 8) : 0};
    }

    // Write the ids of a text to `out`, which has room for one a byte and 64 bytes more; returns
    // how many.
    long encode(const byte* at, const byte* end, void* to) override {
        Id* out = static_cast<Id*>(to);
        text_end = end;
        const Splitter splitter(pattern, end);
        const byte* ends[BATCH];
        Word words[BATCH];
        while (at < end) {
            int count = 0;
            const byte* split = at;
            while (count <= BATCH - 64 && split < end) {
                count += splitter.words(split, ends + count);
                split = ends[count - 1];
            }
            for (int i = 0; i < count; i++) {
                meet(words[i], at, uint32_t(ends[i] - at));
                at = ends[i];
            }
            for (int i = 0; i < count; i++) out = look_up(words[i], out);
        }
        return long(out - static_cast<Id*>(to));
    }

  private:
    static const int BATCH = 256;
    static const uint32_t SHORT = Cache<Id>::SHORT, LONG = Cache<Id>::LONG;
    static const uint32_t FEW = Cache<Id>::FEW, MANY = Cache<Id>::MANY;
    using ShortWord = typename Cache<Id>::ShortWord;
    using LongWord = typename Cache<Id>::LongWord;

    struct Word {
        const byte* text;
        uint32_t size;
        uint64_t low, high;  // its bytes, if it is short
        void* place;         // in the cache, null where it is not kept there
    };

    const Pattern pattern;
    uint32_t of_byte[256];
    const Merges merges;
    const std::unordered_map<std::string, uint32_t> whole;
    Cache<Id> cache;
    const byte* text_end = nullptr;  // of the text that is being encoded
    struct {
        uint64_t low, high;
    } first_bytes[SHORT + 1];  // masks of so many

    // Fills in a word; its place in the cache is on its way from memory then.
    void meet(Word& word, const byte* text, uint32_t size) {
        word.text = text, word.size = size, word.place = nullptr;
        if (*text >= 0xE0 && whole.empty() && is_apart(text, text + size)) return;
        if (size > SHORT) return meet_long(word);
        word.place = cache.short_place(meet_short(word, text, size));
        prefetch(word.place);
    }

    // Whether a word is of characters of three bytes that no token spans, as most of Chinese is:
    // they are looked up one by one sooner than the word, which is mostly new.
    bool is_apart(const byte* at, const byte* end) const {
        while (at < end && starts_apart(at, end)) at += 3;
        return at == end;
    }

    // Whether what follows here are one such character and then the end or another part.
    bool starts_apart(const byte* at, const byte* end) const {
        if ((*at & 0xF0) != 0xE0 || end - at < 3) return false;
        return end - at == 3 || !merges.may_join_wide(at + 3);
    }

    // Whether a token may span `border` in a word that begins at `word`.
    bool may_join(const byte* word, const byte* border) const {
        return border - word > 1 ? merges.may_join_wide(border) : merges.may_join(border);
    }

    // Its bytes as two numbers; returns their hash.
    uint64_t meet_short(Word& word, const byte* text, uint32_t size) {
        uint64_t low, high;
        if (text_end - text >= 16) {
            low = load(text), high = load(text + 8);
        } else {
            byte copy[16] = {};
            std::memcpy(copy, text, size);
            low = load(copy), high = load(copy + 8);
        }
        word.low = low & first_bytes[size].low;
        word.high = (high & first_bytes[size].high) | uint64_t(size) << 56;
        return mixed(word.low, word.high);
    }

    void meet_long(Word& word) {
        if (word.size > LONG) return;
        uint64_t hash = word.size;
        for (uint32_t i = 0; i + 8 < word.size; i += 8) hash = mixed(load(word.text + i), hash);
        if (word.size >= 8) hash = mixed(load(word.text + word.size - 8), hash);
        word.place = cache.long_place(hash);
        prefetch(word.place);
        prefetch(static_cast<byte*>(word.place) + 64);
    }

    Id* look_up(Word& word, Id* out) {
        if (!word.place) return merged(word, out);
        if (word.size > SHORT) return look_up_long(word, out);
        ShortWord* slots = static_cast<ShortWord*>(word.place);
        const auto differs = [&](int i) {
            return (slots[i].low ^ word.low) | (slots[i].high ^ word.high);
        };
        const ShortWord* slot = slots + !differs(1);  // nobody can predict a branch here
        if (slot->low == word.low && slot->high == word.high) {
            std::memcpy(out, slot->ids, 16);
            if (slot->ids[FEW] <= FEW) return out + slot->ids[FEW];
            meet_long(word);  // it has too many ids for a place among the short ones
            return look_up_long(word, out);
        }
        Id* to = merged(word, out);
        slots[1] = slots[0];
        slots->keep(word.low, word.high, out, std::min(to, out + FEW));
        if (to - out > long(FEW)) {
            slots->ids[FEW] = FEW + 1;
            meet_long(word);
            keep_long(word, out, to);
        }
        return to;
    }

    Id* look_up_long(const Word& word, Id* out) {
        const LongWord* slot = static_cast<LongWord*>(word.place);
        if (slot->size != word.size || std::memcmp(slot->bytes, word.text, word.size))
            return keep_long(word, out, merged(word, out));
        std::memcpy(out, slot->ids, 64);
        return out + slot->ids[MANY];
    }

    Id* keep_long(const Word& word, const Id* out, Id* to) {
        if (to - out > long(MANY)) return to;
        LongWord* slot = static_cast<LongWord*>(word.place);
        slot->size = byte(word.size);
        std::memcpy(slot->bytes, word.text, word.size);
        std::copy(out, static_cast<const Id*>(to), slot->ids);
        slot->ids[MANY] = Id(to - out);
        return to;
    }

    Id* merged(const Word& word, Id* out) {
        if (!whole.empty()) {
            const auto id = whole.find(std::string(word.text, word.text + word.size));
            if (id != whole.end()) return *out = Id(id->second), out + 1;
        }
        const byte *at = word.text, *end = at + word.size;
        while (at < end) {  // in parts that no token spans
            if (starts_apart(at, end)) {
                out = character(at, out);
                at += 3;
                continue;
            }
            const byte* to = at + 1;
            while (to < end && may_join(word.text, to)) to++;
            out = part(at, uint32_t(to - at), word, out);
            at = to;
        }
        return out;
    }

    Id* character(const byte* at, Id* out) {
        auto* place = cache.character_place(at);
        if (!place->ids[3]) place->ids[3] = Id(merged_short(at, 3, place->ids) - place->ids);
        std::memcpy(out, place->ids, sizeof(*place));
        return out + place->ids[3];
    }

    Id* part(const byte* text, uint32_t size, const Word& word, Id* out) {
        if (size > SHORT || size == word.size) return merged_short(text, size, out);
        Word part;
        const uint64_t hash = meet_short(part, text, size);
        ShortWord* slot = cache.part_place(hash);
        if (slot->low == part.low && slot->high == part.high) {
            std::memcpy(out, slot->ids, 16);
            return out + slot->ids[FEW];
        }
        Id* to = merged_short(text, size, out);
        if (to - out <= long(FEW)) slot->keep(part.low, part.high, out, to);
        return to;
    }

    Id* merged_short(const byte* text, uint32_t size, Id* out) {
        if (size <= 6) return merged_in<8>(text, size, out);
        if (size <= 10) return merged_in<12>(text, size, out);
        if (size <= 14) return merged_in<16>(text, size, out);
        if (size <= 30) return merged_in<32>(text, size, out);
        return size <= 62 ? merged_in<64>(text, size, out) : merged_long(text, size, out);
    }

    // Merge the pair of the lowest rank, of equals the first, until none makes a token. Each part
    // stays in the lane of its first byte. The lane after the word and the last of all have no
    // token, so that the first and the last part have neighbours too: there is little to branch on.
    template <int LANES>
    Id* merged_in(const byte* text, uint32_t size, Id* out) {
        const int32_t never = INT32_MAX;
        int32_t keys[LANES];  // rank << 6 | lane, of a part with the one after it
        uint32_t ids[LANES];
        byte before[LANES], after[LANES];
        const auto key = [&](uint32_t rank, uint32_t lane) {
            return rank == NONE ? never : int32_t(rank << 6 | lane);
        };
        std::fill(keys, keys + LANES, never);
        for (uint32_t i = 0; i < size; i++) {
            ids[i] = of_byte[text[i]];
            before[i] = byte(i - 1), after[i] = byte(i + 1);
            if (i + 1 < size) keys[i] = key(merges.rank_of_bytes(text[i], text[i + 1]), i);
        }
        before[0] = LANES - 1;
        ids[size] = ids[LANES - 1] = Merges::NO_ID;
        while (true) {
            int32_t lowest = never;
            for (int i = 0; i < LANES; i++) lowest = std::min(lowest, keys[i]);
            if (lowest == never) break;
            const uint32_t lane = lowest & 63, right = after[lane], next = after[right];
            const uint32_t left = before[lane];
            ids[lane] = merges.of_rank(uint32_t(lowest) >> 6);
            after[lane] = byte(next), before[next] = byte(lane);
            keys[right] = never;
            keys[lane] = key(merges.rank(ids[lane], ids[next]), lane);
            keys[left] = key(merges.rank(ids[left], ids[lane]), left);
        }
        for (uint32_t lane = 0; lane != size; lane = after[lane]) *out++ = Id(ids[lane]);
        return out;
    }

    // The same with a queue, for words of any length.
    Id* merged_long(const byte* text, uint32_t size, Id* out) {
        struct Part {
            uint32_t id, before, after;  // the places of its neighbours
        };
        using Job = std::pair<uint32_t, uint32_t>;  // rank, place of the left part
        std::vector<Part> parts(size);
        std::priority_queue<Job, std::vector<Job>, std::greater<Job>> queue;
        const auto rank_at = [&](uint32_t at) {
            const uint32_t after = parts[at].after;
            return after == NONE ? NONE : merges.rank(parts[at].id, parts[after].id);
        };
        const auto add = [&](uint32_t at) {
            if (const uint32_t rank = rank_at(at); rank != NONE) queue.push({rank, at});
        };
        for (uint32_t i = 0; i < size; i++)
            parts[i] = {of_byte[text[i]], i - 1, i + 1 < size ? i + 1 : NONE};
        for (uint32_t i = 0; i + 1 < size; i++) add(i);
        while (!queue.empty()) {
            const auto [rank, at] = queue.top();
            queue.pop();
            // its parts may be others by now
            if (parts[at].id == NONE || rank_at(at) != rank) continue;
            Part& part = parts[at];
            Part& gone = parts[part.after];
            part.id = merges.of_rank(rank);
            gone.id = NONE;
            part.after = gone.after;
            if (part.after != NONE) parts[part.after].before = at;
            add(at);
            if (part.before != NONE) add(part.before);
        }
        for (uint32_t at = 0; at != NONE; at = parts[at].after) *out++ = Id(parts[at].id);
        return out;
    }
};

}  // namespace

extern "C" {

// A hash of the sources that this was compiled from: what loads it compares.
const char* bardlet_source() { return BARDLET_SOURCE; }

// What words.h knows of each code point, for tests.
const byte* bardlet_classes() { return classes(); }

// See plain_text.h.
long bardlet_plain_characters(const byte* text, long bytes) {
    return plain_characters(text, bytes);
}

// See plain_text.h; `counts` has 256.
void bardlet_count_bytes(const byte* text, long bytes, int64_t* counts) {
    count_bytes(text, bytes, counts);
}

// See plain_text.h; `table` has 256.
int bardlet_look_up(const byte* text, long bytes, const uint16_t* table, uint16_t* ids) {
    return look_up_bytes(text, bytes, table, ids);
}

// An encoder, or null where there is no memory for it. `of_bytes` has the id of each byte, `merges`
// left, right and made of `count` merges in the order of their ranks, `joints` a 1 for each two
// bytes, 256 * left + right, that a merge has on either side, `wide_joints` the same of the last
// two bytes on the left, if they are two, and the first on the right, as `Merges` has it; a word
// that is one of the `tokens`, whose bytes end at `ends` in `spelt` and which have the ids `ids`,
// is not merged.
void* bardlet_encoder_new(int pattern, int narrow, const int32_t* of_bytes, const int32_t* merges,
                          long count, const byte* joints, const byte* wide_joints,
                          const char* spelt, const int64_t* ends, const int32_t* ids, long tokens) {
    try {
        std::unordered_map<std::string, uint32_t> whole;
        for (long i = 0; i < tokens; i++)
            whole[std::string(spelt + (i ? ends[i - 1] : 0), spelt + ends[i])] = ids[i];
        const Pattern words = Pattern(pattern);
        if (narrow)
            return static_cast<AnyEncoder*>(new Encoder<uint16_t>(
                words, of_bytes, merges, count, joints, wide_joints, std::move(whole)));
        return static_cast<AnyEncoder*>(new Encoder<uint32_t>(
            words, of_bytes, merges, count, joints, wide_joints, std::move(whole)));
    } catch (const std::exception&) {
        return nullptr;
    }
}

void bardlet_encoder_delete(void* encoder) { delete static_cast<AnyEncoder*>(encoder); }

// Write the ids of the bytes of a text in UTF-8 from `start` to `end` to `out`, of two bytes where
// the encoder is narrow and else of four; it has room for one a byte and 64 bytes more. Returns how
// many, -1 where memory does not do.
long bardlet_encode(void* encoder, const byte* text, long start, long end, void* out) {
    try {
        return static_cast<AnyEncoder*>(encoder)->encode(text + start, text + end, out);
    } catch (const std::exception&) {
        return -1;
    }
}
}
