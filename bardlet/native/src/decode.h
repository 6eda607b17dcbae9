// Token steps with a key-value cache: bardlet/sample.py's loop and model.py's forward of few rows.
//
// All threads take every step together, each with its share of the heads, hidden units and tokens
// of the vocabulary, so that the weights, whose reading is what costs, are read once in all.
#pragma once
#include <functional>
#include <type_traits>
#include "kv_cache.h"
#include "weights.h"

struct Texts {  // n of the streams, and what each reads and writes
    int n;
    const int32_t* stream;        // which of the decoder's B each is
    const int32_t *past, *known;  // tokens in its cache, and all that it has
    int64_t* const* tokens;       // its context
    const float* temperature;
    const int32_t* top_k;
    float* const* logits;  // null, or where those of its next token go, in place of a choice
    const int32_t* twin;   // the text before it whose whole context this one has, or -1
    int guesses;           // of a single text: how many of its last tokens are guesses
    int64_t* chosen;       // with guesses: the tokens chosen in place of each and after the last
};

constexpr int ROWS_AT_ONCE = 64;  // rows of a prompt taken through the model together
constexpr int MAX_GUESSES = 15;

// E is what activations are kept in, and keys and values where they are not integers; Matrix what
// weights are packed as.
template <class E, class Matrix>
class Decoder {
    static constexpr bool INTEGERS = !std::is_same_v<Matrix, Packed<E>>;
    using Normed = std::conditional_t<INTEGERS, float, E>;
    using Operand = std::conditional_t<INTEGERS, IntegerRows, const E*>;

  public:
    Decoder(const Shape& s, Params p, const float* rotary, int B, int threads, bool integer_cache,
            Arena& weight_arena, Arena& arena)
        : s(s),
          p(p),
          rotary(rotary),
          B(B),
          threads(threads),
          weights(s, threads, weight_arena, false),
          cache(s, B, integer_cache, arena) {
        const int M = std::max(ROWS_AT_ONCE, B);
        rows = arena.take<Row>(M);
        const long outputs = std::max(B, 1 + MAX_GUESSES);
        x = arena.take<float>((long)M * s.width), newest = arena.take<float>(outputs * s.width);
        o = arena.take<E>((long)M * s.heads * s.head), h = arena.take<E>((long)M * s.hidden);
        logits = arena.take<float>(outputs * s.padded_vocab());
        for (int t = 0; t < threads; t++) {
            ThreadScratch& mine = scratch[t];
            mine.normed = arena.take<Normed>((long)M * s.width);
            if (INTEGERS)
                mine.rows =
                    IntegerRows::take(arena, M, std::max({s.width, s.hidden, s.heads * s.head}));
            mine.wide = arena.take<E>((long)M * std::max(s.gated(), s.qkv()));
            mine.scores = arena.take<float>(round_up(s.context, W));
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

    // Take tokens[past, known) of each text in and choose `steps` more, written behind them, by
    // uniform (steps, n), each in [0, 1). With guesses of a single text, steps is 1, and `chosen`
    // is written by uniform (guesses + 1).
    void run(const Texts& texts, int steps, const float* uniform) {
        const int n = texts.n, outputs = n + texts.guesses, V = s.padded_vocab();
        Team team(threads);
        threads = team.size();
        barrier.reset(threads);
        team.run([&](int t) {
            [[maybe_unused]] const Tiles tiles;
            long prompts = 0;
            bool twins = false;
            for (int i = 0; i < n; i++)
                prompts += row_count(texts, i, 0), twins |= texts.twin[i] >= 0;
            const long at_once = std::max(ROWS_AT_ONCE, n);
            for (int step = 0; step < steps; step++) {
                const long count = step ? n : prompts;
                for (long first = 0; first < count; first += at_once) {
                    const int M = (int)std::min(at_once, count - first);
                    if (t == 0) gather(texts, step, first, M);
                    barrier.wait();
                    advance(M, t);
                    if (t == 0) keep_newest(M);
                    barrier.wait();
                }
                if (twins && step == 0) {
                    copy_twins(texts, t);
                    barrier.wait();
                }
                head(outputs, t);
                const Slice mine(outputs, t, threads);
                for (long j = mine.first; j < mine.last; j++) {
                    float* its = logits + j * V;
                    const long i = texts.guesses ? 0 : j;
                    if (texts.logits[j]) {
                        memcpy(texts.logits[j], its, s.vocab * sizeof(float));
                        continue;
                    }
                    int64_t& to =
                        texts.guesses ? texts.chosen[j] : texts.tokens[i][texts.known[i] + step];
                    to = choose(its, texts.temperature[i], texts.top_k[i],
                                uniform[(long)step * n + j], scratch[t].best);
                }
                barrier.wait();
            }
        });
    }

  private:
    struct Row {  // of x: a position of a stream
        int32_t stream, position;
        int32_t output;  // the row of `newest` that it becomes, or -1
    };
    struct ThreadScratch {
        Normed* normed;
        IntegerRows rows;
        E* wide;
        float *scores, *best;  // of one head; the top_k largest logits
    };
    const Shape& s;
    const Params p;
    const float* rotary;
    const int B;
    int threads;
    Weights<E, Matrix> weights;
    KVCache<E> cache;
    Barrier barrier{1};
    ThreadScratch scratch[MAX_THREADS];
    E *o, *h;
    Row* rows;
    float *x, *newest, *logits;  // newest: rows whose logits are wanted

    // y (M, stride)'s columns from `first` on: rows of x times that part of a packed matrix.
    template <class Out>
    static void part(const Operand& x, const Matrix& w, int M, int K, int first, int columns,
                     Out out) {
        if constexpr (INTEGERS) multiply(x, w, M, K, first, columns, out);
        else
            multiply(x, K, w.forward + (long)first * K, M, columns, K,
                     [&](int m, int n, vec v) { out(m, first + n, v); });
    }

    // M rows of K as products take them; valid until the thread's next ones.
    template <class Any>
    Operand operand(const Any* x, int M, int K, int t) {
        if constexpr (INTEGERS) {
            scratch[t].rows.round(x, M, K);
            return scratch[t].rows;
        } else {
            return x;
        }
    }

    Operand normed(const float* x, int M, const float* weight, const float* bias, int t) {
        float mean;
        for (int m = 0; m < M; m++)
            norm_row(s, x + (long)m * s.width, weight, bias, scratch[t].normed + (long)m * s.width,
                     mean);
        return operand(scratch[t].normed, M, s.width, t);
    }

    // Rows [first, first + M) of a step, embedded: a text's new tokens, one text after the other.
    void gather(const Texts& texts, int step, long first, int M) {
        int i = 0;
        long before = first;  // rows of this step from the beginning of text i
        for (int m = 0; m < M; m++, before++) {
            for (; before >= row_count(texts, i, step); i++) before -= row_count(texts, i, step);
            const int begin = step ? texts.known[i] + step - 1 : texts.past[i];
            const int position = begin + (int)before;
            const long behind = row_count(texts, i, step) - 1 - before;
            const long output = behind <= texts.guesses ? i + texts.guesses - behind : -1;
            rows[m] = {texts.stream[i], position, (int32_t)output};
            const int64_t token = texts.tokens[i][position];
            for (int c = 0; c < s.width; c += W) {
                vec v = load(p[WTE] + token * s.width + c);
                if (p[WPE]) v += load(p[WPE] + (long)position * s.width + c);
                store(x + (long)m * s.width + c, v);
            }
        }
    }

    // Rows that text i adds to a step.
    static long row_count(const Texts& texts, int i, int step) {
        if (step) return 1;
        return texts.twin[i] >= 0 ? 0 : texts.known[i] - texts.past[i];
    }

    // Caches, and newest rows, of texts whose context another has: this thread's share of the
    // heads.
    void copy_twins(const Texts& texts, int t) {
        const Slice mine(s.kv_heads, t, threads);
        for (int i = 0; i < texts.n; i++) {
            const int twin = texts.twin[i];
            if (twin < 0) continue;
            for (int l = 0; l < s.layers; l++)
                for (int kv = (int)mine.first; kv < mine.last; kv++)
                    memcpy(cache.of(l, texts.stream[i], kv), cache.of(l, texts.stream[twin], kv),
                           cache.bytes(texts.known[i]));
            if (t == 0)
                memcpy(newest + (long)i * s.width, newest + (long)twin * s.width,
                       s.width * sizeof(float));
        }
    }

    void keep_newest(int M) {
        for (int m = 0; m < M; m++)
            if (const int i = rows[m].output; i >= 0)
                memcpy(newest + (long)i * s.width, x + (long)m * s.width, s.width * sizeof(float));
    }

    // M rows through all layers.
    void advance(int M, int t) {
        const int C = s.width, D = s.head, HD = s.heads * D, group = s.heads / s.kv_heads;
        E* wide = scratch[t].wide;
        for (int l = 0; l < s.layers; l++) {
            Operand a = normed(x, M, p.at(l, LN1), p.at(l, LN1_B), t);
            const float* bias = p.at(l, QKV_B);
            auto keep = [&](int m, int n, vec v) {
                store(wide + (long)m * s.qkv() + n, bias ? v + load(bias + n) : v);
            };
            const Slice mine(s.kv_heads, t, threads);
            const int own = (int)(mine.last - mine.first) * D, kv = (int)mine.first * D;
            part(a, weights.qkv[l], M, C, kv * group, own * group, keep);
            part(a, weights.qkv[l], M, C, HD + kv, own, keep);
            part(a, weights.qkv[l], M, C, HD + s.kv_heads * D + kv, own, keep);
            const long end = mine.last * M;  // each head's rows
            for (long i = mine.first * M; i < end; i++) {
                // what is stored is at rest when it is attended to
                if (i == mine.first * M) append_kv(l, i, M, wide);
                if (i + 1 < end) append_kv(l, i + 1, M, wide);
                const int kv = (int)(i / M), m = (int)(i % M);
                Ahead next = i + 2 < end ? cached_of(l, i + 2, M) : Ahead{};
                for (int head = kv * group; head < (kv + 1) * group; head++, next = {})
                    attend(l, rows[m].stream, head, rows[m].position,
                           wide + (long)m * s.qkv() + head * D, o + (long)m * HD + head * D,
                           scratch[t].scores, next);
            }
            barrier.wait();
            add(o, weights.proj[l], p.at(l, PROJ_B), M, HD, t);
            barrier.wait();
            a = normed(x, M, p.at(l, LN2), p.at(l, LN2_B), t);
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
    void add(const E* y, const Matrix& w, const float* bias, int M, int K, int t) {
        const Slice panels(s.width / NR, t, threads);
        part(operand(y, M, K, t), w, M, K, (int)panels.first * NR,
             (int)(panels.last - panels.first) * NR, [&](int m, int n, vec v) {
                 float* at = x + (long)m * s.width + n;
                 v += load(at);
                 store(at, bias ? v + load(bias + n) : v);
             });
    }

    // Put the key and value of row i % M, head i / M, in the cache.
    void append_kv(int l, long i, int M, const E* wide) {
        const int D = s.head, kv = (int)(i / M);
        const Row& row = rows[i % M];
        const E *k = wide + i % M * s.qkv() + (s.heads + kv) * D, *v = k + s.kv_heads * D;
        alignas(64) E rotated[KVCache<E>::MAX_HEAD];
        if (s.llama) {
            rotate_row(s, k, s.qk_norm ? p.at(l, KN) : nullptr, rotary, row.position, rotated);
            k = rotated;
        }
        cache.append(cache.of(l, row.stream, kv), row.position, k, v);
    }

    // What row i % M, head i / M, attends to; nothing where it is what the row before does.
    Ahead cached_of(int l, long i, int M) const {
        const long m = i % M;
        if (m && rows[m].stream == rows[m - 1].stream) return {};
        const char* at = cache.of(l, rows[m].stream, (int)(i / M));
        return {at, at + cache.bytes(rows[m].position + 1)};
    }

    // One query over all positions up to its own.
    void attend(int l, long b, int head, int position, const E* q, E* y, float* scores,
                Ahead next) {
        alignas(64) E rotated[KVCache<E>::MAX_HEAD];
        if (s.llama) {
            rotate_row(s, q, s.qk_norm ? p.at(l, QN) : nullptr, rotary, position, rotated);
            q = rotated;
        }
        cache.attend(cache.of(l, b, head / (s.heads / s.kv_heads)), position + 1, q, y, scores,
                     next);
    }

    // Logits of the n rows of `newest`, this thread's share of the vocabulary, into `logits`.
    void head(int n, int t) {
        const int C = s.width, V = s.padded_vocab();
        const Operand a = normed(newest, n, p[LNF], p[LNF_B], t);
        const Slice panels(V / NR, t, threads);
        part(a, weights.head, n, C, (int)panels.first * NR, (int)(panels.last - panels.first) * NR,
             [&](int m, int n, vec v) { store(logits + (long)m * V + n, v); });
        barrier.wait();
    }

    // bardlet/sample.py's choose(): the likeliest, or a draw from the top_k.
    int64_t choose(float* logits, float temperature, int top_k, float uniform, float* best) const {
        const int V = s.vocab;
        if (temperature == 0) return std::max_element(logits, logits + V) - logits;
        for (int i = V; i < s.padded_vocab(); i++) logits[i] = -INFINITY;
        float cutoff = -INFINITY, highest = -INFINITY;
        for (int i = 0; i < V; i++) highest = std::max(highest, logits[i] /= temperature);
        if (0 < top_k && top_k < V) {
            float* end = best + top_k;  // a heap whose top is the smallest
            const std::greater<float> above;
            std::copy(logits, logits + top_k, best);
            std::make_heap(best, end, above);
            for (int i = top_k; i < V; i++) {
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
