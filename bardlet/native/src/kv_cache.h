// Keys and values of the tokens before, and a query's attention to them.
//
// W tokens of one layer, stream and head lie together, first to last, so that attention reads one
// stretch of memory front to back, and fetches that of the next query meanwhile:
//     plain     keys [W][D], values [W][D], as products take them
//     integers  scales of the keys and of the values, W floats each, then of 8 bits
//               keys [D / 2][W][2] and values [W / 2][D][2]
// Integers are in [-127, 127]; each token has one scale for its key and one for its value.
#pragma once
#include "model.h"
#include "quantised.h"

// Bytes that are fetched into the cache while others are computed with.
struct Ahead {
    const char *at, *end;
    void fetch(long bytes) {
        for (const char* stop = at + bytes < end ? at + bytes : end; at < stop; at += 64)
            __builtin_prefetch(at, 0, 2);
    }
};

template <class E>
class KVCache {
  public:
    KVCache(const Shape& s, int streams, bool integers, Arena& arena)
        : D(s.head), kv_heads(s.kv_heads), streams(streams), integers(integers) {
        block = W * 2 * (integers ? (long)sizeof(float) + D : D * (long)sizeof(E));
        slab = round_up(s.context, W) / W * block + 64;  // as pieces of an arena are apart
        base = arena.take<char>((long)s.layers * streams * kv_heads * slab);
    }

    // What is cached of one layer, stream and head for its first `tokens`.
    char* of(int layer, long stream, int kv) const {
        return base + ((layer * streams + stream) * kv_heads + kv) * slab;
    }
    long bytes(long tokens) const { return round_up(tokens, W) / W * block; }

    // Keep a key and a value of D at their position.
    void append(char* cached, int position, const E* k, const E* v) const {
        char* to = cached + position / W * block;
        const int lane = position % W;
        if (!integers) {
            E* row = (E*)to + lane * D;
            memcpy(row, k, D * sizeof(E));
            memcpy(row + W * D, v, D * sizeof(E));
            return;
        }
        int8_t q[MAX_HEAD];
        auto* scales = (float*)to;
        auto* keys = (int8_t*)(scales + 2 * W);
        int8_t* values = keys + (W + lane / 2 * 2) * D + lane % 2;
        scales[lane] = round_row(k, q);
        for (int i = 0; i < D; i += 2) memcpy(keys + i * W + lane * 2, q + i, 2);
        scales[W + lane] = round_row(v, q);
        for (int i = 0; i < D; i++) values[2 * i] = q[i];
    }

    // y (D): the values of the first `seen` tokens, weighted by their keys' products with q (D).
    // scores: room for `seen`, rounded up to W.
    void attend(const char* cached, int seen, const E* q, E* y, float* scores, Ahead ahead) const {
        const float highest = integers ? score_integers(cached, seen, q, scores, ahead)
                                       : score(cached, seen, q, scores, ahead);
        vec sum = set1(0.0f), poison = set1(0.0f);
        for (int j = 0; j < seen; j += W) {
            const vec e = exp(load(scores + j) - set1(highest));
            const auto* scales = (const float*)(cached + j / W * block) + W;
            store(scores + j, integers ? e * load(scales) : e);
            sum += e;
            if (!integers) continue;
            for (int r = seen; r < j + W; r++) scores[r] = 0.0f;  // where nothing has a scale yet
            const vec weights = load(scores + j);
            poison = fma(weights, set1(0.0f), poison);
            round_weights(weights, scores + j);
        }
        const vec share = set1(1.0f / hsum(sum) + hsum(poison));
        int i = 0;
        for (; i + 4 * W <= D; i += 4 * W) mix<4>(cached, seen, scores, share, i, y + i, ahead);
        for (; i + 2 * W <= D; i += 2 * W) mix<2>(cached, seen, scores, share, i, y + i, ahead);
    }

    static constexpr int MAX_HEAD = 1024;

  private:
    const int D, kv_heads;
    const long streams;
    const bool integers;
    long block, slab;  // bytes of W tokens, and of a context
    char* base;

    // The scale of D numbers, NaN where one is not finite, with their integers in q.
    float round_row(const E* x, int8_t* q) const {
        int16_t wide[MAX_HEAD];
        vec highest = set1(0.0f), poison = set1(0.0f);
        for (int i = 0; i < D; i += W) {
            const vec v = load(x + i);
            highest = max(abs(v), highest), poison = fma(v, set1(0.0f), poison);
        }
        const float scale = hmax(highest) / 127.0f;
        const vec inverse = set1(scale > TINY ? 1.0f / scale : 0.0f);
        for (int i = 0; i < D; i += W) store_nearest(wide + i, load(x + i) * inverse);
        for (int i = 0; i < D; i++) q[i] = (int8_t)wide[i];
        return scale + hsum(poison);
    }

    // W values' weights as integers of 16 bits in the place of W / 2 scores, then their scale.
    static void round_weights(vec weights, float* scores) {
        const float size = hmax(weights);
        store_nearest((int16_t*)scores, weights * set1(size > TINY ? 32767.0f / size : 0.0f));
        scores[W / 2] = size / 32767.0f;
    }

    // Scores of `seen` tokens, -inf behind them; returns the highest.
    float score(const char* cached, int seen, const E* q, float* scores, Ahead& ahead) const {
        const vec scale = set1(1.0f / std::sqrt((float)D));
        vec top = set1(-INFINITY);
        for (int j = 0; j < seen; j += W, cached += block) {
            const E* k = (const E*)cached;
            vec sums[W];
            for (vec& sum : sums) sum = set1(0.0f);
            for (int i = 0; i < D; i += W * PAIR<E>) {
                const words part = load_words(q + i);
                for (int r = 0; r < W; r++)
                    sums[r] = multiply_add(sums[r], part, load_words(k + r * D + i), E{});
            }
            top = max(keep_scores(sums_of(sums) * scale, j, seen, scores), top);
            ahead.fetch(block / 2);
        }
        return hmax(top);
    }

    // The same of integers, the query rounded to 16 bits; sums are exact.
    float score_integers(const char* cached, int seen, const E* q, float* scores,
                         Ahead& ahead) const {
        alignas(64) int16_t rounded[MAX_HEAD];
        vec highest = set1(0.0f), poison = set1(0.0f);
        for (int i = 0; i < D; i += W) {
            const vec v = load(q + i);
            highest = max(abs(v), highest), poison = fma(v, set1(0.0f), poison);
        }
        const float size = hmax(highest), steps = D > 512 ? 16383.0f : 32767.0f;
        const vec inverse = set1(size > TINY ? steps / size : 0.0f);
        for (int i = 0; i < D; i += W) store_nearest(rounded + i, load(q + i) * inverse);
        const vec scale = set1(size / steps / std::sqrt((float)D) + hsum(poison));
        vec top = set1(-INFINITY);
        for (int j = 0; j < seen; j += W, cached += block) {
            const auto* k = (const int8_t*)cached + 2 * W * sizeof(float);
            words sums[4];
            for (words& sum : sums) sum = broadcast(0);
            for (int i = 0; i < D; i += 8)
                for (int r = 0; r < 4; r++) {
                    int32_t pair;
                    memcpy(&pair, rounded + i + 2 * r, 4);
                    const words keys = load_bytes(k + (i + 2 * r) * W);
                    sums[r] = multiply_add(sums[r], broadcast(pair), keys);
                }
            const vec sum = (to_floats(sums[0]) + to_floats(sums[1])) +
                            (to_floats(sums[2]) + to_floats(sums[3]));
            const vec scores_here = sum * (load((const float*)cached) * scale);
            top = max(keep_scores(scores_here, j, seen, scores), top);
            ahead.fetch(block / 2);
        }
        return hmax(top);
    }

    // Store W scores from j on, -inf in place of those behind `seen`, which do not count.
    static vec keep_scores(vec values, int j, int seen, float* scores) {
        store(scores + j, values);
        for (int r = seen; r < j + W; r++) scores[r] = -INFINITY;
        return load(scores + j);
    }

    // R registers of the values' sum, from column i on, weighted by scores[0, seen) * share.
    template <int R>
    void mix(const char* cached, int seen, const float* scores, vec share, int i, E* y,
             Ahead& ahead) const {
        vec sums[R];
        for (int r = 0; r < R; r++) sums[r] = set1(0.0f);
        for (int j = 0; j < seen; j += W, cached += block) {
            if (integers) {
                mix_integers<R>((const int8_t*)cached + W * (2 * sizeof(float) + D) + 2 * i,
                                scores + j, sums);
            } else {
                const E* v = (const E*)cached + W * D + i;
                const int end = std::min(seen - j, W);
                for (int t = 0; t < end; t++, v += D)
                    for (int r = 0; r < R; r++)
                        sums[r] = fma(set1(scores[j + t]), load(v + r * W), sums[r]);
            }
            ahead.fetch(block / 2);
        }
        for (int r = 0; r < R; r++) store(y + r * W, sums[r] * share);
    }

    // What W values of 8 bits add to the sums, weighted as round_weights() left it.
    template <int R>
    void mix_integers(const int8_t* v, const float* weights, vec (&sums)[R]) const {
        words parts[R];
        for (words& part : parts) part = broadcast(0);
        for (int t = 0; t < W / 2; t++, v += 2 * D) {
            int32_t pair;
            memcpy(&pair, weights + t, 4);
            for (int r = 0; r < R; r++)
                parts[r] = multiply_add(parts[r], broadcast(pair), load_bytes(v + 2 * r * W));
        }
        const vec scale = set1(weights[W / 2]);
        for (int r = 0; r < R; r++) sums[r] = fma(to_floats(parts[r]), scale, sums[r]);
    }
};
