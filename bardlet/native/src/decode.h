// Token steps with a key-value cache: bardlet/sample.py's loop and model.py's forward of few rows.
//
// All threads take every step together, each with its share of the heads, hidden units and tokens
// of the vocabulary, so that the weights, whose reading is what costs, are read once in all.
#pragma once
#include <functional>
#include "weights.h"

struct SamplingParams {  // how a token is chosen from its logits
    float temperature;
    int32_t top_k;
    const float* uniform;  // (steps, B), each in [0, 1)
};

constexpr int ROWS_AT_ONCE = 64;  // rows of a prompt taken through the model together

template <class E>
class Decoder {
  public:
    Decoder(const Shape& s, Params p, const float* rotary, int B, int threads, Arena& weight_arena,
            Arena& arena)
        : s(s),
          p(p),
          rotary(rotary),
          B(B),
          threads(threads),
          weights(s, threads, weight_arena, false) {
        const long cached = (long)s.layers * B * s.kv_heads * s.context * s.head;
        keys = arena.take<E>(cached), values = arena.take<E>(cached);
        const int M = std::max(ROWS_AT_ONCE, B);
        x = arena.take<float>((long)M * s.width);
        o = arena.take<E>((long)M * s.heads * s.head), h = arena.take<E>((long)M * s.hidden);
        logits = arena.take<float>((long)B * s.padded_vocab());
        for (int t = 0; t < threads; t++) {
            ThreadScratch& mine = scratch[t];
            mine.normed = arena.take<E>((long)M * s.width);
            mine.wide = arena.take<E>((long)M * std::max(s.gated(), s.qkv()));
            mine.scores = arena.take<float>(round_up(s.context, W) + s.head);
            mine.best = arena.take<float>(s.vocab);
        }
    }

    void pack() {
        std::atomic<int> next{0};
        Team(threads).run([&](int t) {
            while (weights.pack_one(s, p, next.fetch_add(1), t)) {
            }
        });
    }

    // Take tokens[past, known) of each stream in and choose `steps` more, written behind them.
    // tokens (B, stride): a stream's context begins at its row.
    void run(int64_t* tokens, long stride, int past, int known, int steps,
             const SamplingParams& sampling) {
        Team team(threads);
        threads = team.size();
        barrier.reset(threads);
        team.run([&](int t) {
            int from = past, to = known;
            for (int step = 0; step < steps; step++) {
                const int at_once = std::max(1, ROWS_AT_ONCE / B);
                for (; from < to; from = std::min(from + at_once, to))
                    advance(tokens, stride, from, std::min(from + at_once, to), t);
                head(t);
                const Slice streams(B, t, threads);
                for (long b = streams.first; b < streams.last; b++)
                    tokens[b * stride + to] = choose(logits + b * s.padded_vocab(), sampling,
                                                     sampling.uniform[(long)step * B + b],
                                                     scratch[t].best);
                barrier.wait();
                to++;
            }
        });
    }

  private:
    struct ThreadScratch {
        E *normed, *wide;
        float *scores, *best;  // of one head; the top_k largest logits
    };
    const Shape& s;
    const Params p;
    const float* rotary;
    const int B;
    int threads;
    Weights<E> weights;
    Barrier barrier{1};
    ThreadScratch scratch[MAX_THREADS];
    E *keys, *values, *o, *h;  // caches (layers, B, kv_heads, context, D)
    float *x, *logits;
    int rows_each = 1;  // rows of x that each stream has, its newest last

    E* cache(E* of, int layer, long b, int kv) const {
        return of + (((long)layer * B + b) * s.kv_heads + kv) * s.context * s.head;
    }

    // y (M, stride)'s columns from `first` on: rows of x times that part of a packed matrix.
    template <class Out>
    static void part(const E* x, const Packed<E>& w, int M, int K, int first, int columns,
                     Out out) {
        multiply(x, K, w.forward + (long)first * K, M, columns, K,
                 [&](int m, int n, vec v) { out(m, first + n, v); });
    }

    const E* normed(int M, const float* weight, const float* bias, int t) {
        float mean;
        for (int m = 0; m < M; m++)
            norm_row(s, x + (long)m * s.width, weight, bias, scratch[t].normed + (long)m * s.width,
                     mean);
        return scratch[t].normed;
    }

    // Positions [from, to) of all streams through all layers; rows are (stream, position).
    void advance(const int64_t* tokens, long stride, int from, int to, int t) {
        const int T = to - from, M = B * T, C = s.width, D = s.head, HD = s.heads * D,
                  group = s.heads / s.kv_heads;
        E* wide = scratch[t].wide;
        if (t == 0) {
            rows_each = T;
            for (int m = 0; m < M; m++) {
                const int position = from + m % T;
                const int64_t token = tokens[m / T * stride + position];
                for (int i = 0; i < C; i += W) {
                    vec v = load(p[WTE] + token * C + i);
                    if (p[WPE]) v += load(p[WPE] + (long)position * C + i);
                    store(x + (long)m * C + i, v);
                }
            }
        }
        barrier.wait();
        for (int l = 0; l < s.layers; l++) {
            const E* a = normed(M, p.at(l, LN1), p.at(l, LN1_B), t);
            const float* bias = p.at(l, QKV_B);
            auto keep = [&](int m, int n, vec v) {
                store(wide + (long)m * s.qkv() + n, bias ? v + load(bias + n) : v);
            };
            const Slice mine(s.kv_heads, t, threads);
            const int own = (int)(mine.last - mine.first) * D, kv = (int)mine.first * D;
            part(a, weights.qkv[l], M, C, kv * group, own * group, keep);
            part(a, weights.qkv[l], M, C, HD + kv, own, keep);
            part(a, weights.qkv[l], M, C, HD + s.kv_heads * D + kv, own, keep);
            for (long head = mine.first; head < mine.last; head++)
                for (int m = 0; m < M; m++)
                    append_kv(l, m / T, (int)head, from + m % T, wide + (long)m * s.qkv());
            for (long head = mine.first * group; head < mine.last * group; head++)
                for (int m = 0; m < M; m++)
                    attend(l, m / T, (int)head, from + m % T, wide + (long)m * s.qkv() + head * D,
                           o + (long)m * HD + head * D, scratch[t].scores);
            barrier.wait();
            add(o, weights.proj[l], p.at(l, PROJ_B), M, HD, t);
            barrier.wait();
            a = normed(M, p.at(l, LN2), p.at(l, LN2_B), t);
            bias = p.at(l, FC_B);
            auto keep_fc = [&](int m, int n, vec v) {
                store(wide + (long)m * s.gated() + n, bias ? v + load(bias + n) : v);
            };
            const Slice panels(s.hidden / NR, t, threads);
            const int first = (int)panels.first * NR,
                      units = (int)(panels.last - panels.first) * NR;
            part(a, weights.fc[l], M, C, first, units, keep_fc);
            if (s.llama) part(a, weights.fc[l], M, C, s.hidden + first, units, keep_fc);
            for (int m = 0; m < M; m++)
                for (int i = first; i < first + units; i += W)
                    store(h + (long)m * s.hidden + i, activate(s, wide + (long)m * s.gated() + i));
            barrier.wait();
            add(h, weights.out[l], p.at(l, OUT_B), M, s.hidden, t);
            barrier.wait();
        }
    }

    // x += rows of y times w^T, this thread's share of the columns.
    void add(const E* y, const Packed<E>& w, const float* bias, int M, int K, int t) {
        const Slice panels(s.width / NR, t, threads);
        part(y, w, M, K, (int)panels.first * NR, (int)(panels.last - panels.first) * NR,
             [&](int m, int n, vec v) {
                 float* at = x + (long)m * s.width + n;
                 v += load(at);
                 store(at, bias ? v + load(bias + n) : v);
             });
    }

    // Put one row's key and value in the cache.
    void append_kv(int l, long b, int kv, int position, const E* qkv) {
        const int D = s.head;
        const E *k = qkv + (s.heads + kv) * D, *v = k + s.kv_heads * D;
        E* to = cache(keys, l, b, kv) + (long)position * D;
        if (s.llama) rotate_row(s, k, s.qk_norm ? p.at(l, KN) : nullptr, rotary, position, to);
        else memcpy(to, k, D * sizeof(E));
        memcpy(cache(values, l, b, kv) + (long)position * D, v, D * sizeof(E));
    }

    // One query over all positions up to its own.
    void attend(int l, long b, int head, int position, const E* q, E* y, float* scores) {
        const int D = s.head, kv = head / (s.heads / s.kv_heads), seen = position + 1;
        alignas(64) E rotated[1024];
        if (s.llama) {
            rotate_row(s, q, s.qk_norm ? p.at(l, QN) : nullptr, rotary, position, rotated);
            q = rotated;
        }
        const float scale = 1.0f / std::sqrt((float)D);
        const E *k = cache(keys, l, b, kv), *v = cache(values, l, b, kv);
        float highest = -INFINITY;
        for (int j = 0; j < seen; j++, k += D) {
            vec sum = set1(0.0f);
            for (int i = 0; i < D; i += W) sum = fma(load(q + i), load(k + i), sum);
            scores[j] = hsum(sum) * scale;
            highest = std::max(highest, scores[j]);
        }
        for (int j = seen; j % W; j++) scores[j] = -INFINITY;
        vec sum = set1(0.0f);
        for (int j = 0; j < seen; j += W) {
            const vec e = exp(load(scores + j) - set1(highest));
            store(scores + j, e);
            sum += e;
        }
        const vec share = set1(1.0f / hsum(sum));
        int i = 0;
        for (; i + 4 * W <= D; i += 4 * W) mix<4>(v + i, scores, seen, share, y + i);
        for (; i < D; i += W) mix<1>(v + i, scores, seen, share, y + i);
    }

    // R registers of the values' sum, weighted by scores[0, seen) * share.
    template <int R>
    void mix(const E* v, const float* scores, int seen, vec share, E* y) const {
        vec sums[R];
        for (int r = 0; r < R; r++) sums[r] = set1(0.0f);
        for (int j = 0; j < seen; j++, v += s.head)
            for (int r = 0; r < R; r++) sums[r] = fma(set1(scores[j]), load(v + r * W), sums[r]);
        for (int r = 0; r < R; r++) store(y + r * W, sums[r] * share);
    }

    // Logits of each stream's newest row, this thread's share of the vocabulary, into `logits`.
    void head(int t) {
        const int C = s.width, V = s.padded_vocab();
        float mean;
        for (int b = 0; b < B; b++)
            norm_row(s, x + ((long)(b + 1) * rows_each - 1) * C, p[LNF], p[LNF_B],
                     scratch[t].normed + (long)b * C, mean);
        const Slice panels(V / NR, t, threads);
        part(scratch[t].normed, weights.head, B, C, (int)panels.first * NR,
             (int)(panels.last - panels.first) * NR,
             [&](int m, int n, vec v) { store(logits + (long)m * V + n, v); });
        barrier.wait();
    }

    // bardlet/sample.py's choose(): the likeliest, or a draw from the top_k.
    int64_t choose(float* logits, const SamplingParams& sampling, float uniform,
                   float* best) const {
        const int V = s.vocab;
        if (sampling.temperature == 0) return std::max_element(logits, logits + V) - logits;
        for (int i = V; i < s.padded_vocab(); i++) logits[i] = -INFINITY;
        float cutoff = -INFINITY, highest = -INFINITY;
        for (int i = 0; i < V; i++) highest = std::max(highest, logits[i] /= sampling.temperature);
        if (0 < sampling.top_k && sampling.top_k < V) {
            float* end = best + sampling.top_k;  // a heap whose top is the smallest
            const std::greater<float> above;
            std::copy(logits, logits + sampling.top_k, best);
            std::make_heap(best, end, above);
            for (int i = sampling.top_k; i < V; i++) {
                if (!(logits[i] > best[0])) continue;
                std::pop_heap(best, end, above);
                end[-1] = logits[i];
                std::push_heap(best, end, above);
            }
            cutoff = best[0];
        }
        for (int i = 0; i < V; i++)
            if (logits[i] < cutoff) logits[i] = -INFINITY;
        for (int i = 0; i < V; i += W) store(logits + i, exp(load(logits + i) - set1(highest)));
        const float zero = 1.3e-38f;  // exp(-INFINITY) lies below
        double end = 0;
        for (int i = 0; i < V; i++)
            if (logits[i] > zero) end += logits[i];
        const double threshold = uniform * end;
        double sum = 0;
        int64_t last = 0;
        for (int i = 0; i < V; i++) {
            if (logits[i] <= zero) continue;
            last = i;
            if ((sum += logits[i]) > threshold) break;
        }
        return last;
    }
};
