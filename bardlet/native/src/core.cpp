// The C interface of bardlet's compiled core; the modules of bardlet/native/ are its only callers.
#include <algorithm>
#include <chrono>
#include "decode.h"
#include "muon.h"
#include "train.h"

// Call run with a value of the element type that matrices shall have.
template <class Run>
auto in_format([[maybe_unused]] int bf16_products, Run run) {
#ifdef __AVX512BF16__
    if (bf16_products) return run(bf16{});
#endif
    return run(0.0f);
}

extern "C" {

// A hash of the sources that this was compiled from: what loads it compares.
const char* bardlet_source() { return BARDLET_SOURCE; }

// Whether this build multiplies bfloat16.
int bardlet_bf16() {
#ifdef __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}

// FLOP/s of the innermost loop on data in the first cache: what this CPU can reach with it.
double bardlet_peak(int threads, int bf16_products) {
    return in_format(bf16_products, [&](auto e) {
        using E = decltype(e);
        constexpr int rows = 8 * MR, depth = 64, rounds = 20000;
        std::atomic<float> used{0};
        const auto began = std::chrono::steady_clock::now();
        run_threads(threads, [&](int) {
            alignas(64) E a[rows * depth] = {}, b[NR * depth] = {};
            vec sums = set1(0.0f);
            for (int i = 0; i < rounds; i++)
                multiply(a, depth, b, rows, NR, depth, [&](int, int, vec v) { sums += v; });
            used = hsum(sums);
        });
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
        return 2.0 * rows * NR * depth * rounds * threads / took.count();
    });
}

// Sum of losses over a batch (B, T); gradients of the mean over `counted` targets go to grads[0].
// Without `memory`, returns how many bytes it must have. grads: per thread a table like params,
// its arrays one block of grad_size floats that begins with the embedding's.
double bardlet_train(const Shape* s, float* const* params, float* const* const* grads,
                     const float* rotary, const int64_t* idx, const int64_t* targets,
                     const int64_t* earliest, int B, int T, float counted, float dropout,
                     uint32_t seed, int threads, int bf16_products, long grad_size, char* memory) {
    Arena arena{memory};
    std::vector<Params> gradients;
    for (int t = 0; grads && t < threads; t++) gradients.push_back({grads[t]});
    const double loss = in_format(bf16_products, [&](auto e) {
        return train_step<decltype(e)>(*s, {params}, gradients.data(), rotary,
                                       {idx, targets, earliest, B, T, counted}, {dropout, seed},
                                       threads, grads != nullptr, grad_size, arena);
    });
    return memory ? loss : (double)arena.used;
}

// One step of Muon on `count` matrices; without `memory`, returns how many bytes it must have.
long bardlet_muon(const Matrix* matrices, int count, const Rule* rule, int threads,
                  int bf16_products, char* memory) {
    Arena arena{memory};
    in_format(bf16_products, [&](auto e) {
        muon_step<decltype(e)>(matrices, count, *rule, threads, arena);
        return 0;
    });
    return arena.used;
}

// Token steps; see Decoder. `packed` holds the weights and `memory` the caches between calls; with
// steps 0 the weights are packed. Without `packed`, tells in `sizes` how many bytes each must have.
void bardlet_decode(const Shape* s, float* const* params, const float* rotary, int B, int threads,
                    int bf16_products, char* packed, char* memory, long* sizes, int64_t* tokens,
                    long stride, int past, int known, int steps, float temperature, int top_k,
                    const float* uniform) {
    Arena weight_arena{packed}, arena{memory};
    in_format(bf16_products, [&](auto e) {
        Decoder<decltype(e)> decoder(*s, {params}, rotary, B, threads, weight_arena, arena);
        if (!packed) sizes[0] = weight_arena.used, sizes[1] = arena.used;
        else if (!steps) decoder.pack();
        else decoder.run(tokens, stride, past, known, steps, {temperature, top_k, uniform});
        return 0;
    });
}
}
