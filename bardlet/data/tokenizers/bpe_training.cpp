// Trains a byte-level BPE: counts the words of a text, and merges the commonest pairs in them.
//
// bpe_training.py is its only caller. Where this is not compiled, it has the same merges from the
// tokenizers library.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <future>
#include <queue>
#include <stdexcept>
#include <vector>

#include "words.h"

// --- counting

struct Word {
    const byte* text = nullptr;
    uint32_t bytes = 0, hash = 0;
    long count = 0;
};

// Distinct words, in a hash table with linear probing. They lie in the text.
class Words {
  public:
    void add(const Word& word) {
        if (2 * size >= slots.size()) grow();
        Word& slot = place(word);
        if (!slot.text) {
            slot = word;
            size++;
        } else {
            slot.count += word.count;
        }
    }
    template <class Use>
    void each(Use use) const {
        for (const Word& word : slots)
            if (word.text) use(word);
    }

  private:
    std::vector<Word> slots{1 << 12};
    size_t size = 0;

    Word& place(const Word& word) {
        size_t at = word.hash & (slots.size() - 1);
        for (;; at = (at + 1) & (slots.size() - 1)) {
            Word& slot = slots[at];
            if (!slot.text || (slot.hash == word.hash && slot.bytes == word.bytes &&
                               !std::memcmp(slot.text, word.text, word.bytes)))
                return slot;
        }
    }
    void grow() {
        std::vector<Word> old(2 * slots.size());
        old.swap(slots);
        for (const Word& word : old)
            if (word.text) place(word) = word;
    }
};

// The words of a text by O200K, each with how often it is there.
Words count(const byte* at, const byte* end) {
    Words words;
    const Splitter splitter(O200K, end);
    while (at < end) {
        const byte* to = splitter.word(at);
        if ((to - at) >> 32) throw std::length_error("a word of more than 4 GB");
        uint64_t hash = 0xCBF29CE484222325;  // FNV-1a, its upper half mixed into the lower
        for (const byte* b = at; b < to; b++) hash = (hash ^ *b) * 0x100000001B3;
        words.add({at, uint32_t(to - at), uint32_t(hash ^ hash >> 32), 1});
        at = to;
    }
    return words;
}

// --- merging

// How often two tokens stand side by side, and where they came to, ascending; some are gone since.
struct Found {
    long count = 0;
    std::vector<uint32_t> places;
    void add(uint32_t place, long times) {
        count += times;
        places.push_back(place);
    }
};

struct Pair : Found {
    int32_t left, right;
};

// What a merge finds before or after it, by the token there.
struct Side {
    const bool before;
    std::vector<Found> of = {};
    std::vector<int32_t> tokens = {};  // those that were found
    void add(int32_t token, uint32_t place, long times) {
        if (of[token].places.empty()) tokens.push_back(token);
        of[token].add(place, times);
    }
};

// All words in a row, as tokens. A token's id stands at its first and last byte, NONE between words
// and where a token began that is now the right part of another.
class Merger {
  public:
    Merger(const Words& words, const int32_t* order) {
        size_t bytes = 1;
        words.each([&](const Word& word) { bytes += word.bytes + 1; });
        if (bytes >> 32) throw std::length_error("more than 4 GB of distinct words");
        ids.reserve(bytes);
        owners.reserve(bytes);
        const auto add = [&](int32_t id) {
            ids.push_back(id);
            owners.push_back(counts.size());
        };
        add(NONE);
        words.each([&](const Word& word) {
            for (uint32_t i = 0; i < word.bytes; i++) add(order[word.text[i]]);
            add(NONE);
            counts.push_back(word.count);
        });
        lengths.assign(256, 1);
        for (uint32_t at = 0; at + 1 < ids.size(); at++)
            if (ids[at] != NONE && ids[at + 1] != NONE)
                pair(ids[at], ids[at + 1]).add(at, counts[owners[at]]);
        queue_new();
    }

    // Merge the commonest pair, of equals the one with the lowest ids; false where none is left.
    bool merge(int32_t* merged) {
        while (!queue.empty()) {
            const Job job = queue.top();
            queue.pop();
            Pair& pair = pairs[job.pair];
            if (job.count != pair.count) {
                if (pair.count > 0) queue.push({pair.count, pair.left, pair.right, job.pair});
                continue;
            }
            merged[0] = pair.left, merged[1] = pair.right;
            join(pair.left, pair.right, std::move(pair.places));
            return true;
        }
        return false;
    }

  private:
    static constexpr int32_t NONE = -1;
    struct Job {
        long count;
        int32_t left, right;
        uint32_t pair;
        bool operator<(const Job& o) const {
            if (count != o.count) return count < o.count;
            return left != o.left ? left > o.left : right > o.right;
        }
    };

    std::vector<int32_t> ids;
    std::vector<uint32_t> owners;   // the word that a byte is in
    std::vector<long> counts;       // of the words
    std::vector<uint32_t> lengths;  // in bytes, by id
    std::vector<Pair> pairs;
    std::vector<uint32_t> table = std::vector<uint32_t>(1 << 16);  // 1 + number of the pair
    size_t queued = 0;                                             // pairs
    std::priority_queue<Job> queue;
    Side before{true}, after{false};

    Pair& pair(int32_t left, int32_t right) {
        if (2 * pairs.size() >= table.size()) {
            table.assign(2 * table.size(), 0);
            for (uint32_t i = 0; i < pairs.size(); i++) slot(pairs[i].left, pairs[i].right) = i + 1;
        }
        uint32_t& number = slot(left, right);
        if (!number) {
            pairs.push_back({{}, left, right});
            number = pairs.size();
        }
        return pairs[number - 1];
    }
    uint32_t& slot(int32_t left, int32_t right) {
        const uint64_t key = uint64_t(uint32_t(left)) << 32 | uint32_t(right);
        size_t at = (key * 0x9E3779B97F4A7C15) >> 32 & (table.size() - 1);
        while (table[at]) {
            const Pair& there = pairs[table[at] - 1];
            if (there.left == left && there.right == right) break;
            at = (at + 1) & (table.size() - 1);
        }
        return table[at];
    }
    void queue_new() {
        for (; queued < pairs.size(); queued++) {
            const Pair& made = pairs[queued];
            if (made.count > 0) queue.push({made.count, made.left, made.right, uint32_t(queued)});
        }
    }

    // Both tokens become one, wherever they stand in a row: at `places`, if still there.
    void join(int32_t left, int32_t right, std::vector<uint32_t> places) {
        const int32_t both = lengths.size();
        const uint32_t middle = lengths[left], end = middle + lengths[right];
        lengths.push_back(end);
        before.of.resize(lengths.size());
        after.of.resize(lengths.size());
        for (const uint32_t at : places) {
            if (ids[at] != left || ids[at + middle] != right) continue;
            const int32_t previous = ids[at - 1], next = ids[at + end];
            const long times = counts[owners[at]];
            ids[at + middle] = NONE;
            ids[at] = ids[at + end - 1] = both;
            if (previous != NONE) before.add(previous, at - lengths[previous], times);
            if (next != NONE) after.add(next, at, times);
        }
        settle(before, left, both);
        settle(after, right, both);
        queue_new();
    }

    // Each token on that side of a merge was beside the token `was` and is now beside `is`.
    void settle(Side& side, int32_t was, int32_t is) {
        const auto beside = [&](int32_t token, int32_t it) -> Pair& {
            return side.before ? pair(token, it) : pair(it, token);
        };
        for (const int32_t token : side.tokens) {
            Found found;
            std::swap(found, side.of[token]);
            beside(token, was).count -= found.count;
            Pair& made = beside(token, is);
            made.count += found.count;
            made.places.swap(found.places);
        }
        side.tokens.clear();
    }
};

extern "C" {

// A hash of the sources that this was compiled from: what loads it compares.
const char* bardlet_source() { return BARDLET_SOURCE; }

// Learn up to `most` merges of two ids each from a text in UTF-8, and return their number, or -1
// where memory does not do. `order` has the id of each byte; merged tokens are numbered from 256.
long bardlet_bpe(const byte* text, long bytes, const int32_t* order, long most, int threads,
                 int32_t* merges) {
    try {
        const byte *end = text + bytes, *at = text;
        std::vector<std::future<Words>> parts;
        for (int i = 1; i <= threads; i++) {  // cut where a word ends whatever follows
            const byte* to = std::max(at, text + bytes / threads * i);
            const auto is_letter = [](byte c) { return (c | 0x20) >= 'a' && (c | 0x20) <= 'z'; };
            while (to < end && !(to > at && *to == ' ' && is_letter(to[-1]))) to++;
            if (i == threads) to = end;
            parts.push_back(std::async(std::launch::async, count, at, to));
            at = to;
        }
        Words words = parts[0].get();
        for (int i = 1; i < threads; i++)
            parts[i].get().each([&](const Word& word) { words.add(word); });
        Merger merger(words, order);
        words = Words();
        long done = 0;
        while (done < most && merger.merge(merges + 2 * done)) done++;
        return done;
    } catch (const std::exception&) {
        return -1;
    }
}
}
