// A step of AdamW, and the norm of gradients: bardlet/optim.py's, for all tensors in one call.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>
#include "threads.h"

// bardlet/native/adamw.py writes these structs: same order there.
struct Moments {  // of one parameter; `size` numbers each, a multiple of W
    float *weight, *gradient, *mean, *square, *steps;  // steps: one number, those taken so far
    int64_t size;
    float decay;  // the factor of the weights at a step
    float scale;  // of the gradients
};

struct AdamRule {
    double rate, beta1, beta2, eps;
};

// Numbers of one parameter, which one thread takes. Sums over them do not depend on the threads.
struct Stretch {
    static constexpr int64_t LENGTH = 1 << 14;
    const Moments* of;
    int64_t first, last;

    static std::vector<Stretch> all(const Moments* moments, int count) {
        std::vector<Stretch> stretches;
        for (const Moments* m = moments; m < moments + count; m++)
            for (int64_t i = 0; i < m->size; i += LENGTH)
                stretches.push_back({m, i, std::min(m->size, i + LENGTH)});
        return stretches;
    }

    double squares() const {
        vec sum = set1(0.0f);
        for (int64_t i = first; i < last; i += W) {
            const vec g = load(of->gradient + i);
            sum = fma(g, g, sum);
        }
        return hsum(sum);
    }

    void step(const AdamRule& rule) const {
        const Moments& m = *of;
        const double taken = *m.steps;  // this one, too
        const vec keep_square = set1((float)rule.beta2), eps = set1((float)rule.eps);
        const vec to_mean = set1((float)(1 - rule.beta1)), to_square = set1((float)(1 - rule.beta2));
        const vec unbiased = set1((float)(1 / std::sqrt(1 - std::pow(rule.beta2, taken))));
        const vec rate = set1((float)(-rule.rate / (1 - std::pow(rule.beta1, taken))));
        const vec decay = set1(m.decay), scale = set1(m.scale);
        for (int64_t i = first; i < last; i += W) {
            const vec g = load(m.gradient + i) * scale, before = load(m.mean + i);
            const vec mean = fma(to_mean, g - before, before);
            const vec square = fma(to_square * g, g, keep_square * load(m.square + i));
            store(m.mean + i, mean), store(m.square + i, square);
            const vec change = mean / fma(sqrt(square), unbiased, eps);
            store(m.weight + i, fma(rate, change, decay * load(m.weight + i)));
        }
    }
};

// `share` is how many numbers are worth waking a thread for, which takes some 50 microseconds.
template <class Work>
void on_stretches(const std::vector<Stretch>& stretches, int threads, int64_t share, Work work) {
    int64_t size = 0;
    for (const Stretch& each : stretches) size += each.last - each.first;
    Team team((int)std::min<int64_t>(threads, 1 + size / share));
    team.run([&, count = team.size()](int t) {
        const Slice mine((long)stretches.size(), t, count);
        for (long i = mine.first; i < mine.last; i++) work(i);
    });
}

inline void adamw_step(const Moments* moments, int count, const AdamRule& rule, int threads) {
    const std::vector<Stretch> stretches = Stretch::all(moments, count);
    for (int i = 0; i < count; i++) *moments[i].steps += 1;
    on_stretches(stretches, threads, 1 << 16, [&](long i) { stretches[i].step(rule); });
}

inline double gradient_norm(const Moments* moments, int count, int threads) {
    const std::vector<Stretch> stretches = Stretch::all(moments, count);
    std::vector<double> squares(stretches.size());
    on_stretches(stretches, threads, 1 << 18,
                 [&](long i) { squares[i] = stretches[i].squares(); });
    double sum = 0;
    for (double each : squares) sum += each;
    return std::sqrt(sum);
}
