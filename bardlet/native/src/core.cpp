// The C interface of bardlet's compiled core; the modules of bardlet/native/ are its only callers.
//
// No exception leaves it: a call returns 0, or a status that bardlet/native/__init__.py raises as a
// Python error with bardlet_error's words.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <string>
#include "adamw.h"
#include "decode.h"
#include "muon.h"
#include "train.h"
#ifdef __linux__
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum Status { OK, OUT_OF_MEMORY, FAILED, OUT_OF_RANGE };

// What a caller's numbers point to is not there.
struct OutOfRange : std::runtime_error {
    using std::runtime_error::runtime_error;
};

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
    } catch (const OutOfRange& error) {
        snprintf(error_text, sizeof error_text, "%s", error.what());
        return OUT_OF_RANGE;
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

// Call run with the caller's memory, of which it takes pieces, if that has as many `bytes` as they
// need. `bytes` becomes how many that are: where it grows, nothing was done.
template <class Run>
static void in_memory(char* memory, long* bytes, Run run) {
    Arena counted{nullptr}, arena{memory};
    run(counted);
    const bool fits = (long)counted.used <= *bytes;
    *bytes = (long)counted.used;
    if (fits && memory) run(arena);
}

// How many targets count. OutOfRange where an id or a position is not there.
static int count_targets(const Shape& s, const Batch& batch) {
    int counted = 0;
    for (long i = 0; i < (long)batch.B * batch.T; i++) {
        const int64_t token = batch.idx[i], target = batch.targets[i];
        if (token < 0 || token >= s.vocab || target < -1 || target >= s.vocab)
            throw OutOfRange("token ids must be in [0, " + std::to_string(s.vocab) + ")");
        if (batch.earliest && (batch.earliest[i] < 0 || batch.earliest[i] > i % batch.T))
            throw OutOfRange("a position attends to itself and to what is before it");
        counted += target >= 0;
    }
    return counted;
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

// Mean loss over a batch (B, T), into `result`; with `gradients`, their block of grad_size floats,
// in which each of the parameters' begins where `begins` says (-1: there is none), and `others` with
// such a block for each thread but the first. `soft` as in train.h, `memory` as in in_memory.
int bardlet_train(const Shape* s, float* const* params, const long* begins, float* gradients,
                  float* others, const float* rotary, const int64_t* idx, const int64_t* targets,
                  const int64_t* earliest, const Soft* soft, int B, int T, float dropout,
                  uint32_t seed, int threads, int bf16_products, long grad_size, double* result,
                  char* memory, long* bytes) {
    return guarded(threads, [&] {
        Batch batch{idx, targets, earliest, B, T, 0};
        const int counted = std::max(1, count_targets(*s, batch));
        batch.counted = (float)counted;
        const int slots = FIRST_LAYER + s->layers * PER_LAYER;
        std::vector<float*> table;
        std::vector<Params> grads;
        for (int t = 0; gradients && t < threads; t++)
            for (int i = 0; i < slots; i++) {
                float* block = t ? others + (t - 1) * grad_size : gradients;
                table.push_back(begins[i] < 0 ? nullptr : block + begins[i]);
            }
        for (size_t first = 0; first < table.size(); first += slots) grads.push_back({&table[first]});
        in_format(bf16_products, [&](auto e) {
            in_memory(memory, bytes, [&](Arena& arena) {
                *result = train_step<decltype(e)>(*s, {params}, grads.data(), rotary, batch,
                                                  {dropout, seed}, *soft, threads,
                                                  gradients != nullptr, grad_size, arena) /
                          counted;
            });
        });
    });
}

// One step of Muon on `count` matrices; `memory` as in in_memory.
int bardlet_muon(const Matrix* matrices, int count, const Rule* rule, int threads,
                 int bf16_products, char* memory, long* bytes) {
    return guarded(threads, [&] {
        in_format(bf16_products, [&](auto e) {
            in_memory(memory, bytes, [&](Arena& arena) {
                muon_step<decltype(e)>(matrices, count, *rule, threads, arena);
            });
        });
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
