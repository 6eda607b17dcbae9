// Loss and gradients of a batch: each thread takes whole sequences through the model and back.
//
// The maths is bardlet/model.py's, line for line; matrices are multiplied in E and summed in float,
// the residual stream, the norms, the softmaxes and all gradients of weights are float. Threads
// meet only when weights are packed and when their gradients are added, always in the same order,
// so equal calls on an equal number of threads give equal bits.
#pragma once
#include <algorithm>
#include "arena.h"
#include "dropout.h"
#include "weights.h"

constexpr int ROWS = 32;   // queries of one block of attention
constexpr int SPAN = 256;  // queries, at most, that sum gradients of keys and values at once

// What keeps the first n numbers of a register; n below 0 is 0, above W is W.
struct Edges {
    float ones[2 * W], limits[2 * W];
    Edges() {
        for (int i = 0; i < 2 * W; i++) {
            ones[i] = i < W;
            limits[i] = i < W ? INFINITY : -INFINITY;
        }
    }
    static int offset(int n) { return W - std::max(0, std::min(n, W)); }
    vec keep(int n) const { return load(ones + offset(n)); }     // 1, behind them 0
    vec limit(int n) const { return load(limits + offset(n)); }  // infinity, behind them -infinity
};

// What one layer keeps of M tokens for its backward pass.
template <class E>
struct Activations {
    float *x1, *x2;          // (M, C) the residual stream before attention and before the MLP
    float *scale1, *scale2;  // (M) 1 / rms or 1 / sd of each norm
    float *mean1, *mean2;    // (M)
    float *shifts, *shares;  // (sequences, heads, T): attention pays e^(score + shift) share
    E *a1, *qkv, *rotated,
        *o;          // normed input; queries, keys, values; rotated queries and keys; heads' output
    E *a2, *fc, *h;  // normed input; before the activation, then its slopes; after it
};

struct Batch {
    const int64_t *idx, *targets;  // (B, T); a target of -1 does not count
    const int64_t* earliest;       // (B, T), the first position that each attends to; null: 0
    int B, T;
    float counted;  // targets that do
};

// Distillation (arXiv:1503.02531). A teacher writes softmax(logits / temperature); a student reads
// its teachers' q and has (1 - weight) CE + weight temperature^2 (-sum q log softmax(logits / t)).
// Rows of `stride` numbers, those behind the vocabulary zero. bardlet/native/__init__.py writes it.
struct Soft {
    const float* targets;  // (B, T, stride), a student's; null: none
    float* written;        // (B, T, stride), a teacher's; null: none
    long stride;
    float weight, temperature;
};

template <class E>
class Worker {
  public:
    Worker(const Shape& s, int T, int sequences, bool grad, Dropout dropout, Soft soft,
           Arena& arena)
        : s(s), T(T), grad(grad), dropout(dropout), soft(soft), span(std::min(SPAN, T)),
          layers(s.layers) {
        const long M = (long)T * sequences, C = s.width, D = s.head, T32 = round_up(T, ROWS);
        for (int l = 0; l < s.layers; l++) {
            Activations<E>& a = layers[l];
            if (l && !grad) {  // forward only: every layer in the same place
                a = layers[0];
                continue;
            }
            a.x1 = arena.take<float>(M * C), a.x2 = arena.take<float>(M * C);
            a.scale1 = arena.take<float>(M), a.scale2 = arena.take<float>(M);
            a.mean1 = arena.take<float>(M), a.mean2 = arena.take<float>(M);
            a.shifts = arena.take<float>(M * s.heads), a.shares = arena.take<float>(M * s.heads);
            a.a1 = arena.take<E>(M * C), a.a2 = arena.take<E>(M * C);
            a.qkv = arena.take<E>(M * s.qkv());
            a.rotated = s.llama ? arena.take<E>(M * s.rotated()) : nullptr;
            a.o = arena.take<E>(M * s.heads * D);
            a.fc = arena.take<E>(M * s.gated()), a.h = arena.take<E>(M * s.hidden);
        }
        x = arena.take<float>(M * C), scale = arena.take<float>(M), mean = arena.take<float>(M);
        normed = arena.take<E>(M * C);
        logits = arena.take<float>(M * s.padded_vocab());
        d_logits = grad ? arena.take<E>(M * s.padded_vocab()) : nullptr;
        softened = soft.targets ? arena.take<float>(s.padded_vocab()) : nullptr;
        scores = arena.take<float>(ROWS * T32);
        p = arena.take<E>(ROWS * T32);
        keys = arena.take<E>(T32 * D), values = arena.take<E>(T32 * D);
        if (!grad) return;
        const long widest = std::max({(long)s.gated(), (long)s.qkv(), C, (long)s.padded_vocab()});
        dx = arena.take<float>(M * C);
        dx_e = arena.take<E>(M * C);
        d_small = arena.take<E>(M * s.heads * D);
        d_wide = arena.take<E>(M * std::max(s.gated(), s.qkv())),
        packed_dy = arena.take<E>(M * widest);
        packed_x = arena.take<E>(M * std::max({C, (long)s.heads * D, (long)s.hidden}));
        ds = arena.take<E>(ROWS * T32), slopes = arena.take<float>(ROWS * NR);
        packed_p = arena.take<E>(span * T32), packed_ds = arena.take<E>(span * T32);
        value_columns = arena.take<E>(T32 * D), queries = arena.take<E>(T32 * D),
        d_heads = arena.take<E>(T32 * D);
        key_rows = arena.take<E>(T32 * D);
        dk = arena.take<float>(T * D), dv = arena.take<float>(T * D);
        turned = arena.take<float>(W * D);
    }

    // Sum of the losses of the batch's sequences [first, first + B); adds the gradients of the
    // batch's mean loss to g, or begins with them.
    double sequences(const Weights<E>& w, Params p, Params g, const float* rotary,
                     const Batch& batch, long first, int B, bool begins) {
        const int M = B * T;
        const int64_t* idx = batch.idx + first * T;
        first_row = first * T;
        fresh = begins;
        if (grad && fresh) clear(g);
        earliest = batch.earliest ? batch.earliest + first * T : nullptr;
        const double loss = forward(w, p, rotary, idx, batch.targets + first * T, B, batch.counted);
        if (grad) {
            backward(w, p, g, rotary, B);
            if (dropout.rate) drop(EMBEDDING, dx, M);
            for (int m = 0; m < M; m++) {
                add_row(g[WTE] + idx[m] * s.width, dx + (long)m * s.width, s.width);
                if (g[WPE])
                    add_row(g[WPE] + (long)(m % T) * s.width, dx + (long)m * s.width, s.width);
            }
        }
        return loss;
    }

  private:
    const Shape& s;
    const int T;
    const bool grad;
    const Dropout dropout;
    const Soft soft;
    const Edges edges;
    const long span;                    // of queries whose shares of keys are multiplied at once
    long first_row = 0;                 // of the batch's rows, the first that this chunk has
    bool fresh = false;                 // whether gradients of matrices begin with this chunk
    const int64_t* earliest = nullptr;  // of this chunk's rows, as in Batch
    std::vector<Activations<E>> layers;
    float *x, *scale, *mean, *logits, *softened, *scores, *dx, *dk, *dv, *turned, *slopes;
    E *normed, *d_logits, *p, *keys, *values, *dx_e, *d_small, *d_wide, *packed_dy, *packed_x;
    E *ds, *packed_p, *packed_ds, *value_columns, *queries, *d_heads, *key_rows;

    // Zeros for all gradients but those that weight_gradient begins.
    void clear(Params g) const {
        const long C = s.width;
        auto zero = [](float* at, long n) {
            if (at) memset(at, 0, sizeof(float) * n);
        };
        if (g[WTE] != g[HEAD]) zero(g[WTE], s.vocab * C);
        zero(g[WPE], s.context * C), zero(g[LNF], C), zero(g[LNF_B], C);
        for (int l = 0; l < s.layers; l++) {
            for (int norm : {LN1, LN1_B, LN2, LN2_B}) zero(g.at(l, norm), C);
            zero(g.at(l, QKV_B), s.qkv()), zero(g.at(l, PROJ_B), C);
            zero(g.at(l, QN), s.head), zero(g.at(l, KN), s.head);
            zero(g.at(l, FC_B), s.gated()), zero(g.at(l, OUT_B), C);
        }
    }

    static void add_row(float* to, const float* from, int n) {
        for (int i = 0; i < n; i += W) store(to + i, load(to + i) + load(from + i));
    }

    // y (M, N) = x (M, K) w^T + bias
    static void linear(const E* x, const Packed<E>& w, const float* bias, int M, int N, int K,
                       E* y) {
        multiply(x, K, w.forward, M, N, K, [=](int m, int n, vec v) {
            store(y + (long)m * N + n, bias ? v + load(bias + n) : v);
        });
    }

    // y (M, C) = residual (M, C) + dropout(x (M, K) w^T + bias)
    void linear_onto(int site, const E* x, const Packed<E>& w, const float* bias,
                     const float* residual, int M, int C, int K, float* y) const {
        multiply(x, K, w.forward, M, C, K, [=, drops = dropout.rate != 0](int m, int n, vec v) {
            if (bias) v += load(bias + n);
            if (drops) v *= dropout.scale(dropout.key(site, first_row + m), n);
            store(y + (long)m * C + n, v + load(residual + (long)m * C + n));
        });
    }

    // a.h (M, hidden), and in a.fc (M, gated) what the gradient of h is multiplied by to be that of
    // the activation's input.
    void activated(Activations<E>& a, const Packed<E>& w, const float* bias, int M) const {
        const int C = s.width, F = s.hidden, N = s.gated();
        const vec one = set1(1.0f), half = set1(0.5f);
        if (!s.llama) {
            multiply(a.a2, C, w.forward, M, N, C, [=, h = a.h, slopes = a.fc](int m, int n, vec x) {
                if (bias) x += load(bias + n);
                const vec z = x * set1(0.70710678f), bell = exp_for<E>(-z * z);
                const vec share = half * (one + erf(z, bell));
                store(h + (long)m * F + n, x * share);
                store(slopes + (long)m * N + n, fma(x * set1(0.39894228f), bell, share));
            });
            return;
        }
        linear(a.a2, w, bias, M, N, C, a.fc);
        E *h = a.h, *fc = a.fc;
        for (int m = 0; m < M; m++)
            for (int i = 0; i < F; i += W) {
                E* at = fc + (long)m * N + i;
                const vec x = load(at), up = load(at + F);
                const vec sigmoid = reciprocal(one + exp_for<E>(-x)), gate = x * sigmoid;
                store(h + (long)m * F + i, gate * up);
                store(at, up * sigmoid * fma(x, one - sigmoid, one));
                store(at + F, gate);
            }
    }

    // Dropout's sites: the embedding, each layer's two outputs into the residual stream, and for
    // gpt2 each head's attention, whose rows are queries and whose columns are keys.
    enum { EMBEDDING = 0 };
    static int after_attention(int layer) { return 1 + 2 * layer; }
    static int after_mlp(int layer) { return 2 + 2 * layer; }  // of layer -1: EMBEDDING
    int inside_attention(int layer, int head) const {
        return 1 + 2 * s.layers + layer * s.heads + head;
    }
    bool drops_attention() const { return dropout.rate && !s.llama; }

    template <class F>
    void drop(int site, F* y, int M) const {
        for (int m = 0; m < M; m++) {
            const uint32_t key = dropout.key(site, first_row + m);
            for (int i = 0; i < s.width; i += W) {
                F* at = y + (long)m * s.width + i;
                store(at, load(at) * dropout.scale(key, i));
            }
        }
    }

    double forward(const Weights<E>& w, Params p, const float* rotary, const int64_t* idx,
                   const int64_t* targets, int B, float counted) {
        const int M = B * T, C = s.width, D = s.head, HD = s.heads * D;
        float* first = layers[0].x1;
        for (int m = 0; m < M; m++)
            for (int i = 0; i < C; i += W) {
                vec v = load(p[WTE] + idx[m] * C + i);
                if (p[WPE]) v += load(p[WPE] + (long)(m % T) * C + i);
                store(first + (long)m * C + i, v);
            }
        if (dropout.rate) drop(EMBEDDING, first, M);
        for (int l = 0; l < s.layers; l++) {
            Activations<E>& a = layers[l];
            float* next = l + 1 < s.layers ? layers[l + 1].x1 : x;
            for (int m = 0; m < M; m++)
                a.scale1[m] = norm_row(s, a.x1 + (long)m * C, p.at(l, LN1), p.at(l, LN1_B),
                                       a.a1 + (long)m * C, a.mean1[m]);
            linear(a.a1, w.qkv[l], p.at(l, QKV_B), M, s.qkv(), C, a.qkv);
            if (s.llama) apply_rope(p, l, rotary, M);
            for (int b = 0; b < B; b++)
                for (int h = 0; h < s.heads; h++) attend(a, l, b, h);
            linear_onto(after_attention(l), a.o, w.proj[l], p.at(l, PROJ_B), a.x1, M, C, HD, a.x2);
            for (int m = 0; m < M; m++)
                a.scale2[m] = norm_row(s, a.x2 + (long)m * C, p.at(l, LN2), p.at(l, LN2_B),
                                       a.a2 + (long)m * C, a.mean2[m]);
            activated(a, w.fc[l], p.at(l, FC_B), M);
            linear_onto(after_mlp(l), a.h, w.out[l], p.at(l, OUT_B), a.x2, M, C, s.hidden, next);
        }
        for (int m = 0; m < M; m++)
            scale[m] =
                norm_row(s, x + (long)m * C, p[LNF], p[LNF_B], normed + (long)m * C, mean[m]);
        const int V = s.padded_vocab();
        multiply_into(normed, C, w.head.forward, M, V, C, logits, V);
        if (soft.written) {
            for (int m = 0; m < M; m++)
                write_softened(logits + (long)m * V, soft.written + (first_row + m) * soft.stride);
            return 0;
        }
        double loss = 0;
        for (int m = 0; m < M; m++)
            loss += position_loss(logits + (long)m * V, targets[m], first_row + m,
                                  d_logits + (long)m * V, 1.0f / counted);
        return loss;
    }

    // e^((z - highest) / t) of a row of logits into y, which may be z, and their sum.
    struct Exponents {
        float highest, sum;
        double log_sum(float t) const { return std::log((double)sum) + highest / t; }
    };
    Exponents exponents(float* z, float t, float* y) const {
        const int V = s.padded_vocab();
        for (int i = s.vocab; i < V; i++) z[i] = -INFINITY;
        vec top = set1(-INFINITY), sum = set1(0.0f);
        for (int i = 0; i < V; i += W) top = max(top, load(z + i));
        const float highest = hmax(top), sharpen = 1 / t;
        for (int i = 0; i < V; i += W) {
            const vec e = exp((load(z + i) - set1(highest)) * set1(sharpen));
            store(y + i, e);
            sum += e;
        }
        return {highest, hsum(sum)};
    }

    void write_softened(float* logits, float* to) const {
        const float share = 1 / exponents(logits, soft.temperature, to).sum;
        for (int i = 0; i < s.padded_vocab(); i += W) store(to + i, load(to + i) * set1(share));
        std::fill(to + s.vocab, to + s.padded_vocab(), 0.0f);  // exp gives the smallest number
    }

    // The loss of one position, and its gradient times `weight`; nothing where target is -1.
    double position_loss(float* logits, int64_t target, long at, E* d_logits, float weight) {
        if (target < 0) {
            for (int i = 0; grad && i < s.padded_vocab(); i += W) store(d_logits + i, set1(0.0f));
            return 0;
        }
        if (!soft.targets) return cross_entropy(logits, target, nullptr, d_logits, weight);
        const float hard = 1 - soft.weight;
        const double taught = teachers_loss(logits, soft.targets + at * soft.stride, weight);
        return taught + hard * cross_entropy(logits, target, softened, d_logits, hard * weight);
    }

    // What a student's loss has of its teachers' q; its gradient times `weight` is in `softened`.
    double teachers_loss(float* logits, const float* q, float weight) const {
        const int V = s.padded_vocab();
        const float t = soft.temperature;
        vec inner = set1(0.0f);
        for (int i = 0; i < V; i += W) inner = fma(load(logits + i), load(q + i), inner);
        const Exponents e = exponents(logits, t, softened);
        const float slope = soft.weight * t * weight;
        for (int i = 0; i < V; i += W)
            store(softened + i, set1(slope) * (load(softened + i) / set1(e.sum) - load(q + i)));
        return soft.weight * t * t * (e.log_sum(t) - hsum(inner) / t);
    }

    // -log softmax(logits)[target], and its gradient times `weight`, to which `more` is added.
    double cross_entropy(float* logits, int64_t target, const float* more, E* d_logits,
                         float weight) const {
        const int V = s.padded_vocab();
        const float hit = logits[target];
        const Exponents e = exponents(logits, 1, logits);
        const float share = weight / e.sum;
        if (grad) {
            for (int i = 0; i < V; i += W) store(logits + i, load(logits + i) * set1(share));
            logits[target] -= weight;
            for (int i = 0; more && i < V; i += W)
                store(logits + i, load(logits + i) + load(more + i));
            for (int i = 0; i < V; i += W) store(d_logits + i, load(logits + i));
        }
        return std::log((double)e.sum) + e.highest - hit;
    }

    const float* head_norm(Params p, int l, int h) const {  // of head h among queries and keys
        return s.qk_norm ? p.at(l, h < s.heads ? QN : KN) : nullptr;
    }

    // W queries or keys at a time, whose sums are taken together.
    void apply_rope(Params p, int l, const float* rotary, int M) {
        const int D = s.head;
        Activations<E>& a = layers[l];
        for (int m = 0; m < M; m += W)
            for (int h = 0; h < s.heads + s.kv_heads; h++) {
                const E* x = a.qkv + (long)m * s.qkv() + h * D;
                E* y = a.rotated + (long)m * s.rotated() + h * D;
                const float* weight = head_norm(p, l, h);
                float scales[W];
                vec sums[W];
                for (int r = 0; r < W; r++) {
                    scales[r] = 1.0f, sums[r] = set1(0.0f);
                    for (int i = 0; weight && i < D; i += W) {
                        const vec v = load(x + (long)r * s.qkv() + i);
                        sums[r] = fma(v, v, sums[r]);
                    }
                }
                if (weight) store(scales, inverse_norms(sums));
                for (int r = 0; r < W; r++)
                    rotate_scaled(s, x + (long)r * s.qkv(), weight, scales[r], rotary, m % T + r,
                                  y + (long)r * s.rotated());
            }
    }

    // 1 / rms of W heads, of which each `squares` has the squares.
    vec inverse_norms(vec (&squares)[W]) const {
        return set1(1.0f) / sqrt(sums_of(squares) * set1(1.0f / s.head) + set1(s.eps));
    }

    // Where head h's queries, keys and values of sequence b begin, and how far apart rows are.
    struct Heads {
        const E *q, *k, *v;
        long stride;  // of queries and keys; values have qkv()
    };
    Heads find(const Activations<E>& a, int b, int h) const {
        const E* rotated = s.llama ? a.rotated : a.qkv;
        const long stride = s.llama ? s.rotated() : s.qkv();
        const int kv = h / (s.heads / s.kv_heads), D = s.head;
        const E* at = rotated + b * T * stride;
        return {at + h * D, at + (s.heads + kv) * D,
                a.qkv + (long)b * T * s.qkv() + (s.heads + s.kv_heads + kv) * D, stride};
    }

    // The first key that query t of sequence b sees.
    int begin(int b, int t) const { return earliest ? (int)earliest[(long)b * T + t] : 0; }

    // The first key that any of the ROWS queries from `first` on sees, or one shortly before it.
    int begin_of_block(int b, int first) const {
        int begins = first;
        for (int t = first; t < first + ROWS; t++) begins = std::min(begins, begin(b, t));
        return begins / ROWS * ROWS;
    }

    // What the mask of query t of sequence b follows from.
    uint32_t attention_key(int l, int h, int b, int t) const {
        return dropout.key(inside_attention(l, h), first_row + (long)b * T + t);
    }

    // The exponentials of W queries from `first` on, of a block whose scores begin with key `from`,
    // into p; a softmax's shifts and shares. W rows at a time wait less for one another's sums.
    void softmax(int l, int b, int h, int first, int from, int seen, float* shifts, float* shares) {
        const vec scale = set1(1.0f / std::sqrt((float)s.head));
        const long begins = (long)(first % ROWS) * seen;
        vec rows[W];
        for (int i = 0; i < W; i++) {
            float* row = scores + begins + (long)i * seen;
            const int before = begin(b, first + i) - from, after = first + i + 1 - from;
            const int low = before / W * W, last = (after - 1) / W * W;
            for (int j = low; j < before; j++) row[j] = -INFINITY;
            vec top = min(load(row + last), edges.limit(after - last));
            store(row + last, top);
            for (int j = low; j < last; j += W) top = max(top, load(row + j));
            rows[i] = top;
        }
        store(shifts + first, maxima_of(rows) * -scale);
        for (int i = 0; i < W; i++) {
            const float* row = scores + begins + (long)i * seen;
            E* to = p + begins + (long)i * seen;
            const int before = begin(b, first + i) - from, after = first + i + 1 - from;
            const int low = before / W * W, last = (after - 1) / W * W;
            const vec shift = set1(shifts[first + i]);
            const uint32_t key = drops_attention() ? attention_key(l, h, b, first + i) : 0;
            auto kept = [&](int j, vec e) {
                return drops_attention() ? e * dropout.scale(key, from + j) : e;
            };
            vec sum = set1(0.0f);
            for (int j = low; j < last; j += W) {
                const vec e = exp_for<E>(fma(load(row + j), scale, shift));
                sum += e;
                store(to + j, kept(j, e));
            }
            const vec e =
                exp_for<E>(fma(load(row + last), scale, shift)) * edges.keep(after - last);
            store(to + last, kept(last, e));
            rows[i] = sum + e;
            for (int j = 0; j < low; j += W) store(to + j, set1(0.0f));
            for (int j = low; j < before; j++) to[j] = E{};
            for (int j = last + W; j < seen; j += W) store(to + j, set1(0.0f));
        }
        store(shares + first, set1(1.0f) / sums_of(rows));
    }

    // Causal attention of one head of one sequence, ROWS queries at a time.
    void attend(Activations<E>& a, int l, int b, int h) {
        const int D = s.head, HD = s.heads * D;
        const float scale = 1.0f / std::sqrt((float)D);
        const Heads at = find(a, b, h);
        float *shifts = a.shifts + ((long)b * s.heads + h) * T,
              *shares = a.shares + ((long)b * s.heads + h) * T;
        E* o = a.o + (long)b * T * HD + h * D;
        pack_columns(at.k, at.stride, D, T, keys);
        pack_rows(at.v, s.qkv(), T, D, values);
        for (int first = 0; first < T; first += ROWS) {
            const int from = begin_of_block(b, first), seen = first + ROWS - from;
            multiply_into(at.q + first * at.stride, at.stride, keys + (long)from * D, ROWS, seen, D,
                          scores, seen);
            for (int i = 0; i < ROWS; i += W)
                softmax(l, b, h, first + i, from, seen, shifts, shares);
            gemm(p, (long)seen, (long)PAIR<E>, values + (long)from * NR, (long)T * NR, ROWS, D,
                 seen / PAIR<E>, [=](int m, int n, vec v) {
                     store(o + (long)(first + m) * HD + n, v * set1(shares[first + m]));
                 });
        }
    }

    // d_wide's queries, keys and values of one key-value head of one sequence, from d_small = d o.
    void attend_backward(const Activations<E>& a, int l, int b, int kv) {
        const int D = s.head, HD = s.heads * D, group = s.heads / s.kv_heads;
        const float scale = 1.0f / std::sqrt((float)D);
        const Heads at = find(a, b, kv * group);
        E* d_qkv = d_wide + (long)b * T * s.qkv();
        pack_columns(at.k, at.stride, D, T, keys);
        pack_rows(at.k, at.stride, T, D, key_rows);
        pack_columns(at.v, s.qkv(), D, T, value_columns);
        // where documents end, keys that a block of queries does not see are not packed for it
        const long span = earliest ? ROWS : this->span;
        for (int h = kv * group; h < (kv + 1) * group; h++) {
            const E* q = find(a, b, h).q;
            const E* o = a.o + (long)b * T * HD + h * D;
            const E* d_o = d_small + (long)b * T * HD + h * D;
            const float *shifts = a.shifts + ((long)b * s.heads + h) * T,
                        *shares = a.shares + ((long)b * s.heads + h) * T;
            pack_rows(q, at.stride, T, D, queries);
            pack_rows(d_o, HD, T, D, d_heads);
            for (int first = 0; first < T; first += ROWS) {
                const int from = begin_of_block(b, first), seen = first + ROWS - from;
                float inner[ROWS];  // d_o . o of each query
                uint32_t mask_keys[ROWS] = {};
                for (int i = 0; i < ROWS; i += W) {
                    vec sums[W];
                    for (int r = 0; r < W; r++) {
                        const long row = (long)(first + i + r) * HD;
                        sums[r] = load(o + row) * load(d_o + row);
                        for (int j = W; j < D; j += W)
                            sums[r] = fma(load(o + row + j), load(d_o + row + j), sums[r]);
                    }
                    store(inner + i, sums_of(sums));
                }
                for (int i = 0; drops_attention() && i < ROWS; i++)
                    mask_keys[i] = attention_key(l, h, b, first + i);
                for (int n = 0; n < seen; n += NR) {
                    const long column = from + n;  // of keys and values
                    multiply_into(q + first * at.stride, at.stride, keys + column * D, ROWS, NR, D,
                                  scores, NR);
                    multiply_into(d_o + (long)first * HD, HD, value_columns + column * D, ROWS, NR,
                                  D, slopes, NR);
                    // whether some query of the block does not see some of these keys
                    const bool edge = earliest || column + NR > first;
                    for (int i = 0; i < ROWS; i++) {
                        const vec shift = set1(shifts[first + i]), part = set1(shares[first + i]);
                        const int before = begin(b, first + i) - column,
                                  after = first + i + 1 - column;
                        for (int j = 0; j < NR; j += W) {
                            vec e = fma(load(scores + i * NR + j), set1(scale), shift);
                            vec share = exp_for<E>(e) * part, v = load(slopes + i * NR + j);
                            if (edge)
                                share *= edges.keep(after - j) - edges.keep(before - j);
                            vec kept = share;
                            if (drops_attention()) {
                                const vec mask = dropout.scale(mask_keys[i], column + j);
                                kept *= mask, v *= mask;
                            }
                            store(p + (long)i * seen + n + j, kept);
                            store(ds + (long)i * seen + n + j,
                                  share * (v - set1(inner[i])) * set1(scale));
                        }
                    }
                }
                const int at = first % span;  // in packed_p and packed_ds
                pack_left(p, seen, ROWS, seen, packed_p + from * span + left_offset<E>(at),
                          span * NR);
                pack_left(ds, seen, ROWS, seen, packed_ds + from * span + left_offset<E>(at),
                          span * NR);
                E* dq = d_qkv + (long)first * s.qkv() + h * D;
                gemm(ds, (long)seen, (long)PAIR<E>, key_rows + (long)from * NR, (long)T * NR, ROWS,
                     D, seen / PAIR<E>,
                     [=, N = s.qkv()](int m, int n, vec v) { store(dq + (long)m * N + n, v); });
                const int end = first + ROWS, begins = first - at;  // of the span
                if (end % span && end < T) continue;
                for (int key = from; key < end; key += ROWS) {
                    // queries that see these keys; the first that do begin their gradients
                    const int query = std::max(key, begins), steps = (end - query) / PAIR<E>;
                    const long left = key * span + left_offset<E>(query - begins);
                    const bool begin = key >= begins && h == kv * group;
                    add_transposed(packed_p + left, span * NR, d_heads + query * NR, (long)T * NR,
                                   ROWS, D, steps, begin, dv + (long)key * D, D);
                    add_transposed(packed_ds + left, span * NR, queries + query * NR, (long)T * NR,
                                   ROWS, D, steps, begin, dk + (long)key * D, D);
                }
            }
        }
        for (int t = 0; t < T; t++)
            for (int j = 0; j < D; j += W) {
                store(d_qkv + (long)t * s.qkv() + (s.heads + kv) * D + j, load(dk + t * D + j));
                store(d_qkv + (long)t * s.qkv() + (s.heads + s.kv_heads + kv) * D + j,
                      load(dv + t * D + j));
            }
    }

    // The gradients of W queries or keys before rotation and norm, in place, from the ones after;
    // adds to the norm's. Rows are qkv() apart.
    void rope_backward(const E* x, const float* weight, float* d_weight, const float* rotary,
                       int position, E* d) {
        const int D = s.head, half = D / 2, stride = s.qkv();
        vec squares[W], inner[W];
        for (int r = 0; r < W; r++) {
            const float* cosines = rotary + (long)(position + r) * D;
            const float* sines = rotary + ((long)s.context + position + r) * D + half;
            const E* xs = x + (long)r * stride;
            E* ds = d + (long)r * stride;
            float* dy = turned + r * D;
            squares[r] = inner[r] = set1(0.0f);
            for (int i = 0; i < half; i += W) {
                const vec a = load(ds + i), b = load(ds + half + i), cos = load(cosines + i),
                          sin = load(sines + i);
                const vec u = a * cos + b * sin, v = b * cos - a * sin;
                if (!weight) {
                    store(ds + i, u), store(ds + half + i, v);
                    continue;
                }
                store(dy + i, u), store(dy + half + i, v);
                const vec x1 = load(xs + i), x2 = load(xs + half + i);
                squares[r] = fma(x1, x1, fma(x2, x2, squares[r]));
                inner[r] = fma(u * load(weight + i), x1, inner[r]);
                inner[r] = fma(v * load(weight + half + i), x2, inner[r]);
            }
        }
        if (!weight) return;
        float scales[W], slopes[W];
        const vec scale = inverse_norms(squares);
        store(scales, scale);
        store(slopes, scale * scale * scale * sums_of(inner) * set1(-1.0f / D));
        for (int i = 0; i < D; i += W) {
            const vec w = load(weight + i);
            vec sum = load(d_weight + i);
            for (int r = 0; r < W; r++) {
                const vec dy = load(turned + r * D + i) * set1(scales[r]);
                const vec v = load(x + (long)r * stride + i);
                sum = fma(dy, v, sum);
                store(d + (long)r * stride + i, fma(v, set1(slopes[r]), dy * w));
            }
            store(d_weight + i, sum);
        }
    }

    // dx += the gradient of a norm's input from dx_e (M, C), that of its output. Leaves in dx_e the
    // gradient of what was added to the residual stream at `site` before; adds to the weight's.
    void norm_backward(int site, const float* x, const float* scale, const float* mean,
                       const float* weight, float* d_weight, float* d_bias, int M) {
        const int C = s.width;
        for (int m = 0; m < M; m++, x += C) {
            E* dy = dx_e + (long)m * C;
            vec sum = set1(0.0f), inner = set1(0.0f);
            const vec r = set1(scale[m]), centre = set1(mean[m]);
            for (int i = 0; i < C; i += W) {
                const vec unit = (load(x + i) - centre) * r, d = load(dy + i),
                          t = d * load(weight + i);
                store(d_weight + i, fma(d, unit, load(d_weight + i)));
                if (d_bias) store(d_bias + i, load(d_bias + i) + d);
                sum += t;
                inner = fma(t, unit, inner);
            }
            const vec shift = set1(s.llama ? 0.0f : hsum(sum) / C), slope = set1(hsum(inner) / C);
            float* to = dx + (long)m * C;
            for (int i = 0; i < C; i += W) {
                const vec unit = (load(x + i) - centre) * r, t = load(dy + i) * load(weight + i);
                const vec d = load(to + i) + r * (t - shift - unit * slope);
                store(to + i, d);
                store(dy + i, d);
            }
        }
        if (dropout.rate && site != EMBEDDING) drop(site, dx_e, M);
    }

    // d_w (N, K) += dy (M, N)^T x (M, K), and the bias's gradient; dy's rows are `stride` apart.
    void weight_gradient(const E* dy, int stride, const E* x, int M, int N, int K, float* d_w,
                         float* d_bias) {
        pack_left(dy, stride, M, stride, packed_dy, (long)M * NR);
        pack_rows(x, K, M, K, packed_x);
        add_transposed(packed_dy, (long)M * NR, packed_x, (long)M * NR, N, K, M / PAIR<E>, fresh,
                       d_w, K);
        if (d_bias)
            for (int m = 0; m < M; m++)
                for (int n = 0; n < N; n += W)
                    store(d_bias + n, load(d_bias + n) + load(dy + (long)m * stride + n));
    }

    // y (M, K) = dy (M, N) w
    static void linear_backward(const E* dy, const Packed<E>& w, int M, int N, int K, E* y) {
        multiply(dy, N, w.back, M, K, N,
                 [=](int m, int n, vec v) { store(y + (long)m * K + n, v); });
    }

    void backward(const Weights<E>& w, Params p, Params g, const float* rotary, int B) {
        const int M = B * T, C = s.width, D = s.head, HD = s.heads * D, F = s.hidden,
                  V = s.padded_vocab();
        weight_gradient(d_logits, V, normed, M, s.vocab, C, g[HEAD], nullptr);
        linear_backward(d_logits, w.head, M, V, C, dx_e);
        memset(dx, 0, sizeof(float) * M * C);
        norm_backward(after_mlp(s.layers - 1), x, scale, mean, p[LNF], g[LNF], g[LNF_B], M);
        for (int l = s.layers - 1; l >= 0; l--) {
            Activations<E>& a = layers[l];
            weight_gradient(dx_e, C, a.h, M, C, F, g.at(l, OUT), g.at(l, OUT_B));
            auto slope = [=, N = s.gated(), gated = s.llama, slopes = a.fc,
                          d = d_wide](int m, int n, vec v) {
                const long at = (long)m * N + n;
                store(d + at, v * load(slopes + at));
                if (gated) store(d + at + F, v * load(slopes + at + F));
            };
            multiply(dx_e, C, w.out[l].back, M, F, C, slope);
            weight_gradient(d_wide, s.gated(), a.a2, M, s.gated(), C, g.at(l, FC), g.at(l, FC_B));
            linear_backward(d_wide, w.fc[l], M, s.gated(), C, dx_e);
            norm_backward(after_attention(l), a.x2, a.scale2, a.mean2, p.at(l, LN2), g.at(l, LN2),
                          g.at(l, LN2_B), M);

            weight_gradient(dx_e, C, a.o, M, C, HD, g.at(l, PROJ), g.at(l, PROJ_B));
            linear_backward(dx_e, w.proj[l], M, C, HD, d_small);
            for (int b = 0; b < B; b++)
                for (int kv = 0; kv < s.kv_heads; kv++) attend_backward(a, l, b, kv);
            if (s.llama)
                for (int m = 0; m < M; m += W)
                    for (int h = 0; h < s.heads + s.kv_heads; h++) {
                        const long at = (long)m * s.qkv() + h * D;
                        float* d_norm = s.qk_norm ? g.at(l, h < s.heads ? QN : KN) : nullptr;
                        rope_backward(a.qkv + at, head_norm(p, l, h), d_norm, rotary, m % T,
                                      d_wide + at);
                    }
            weight_gradient(d_wide, s.qkv(), a.a1, M, s.qkv(), C, g.at(l, QKV), g.at(l, QKV_B));
            linear_backward(d_wide, w.qkv[l], M, s.qkv(), C, dx_e);
            norm_backward(after_mlp(l - 1), a.x1, a.scale1, a.mean1, p.at(l, LN1), g.at(l, LN1),
                          g.at(l, LN1_B), M);
        }
    }
};

constexpr int CHUNK_TOKENS = 256;  // tokens a thread takes through the model at once

// Lay everything out in the arena and, if it has memory, compute; returns the sum of losses.
template <class E>
double train_step(const Shape& s, Params p, Params* gradients, const float* rotary,
                  const Batch& batch, Dropout dropout, Soft soft, int threads, bool grad,
                  long grad_size, Arena& arena) {
    Weights<E> weights(s, threads, arena, grad);
    const int per_thread = (batch.B + threads - 1) / threads;
    const int chunk = std::max(1, std::min(per_thread, CHUNK_TOKENS / batch.T));
    std::vector<Worker<E>> workers;
    for (int t = 0; t < threads; t++)
        workers.emplace_back(s, batch.T, chunk, grad, dropout, soft, arena);
    if (!arena.base) return 0;
    Team team(threads);
    threads = team.size();
    std::vector<double> losses(threads);
    std::atomic<int> next{0};
    Barrier barrier(threads);
    team.run([&](int t) {
        [[maybe_unused]] const Tiles tiles;
        while (weights.pack_one(s, p, next.fetch_add(1), t)) {
        }
        barrier.wait();
        const Slice mine(batch.B, t, threads);
        if (grad && mine.first == mine.last)
            memset(gradients[t][WTE], 0, sizeof(float) * grad_size);
        for (long b = mine.first; b < mine.last; b += chunk)
            losses[t] += workers[t].sequences(weights, p, grad ? gradients[t] : Params{}, rotary,
                                              batch, b, (int)std::min((long)chunk, mine.last - b),
                                              b == mine.first);
        if (!grad) return;
        barrier.wait();
        const Slice part(grad_size, t, threads);
        for (int other = 1; other < threads; other++)
            for (long i = part.first; i < part.last; i++)
                gradients[0][WTE][i] += gradients[other][WTE][i];
    });
    double loss = 0;
    for (double each : losses) loss += each;
    return loss;
}
