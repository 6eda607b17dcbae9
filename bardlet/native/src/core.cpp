// The C interface of bardlet's compiled core; the modules of bardlet/native/ are its only callers.
//
// No exception leaves it: a call returns 0, or a status that bardlet/native/__init__.py raises as a
// Python error with bardlet_error's words.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include "adamw.h"
#include "decode.h"
#include "muon.h"
#include "train.h"
#ifdef __linux__
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum Status { OK, OUT_OF_MEMORY, FAILED };

static thread_local char error_text[200];

template <class Call>
static int guarded(int threads, Call call) noexcept {
    try {
        if (threads < 1 || threads > MAX_THREADS) throw std::out_of_range("number of threads");
        call();
        return OK;
    } catch (const std::bad_alloc&) {
        snprintf(error_text, sizeof error_text, "the compiled core ran out of memory");
        return OUT_OF_MEMORY;
    } catch (const std::exception& error) {
        snprintf(error_text, sizeof error_text, "the compiled core failed: %s", error.what());
    } catch (...) {
        snprintf(error_text, sizeof error_text, "the compiled core failed");
    }
    return FAILED;
}

// Call run with a value of the matrices' element type.
template <class Run>
static void in_format([[maybe_unused]] int bf16_products, Run run) {
    if constexpr (MULTIPLIES_BF16)
        if (bf16_products) return run(bf16{});
    return run(0.0f);
}

// Ask for large pages where the system has them: reads that wait for no page table are faster.
static void large_pages([[maybe_unused]] char* memory, [[maybe_unused]] size_t bytes) {
#ifdef MADV_HUGEPAGE
    constexpr size_t page = 2 << 20;
    const size_t first = ((size_t)memory + page - 1) / page * page;
    const size_t last = ((size_t)memory + bytes) / page * page;
    if (first < last) madvise((void*)first, last - first, MADV_HUGEPAGE);
#endif
}

extern "C" {

// A hash of the sources that this was compiled from: what loads it compares.
const char* bardlet_source() { return BARDLET_SOURCE; }

// What went wrong in this thread's last call that returned another status than 0.
const char* bardlet_error() { return error_text; }

// Whether the system lets this process use what the build needs. Linux keeps AMX's registers only
// for a process that has asked for it; other systems have not been tried.
int bardlet_permitted() {
#ifndef __AMX_BF16__
    return 1;
#elif defined(__linux__)
    constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, of XTILEDATA
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
    return 0;
#endif
}

// Whether this build multiplies bfloat16.
int bardlet_bf16() { return MULTIPLIES_BF16; }

// FLOP/s of the innermost loop on data in the first cache: what this CPU can reach with it.
int bardlet_peak(int threads, int bf16_products, double* flops) {
    return guarded(threads, [&] {
        in_format(bf16_products, [&](auto e) {
            using E = decltype(e);
            // the fastest of some bursts: others may have the cores during the rest
            constexpr int rows = 8 * MR, depth = TILED<E> ? 256 : 64;
            constexpr int rounds = TILED<E> ? 5000 : 2500, bursts = 8;
            std::atomic<float> used{0};
            Team team(threads);
            double fastest = INFINITY;
            for (int burst = 0; burst < bursts; burst++) {
                const auto began = std::chrono::steady_clock::now();
                team.run([&](int) {
                    [[maybe_unused]] const Tiles tiles;
                    alignas(64) E a[rows * depth] = {}, b[NR * depth] = {};
                    vec sums = set1(0.0f);
                    for (int i = 0; i < rounds; i++)
                        multiply(a, depth, b, rows, NR, depth, [&](int, int, vec v) { sums += v; });
                    used = hsum(sums);
                });
                const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
                fastest = std::min(fastest, took.count());
            }
            *flops = 2.0 * rows * NR * depth * rounds * team.size() / fastest;
        });
    });
}

// Sum of losses over a batch (B, T), into `result`; gradients of the mean over `counted` targets go
// to grads[0]. `soft` as in train.h. Without `memory`, `result` is how many bytes it must have.
// grads: per thread a table like params, its arrays one block of grad_size floats that begins with
// the embedding's.
int bardlet_train(const Shape* s, float* const* params, float* const* const* grads,
                  const float* rotary, const int64_t* idx, const int64_t* targets,
                  const int64_t* earliest, const Soft* soft, int B, int T, float counted,
                  float dropout, uint32_t seed, int threads, int bf16_products, long grad_size,
                  char* memory, double* result) {
    return guarded(threads, [&] {
        Arena arena{memory};
        std::vector<Params> gradients;
        for (int t = 0; grads && t < threads; t++) gradients.push_back({grads[t]});
        in_format(bf16_products, [&](auto e) {
            *result = train_step<decltype(e)>(
                *s, {params}, gradients.data(), rotary, {idx, targets, earliest, B, T, counted},
                {dropout, seed}, *soft, threads, grads != nullptr, grad_size, arena);
        });
        if (!memory) *result = (double)arena.used;
    });
}

// One step of Muon on `count` matrices; without `memory`, `bytes` is how many it must have.
int bardlet_muon(const Matrix* matrices, int count, const Rule* rule, int threads,
                 int bf16_products, char* memory, long* bytes) {
    return guarded(threads, [&] {
        Arena arena{memory};
        in_format(bf16_products,
                  [&](auto e) { muon_step<decltype(e)>(matrices, count, *rule, threads, arena); });
        *bytes = (long)arena.used;
    });
}

// One step of AdamW on `count` parameters.
int bardlet_adamw(const Moments* moments, int count, const AdamRule* rule, int threads) {
    return guarded(threads, [&] { adamw_step(moments, count, *rule, threads); });
}

// The norm of the gradients of `count` parameters together; the rest of `moments` is not read.
int bardlet_norm(const Moments* moments, int count, int threads, double* norm) {
    return guarded(threads, [&] { *norm = gradient_norm(moments, count, threads); });
}

// Token steps; see Decoder. Weights are kept in `bits`: 8 or 4 as integers, else as products take
// floats; keys and values in `cache_bits`: 8 as integers, else as activations are. `packed` holds
// the weights and `memory` the caches between calls; with steps 0 the weights are packed. Without
// `packed`, tells in `sizes` how many bytes each must have.
int bardlet_decode(const Shape* s, float* const* params, const float* rotary, int B, int threads,
                   int bf16_products, int bits, int cache_bits, char* packed, char* memory,
                   long* sizes, const Texts* texts, int steps, const float* uniform) {
    return guarded(threads, [&] {
        in_format(bf16_products, [&](auto e) {
            using E = decltype(e);
            auto decode = [&](auto matrix) {
                Arena weight_arena{packed}, arena{memory};
                Decoder<E, decltype(matrix)> decoder(*s, {params}, rotary, B, threads,
                                                     cache_bits == 8, weight_arena, arena);
                if (!packed) {
                    sizes[0] = (long)weight_arena.used, sizes[1] = (long)arena.used;
                } else if (!steps) {
                    large_pages(packed, weight_arena.used);
                    large_pages(memory, arena.used);
                    decoder.pack();
                } else {
                    decoder.run(*texts, steps, uniform);
                }
            };
            if (bits == 8) decode(Quantised<8>{});
            else if (bits == 4) decode(Quantised<4>{});
            else decode(Packed<E>{});
        });
    });
}
}
