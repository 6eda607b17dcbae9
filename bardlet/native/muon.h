// Newton-Schulz iterations for Muon: bardlet/optim.py's newton_schulz, its products halved where
// they are symmetric.
#pragma once
#include <algorithm>
#include "gemm.h"
#include "threads.h"

template <class E>
struct Orthogonaliser {
    const int m, n;
    E *gram, *poly, *columns, *rows, *squares;

    template <class Arena>
    Orthogonaliser(int m, int n, Arena& arena) : m(m), n(n) {
        gram = arena.template take<E>(m * m), poly = arena.template take<E>(m * m);
        columns = arena.template take<E>(m * n), rows = arena.template take<E>(m * n);
        squares = arena.template take<E>(m * m);
    }

    // y (m, m) = out(A packed), of which only the panels' upper part is computed, the rest
    // mirrored.
    template <class Out>
    void symmetric(const E* a, int depth, const E* packed, E* y, Out out) {
        for (int c = 0; c < m; c += NR) {
            auto shifted = [&](int i, int j, vec v) { out(i, c + j, v); };
            multiply(a, depth, packed + (long)c * depth, c + NR, NR, depth, shifted);
        }
        for (int i = 0; i < m; i++)
            for (int j = 0; j < i / NR * NR; j++) y[i * m + j] = y[j * m + i];
    }

    // One iteration, in place: x <- a x + (b G + c G G) x with G = x x^T.
    void iterate(E* x, float a, float b, float c) {
        pack_columns(x, n, n, m, columns);
        symmetric(x, n, columns, gram, [&](int i, int j, vec v) { store(gram + i * m + j, v); });
        pack_rows(gram, m, m, m, squares);
        symmetric(gram, m, squares, poly, [&](int i, int j, vec v) {
            store(poly + i * m + j, fma(all(c), v, all(b) * load(gram + i * m + j)));
        });
        pack_rows(x, n, m, n, rows);
        multiply(poly, m, rows, m, n, m, [&](int i, int j, vec v) {
            store(x + (long)i * n + j, fma(all(a), load(x + (long)i * n + j), v));
        });
    }
};

// In place on `count` matrices x (m, n); coefficients (iterations, 3).
template <class E, class Arena>
void orthogonalise(E* x, int count, int m, int n, const float* coefficients, int iterations,
                   int threads, Arena& arena) {
    std::vector<Orthogonaliser<E>> workers;
    for (int t = 0; t < threads; t++) workers.emplace_back(m, n, arena);
    if (!arena.base) return;
    std::atomic<int> next{0};
    run_threads(std::min(threads, count), [&](int t) {
        for (int i; (i = next.fetch_add(1)) < count;)
            for (int k = 0; k < iterations; k++)
                workers[t].iterate(x + (long)i * m * n, coefficients[3 * k],
                                   coefficients[3 * k + 1], coefficients[3 * k + 2]);
    });
}
