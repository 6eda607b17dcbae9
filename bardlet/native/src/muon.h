// A step of Muon: bardlet/optim.py's, a matrix at a time, its products halved where symmetric.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include "arena.h"
#include "gemm.h"
#include "threads.h"

// bardlet/native/muon.py writes this struct: same order there.
struct Matrix {  // (rows, columns) each; no weight where another process steps it
    float *weight, *gradient, *momentum;
    int32_t rows, columns;
    long size() const { return (long)rows * columns; }
};

struct Rule {
    float rate, momentum, decay;     // decay: the factor of a weight at a step
    float min_norm;                  // a matrix is divided by its norm, but at least by this
    const float (*coefficients)[3];  // of each iteration
    int32_t iterations;
};

template <class E>
class Orthogonaliser {
  public:
    Orthogonaliser(long size, int side, Arena& arena) {
        x = arena.take<E>(size), y = arena.take<E>(size), packed = arena.take<E>(size);
        gram = arena.take<E>((long)side * side), poly = arena.take<E>((long)side * side);
        squares = arena.take<E>((long)side * side);
    }

    void step(const Matrix& w, const Rule& rule) {
        vec squares = set1(0.0f);
        const vec keep = set1(rule.momentum), take = set1(1 - rule.momentum);
        auto update = [&](long i) {  // Nesterov's: the gradient, moved on along the momentum
            return fma(keep, load(w.momentum + i), take * load(w.gradient + i));
        };
        for (long i = 0; i < w.size(); i += W) {
            store(w.momentum + i, update(i));
            const vec u = update(i);
            squares = fma(u, u, squares);
        }
        if (!w.weight) return;
        const float norm = std::sqrt(hsum(squares));
        const vec scale = set1(1.0f / (norm < rule.min_norm ? rule.min_norm : norm));  // keeps NaN
        for (long i = 0; i < w.size(); i += W) store(x + i, update(i) * scale);
        for (int k = 0; k < rule.iterations; k++) iterate(w.rows, w.columns, rule.coefficients[k]);
        const float tall = std::sqrt(std::max(1.0f, (float)w.rows / w.columns));
        const vec rate = set1(-rule.rate * tall), decay = set1(rule.decay);
        for (long i = 0; i < w.size(); i += W)
            store(w.weight + i, fma(rate, load(x + i), decay * load(w.weight + i)));
    }

  private:
    E *x, *y, *packed, *gram, *poly, *squares;

    // x <- a x + (b G + c G G) x with G = x x^T, or G = x^T x from the other side of a tall x.
    void iterate(int rows, int columns, const float* abc) {
        const vec a = set1(abc[0]), b = set1(abc[1]), c = set1(abc[2]);
        const bool tall = rows >= columns;  // a square one too: packing rows is cheaper
        E* left = TILED<E> ? y : packed;
        const int side = std::min(rows, columns), depth = std::max(rows, columns);
        auto to_gram = [&](int i, int j, vec v) { store(gram + (long)i * side + j, v); };
        if (tall) {
            pack_rows(x, columns, rows, columns, packed);
            if (TILED<E>) pack_left(x, columns, rows, columns, left, (long)rows * NR);
        } else {
            pack_columns(x, columns, columns, rows, packed);
        }
        upper(
            gram, side,
            [&](int panel, int above, auto out) {
                const E* part = packed + (long)panel * depth;
                const long size = (long)depth * NR;
                if (tall)
                    multiply_transposed(left, size, part, size, above, NR, depth / PAIR<E>, out);
                else multiply(x, columns, part, above, NR, depth, out);
            },
            to_gram);
        pack_rows(gram, side, side, side, squares);
        upper(
            poly, side,
            [&](int panel, int above, auto out) {
                multiply(gram, side, squares + (long)panel * side, above, NR, side, out);
            },
            [&](int i, int j, vec v) {
                store(poly + (long)i * side + j, fma(c, v, b * load(gram + (long)i * side + j)));
            });
        auto next = [&](int i, int j, vec v) {
            store(y + (long)i * columns + j, fma(a, load(x + (long)i * columns + j), v));
        };
        pack_rows(tall ? poly : x, columns, side, columns, packed);
        multiply(tall ? x : poly, side, packed, rows, columns, side, next);
        std::swap(x, y);
    }

    // A symmetric y (side, side): product(panel, rows, out) for the rows down to each panel's own,
    // handed on to `out` with the panel's column; the rest is mirrored.
    template <class Product, class Out>
    static void upper(E* y, int side, Product product, Out out) {
        for (int panel = 0; panel < side; panel += NR)
            product(panel, panel + NR, [&](int i, int j, vec v) { out(i, panel + j, v); });
        for (int i = 0; i < side; i++)
            for (int j = 0; j < i / NR * NR; j++) y[(long)i * side + j] = y[(long)j * side + i];
    }
};

// Step every matrix, the largest first, each on one thread.
template <class E>
void muon_step(const Matrix* matrices, int count, const Rule& rule, int threads, Arena& arena) {
    if (!count) return;
    std::vector<const Matrix*> order;
    int side = 0;
    for (int i = 0; i < count; i++) {
        order.push_back(matrices + i);
        side = std::max(side, std::min(matrices[i].rows, matrices[i].columns));
    }
    std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->size() > b->size(); });
    std::vector<Orthogonaliser<E>> workers;
    for (int t = 0; t < threads; t++) workers.emplace_back(order[0]->size(), side, arena);
    if (!arena.base) return;
    std::atomic<int> next{0};
    Team(threads).run([&](int t) {
        [[maybe_unused]] const Tiles tiles;
        for (int i; (i = next.fetch_add(1)) < count;) workers[t].step(*order[i], rule);
    });
}
