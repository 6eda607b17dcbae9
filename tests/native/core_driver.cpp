// Runs the core on numbers of its own making and writes every result to stdout, for
// tests/native/test_other_cpus.py, which compares the results of builds for different CPUs.
//
// A record is a line "name kind count", then `count` numbers of 4 bytes: f, floats, or i, int32.
#include "core.cpp"

static uint32_t state;

static float random_number() {  // in [-1, 1)
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (1 << 23) - 1.0f;
}

static std::vector<float> random_numbers(long n, float size) {
    std::vector<float> x(n);
    for (float& each : x) each = size * random_number();
    return x;
}

static std::string section;  // put before the names that follow

static void record(const char* name, const void* data, char kind, size_t count) {
    printf("%s%s %c %zu\n", section.c_str(), name, kind, count);
    fwrite(data, 4, count, stdout);
}
static void record(const char* name, const std::vector<float>& x) {
    record(name, x.data(), 'f', x.size());
}
static void record(const char* name, const std::vector<int32_t>& x) {
    record(name, x.data(), 'i', x.size());
}

static void check(int status) {
    if (!status) return;
    fprintf(stderr, "%s\n", bardlet_error());
    exit(1);
}

// What the headers of each instruction set define, on numbers that lie at its edges.
static void primitives() {
    section = "vector ";
    std::vector<float> x = random_numbers(256 - 16, 90.0f);
    for (float edge : {0.0f, -0.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 88.3f, -87.3f, 1e30f, -1e30f,
                       1e-30f, 32767.4f, -40000.0f, INFINITY, -INFINITY})
        x.push_back(edge);
    const size_t n = x.size();
    std::vector<float> y(n);
    auto each = [&](const char* name, auto call) {
        for (size_t i = 0; i < n; i += W) store(&y[i], call(load(&x[i]), load(&x[n - W - i])));
        record(name, y);
    };
    each("exp", [](vec a, vec) { return exp(a); });
    each("exp for floats", [](vec a, vec) { return exp_for<float>(a); });
    each("exp for bf16", [](vec a, vec) { return exp_for<bf16>(a); });
    each("reciprocal", [](vec a, vec) { return reciprocal(min(abs(a), set1(1e30f)) + set1(1)); });
    each("erf", [](vec a, vec) { return erf(a * set1(0.03f), exp(a * a * set1(-0.0009f))); });
    each("round", [](vec a, vec) { return round(a); });
    each("sqrt", [](vec a, vec) { return sqrt(abs(a)); });
    each("max", [](vec a, vec b) { return max(a, b); });
    each("min", [](vec a, vec b) { return min(a, b); });
    each("abs", [](vec a, vec) { return abs(a); });
    each("sign", [](vec a, vec b) { return or_sign(abs(a), b); });
    each("scaled", [](vec a, vec b) { return times_power_of_two(a, round(min(abs(b), set1(9)))); });
    const vec nan = set1(NAN), one = set1(1.0f);
    const float of_nan[] = {max(nan, one)[0], max(one, nan)[0], min(nan, one)[0], min(one, nan)[0],
                            exp(nan)[0]};
    record("of NaN", of_nan, 'f', 5);
    std::vector<float> sums(2);
    sums[0] = hsum(load(x.data())), sums[1] = hmax(load(x.data()));  // W differs between CPUs
    if (W == 8) record("hsum", sums);
    std::vector<int16_t> nearest(n), halves(n);
    for (size_t i = 0; i < n; i += W)
        store_nearest(&nearest[i], min(set1(1e9f), max(set1(-1e9f), load(&x[i]) * set1(300.0f))));
    record("nearest", nearest.data(), 'i', n / 2);
    for (size_t i = 0; i < n; i++) halves[i] = (int16_t)half_bits(x[i]);
    record("half bits", halves.data(), 'i', n / 2);
    for (size_t i = 0; i < n; i += W) store(&y[i], load_halves((uint16_t*)&halves[i]));
    record("halves", y);
}

// Products of rows: all of them, and each row alone.
template <class E>
static void products(const char* name) {
    state = 2;
    section = std::string(name) + " products ";
    constexpr int M = 11, N = 64, K = 96;
    const std::vector<float> x = random_numbers(M * K, 1), w = random_numbers(N * K, 1);
    std::vector<E> a(M * K), band(NR * K), panels(N * K);
    for (int i = 0; i < M * K; i += W) store(&a[i], load(&x[i]));
    Packed<E>{panels.data(), nullptr}.pack(w.data(), N, K, band.data());
    std::vector<float> y(M * N), alone(M * N), outer(32 * N);
    multiply(a.data(), K, panels.data(), M, N, K,
             [&](int m, int n, vec v) { store(&y[m * N + n], v); });
    for (int row = 0; row < M; row++)
        multiply(&a[row * K], K, panels.data(), 1, N, K,
                 [&](int, int n, vec v) { store(&alone[row * N + n], v); });
    record("rows", y);
    record("rows=alone", alone);
    std::vector<E> left(32 * 32), right(32 * N);  // 32 steps of 32 rows and of N columns
    pack_left(a.data(), 32, 32, 32, left.data(), 32L * NR);
    std::vector<E> b(32 * N);
    for (int i = 0; i < 32 * N; i += W) store(&b[i], load(&w[i]));
    pack_rows(b.data(), N, 32, N, right.data());
    multiply_transposed(left.data(), 32L * NR, right.data(), 32L * NR, 32, N, 32 / PAIR<E>,
                        [&](int m, int n, vec v) { store(&outer[m * N + n], v); });
    record("transposed", outer);
    add_transposed(left.data(), 32L * NR, right.data(), 32L * NR, 32, N, 32 / PAIR<E>, false,
                   outer.data(), N);
    record("transposed, added", outer);
}

template <int BITS>
static void integer_products(const char* name) {
    section = name;
    constexpr int M = 7, N = 64, K = 96;
    const std::vector<float> x = random_numbers(M * K, 3), w = random_numbers(N * K, 0.1f);
    std::vector<char> block(1 << 20);
    std::vector<float> y(M * N), alone(M * N);
    Arena arena{block.data()};
    auto packed = Quantised<BITS>::take(arena, N, K, false);
    packed.pack(w.data(), N, K, nullptr);
    IntegerRows rows = IntegerRows::take(arena, M, K);
    rows.round(x.data(), M, K);
    multiply(rows, packed, M, K, 0, N, [&](int m, int n, vec v) { store(&y[m * N + n], v); });
    for (int row = 0; row < M; row++) {
        rows.round(&x[row * K], 1, K);
        multiply(rows, packed, 1, K, 0, N,
                 [&](int, int n, vec v) { store(&alone[row * N + n], v); });
    }
    record("rows", y);
    record("rows=alone", alone);
}

// A model with random weights, none of them zero or one.
struct Model {
    Shape s;
    std::vector<std::vector<float>> tensors;
    std::vector<float> rotary;

    Model(const Shape& shape, bool bias) : s(shape) {
        const int C = s.width, D = s.head;
        auto add = [&](bool there, long n, float around, float size) {
            tensors.push_back(random_numbers(there ? n : 0, size));
            for (float& each : tensors.back()) each += around;
        };
        auto norm = [&](bool there, int n) { add(there, n, 1, 0.2f); };
        auto matrix = [&](long rows, long columns) { add(true, rows * columns, 0, 0.15f); };
        auto shift = [&](int n) { add(bias, n, 0, 0.2f); };
        matrix(s.vocab, C);
        add(!s.llama, (long)s.context * C, 0, 0.1f);
        norm(true, C), shift(C), matrix(s.vocab, C);
        for (int l = 0; l < s.layers; l++) {
            norm(true, C), shift(C), matrix(s.qkv(), C), shift(s.qkv());
            matrix(C, s.heads * D), shift(C), norm(s.qk_norm, D), norm(s.qk_norm, D);
            norm(true, C), shift(C), matrix(s.gated(), C), shift(s.gated());
            matrix(C, s.hidden), shift(C);
        }
        rotary.resize(2L * s.context * D);
        for (int t = 0; t < s.context; t++)
            for (int i = 0; i < D; i++) {
                const double angle = t / std::pow(1e4, 2.0 * (i % (D / 2)) / D);
                rotary[t * D + i] = (float)std::cos(angle);
                rotary[(s.context + t) * D + i] = (float)std::sin(angle);
            }
    }

    // Addresses of arrays as long as the tensors, one after the other in `block`.
    std::vector<float*> layout(std::vector<float>& block) const {
        long size = 0;
        for (auto& each : tensors) size += (long)each.size();
        block.assign(size, 0.0f);
        std::vector<float*> table;
        float* at = block.data();
        for (auto& each : tensors) {
            table.push_back(each.empty() ? nullptr : at);
            at += each.size();
        }
        return table;
    }

    std::vector<float*> parameters() {
        std::vector<float*> table;
        for (auto& each : tensors) table.push_back(each.empty() ? nullptr : each.data());
        return table;
    }
};

static char* aligned(std::vector<char>& block, size_t size) {
    block.assign(size + 64, 0);
    return block.data() + -(uintptr_t)block.data() % 64;
}

struct Learning {
    float dropout;
    bool documents, soft;
};

// Loss and gradients of a batch, twice; losses of its sequences alone; and a step of Muon.
static void training(const char* name, Model& model, int bf16_products, int threads,
                     Learning with) {
    section = std::string(name) + " ";
    const Shape& s = model.s;
    const int B = 5, T = s.context, V = (int)round_up(s.vocab, 32);
    std::vector<int64_t> idx(B * T), targets(B * T), earliest(B * T);
    for (int i = 0; i < B * T; i++) {
        idx[i] = (int64_t)((random_number() + 1) / 2 * s.vocab);
        targets[i] = i % 7 == 3 ? -1 : (int64_t)((random_number() + 1) / 2 * s.vocab);
        earliest[i] = i % T > 17 ? 17 : 0;
    }
    std::vector<float> taught(with.soft ? (long)B * T * V : 0);
    for (long i = 0; i < (long)taught.size(); i++)
        taught[i] = i % V < s.vocab ? 1.0f / s.vocab : 0.0f;
    const Soft soft{with.soft ? taught.data() : nullptr, nullptr, V, with.soft ? 0.4f : 0.0f, 1.5f};
    auto params = model.parameters();
    std::vector<char> block;
    auto run = [&](int first, int count, std::vector<float>* grads) {
        std::vector<float> others;
        std::vector<long> begins;
        if (grads) {
            const std::vector<float*> table = model.layout(*grads);
            for (const float* each : table) begins.push_back(each ? each - grads->data() : -1);
            others.resize((threads - 1) * grads->size());
        }
        double result;
        long bytes = 0;
        char* memory = nullptr;
        for (int call = 0; call < 2; call++) {
            check(bardlet_train(&s, params.data(), begins.data(), grads ? grads->data() : nullptr,
                                others.data(), s.llama ? model.rotary.data() : nullptr,
                                &idx[first * T], &targets[first * T],
                                with.documents ? &earliest[first * T] : nullptr, &soft, count, T,
                                with.dropout, 7, threads, bf16_products,
                                grads ? (long)grads->size() : 0, &result, memory, &bytes));
            if (!memory) memory = aligned(block, (size_t)bytes);
        }
        return (float)result;
    };
    std::vector<float> grads, again;
    record("loss", std::vector<float>{run(0, B, &grads)});
    record("loss=again", std::vector<float>{run(0, B, &again)});
    record("gradients", grads);
    record("gradients=again", again);
    if (with.dropout || with.soft) return;
    std::vector<float> sequences;
    for (int b = 0; b < B; b++) sequences.push_back(run(b, 1, nullptr));
    record("losses of each sequence", sequences);
    std::vector<Matrix> matrices;
    std::vector<float> momentum = random_numbers((long)grads.size(), 0.01f);
    auto table = model.layout(again);
    long offset = 0;
    std::vector<std::vector<float>> weights = model.tensors;
    for (size_t i = 0; i < table.size(); offset += (long)model.tensors[i++].size())
        if (i >= FIRST_LAYER && (i - FIRST_LAYER) % PER_LAYER == PROJ)
            matrices.push_back({weights[i].data(), grads.data() + offset, &momentum[offset],
                                s.width, s.heads * s.head});
    const float coefficients[][3] = {{4.0848f, -6.8946f, 2.9270f}, {3.9505f, -6.3029f, 2.6377f},
                                     {3.7418f, -5.5913f, 2.3037f}};
    const Rule rule{0.02f, 0.95f, 0.99f, 1e-7f, coefficients, 3};
    long bytes = 0;
    check(bardlet_muon(matrices.data(), (int)matrices.size(), &rule, threads, bf16_products,
                       nullptr, &bytes));
    check(bardlet_muon(matrices.data(), (int)matrices.size(), &rule, threads, bf16_products,
                       aligned(block, (size_t)bytes), &bytes));
    std::vector<float> stepped;
    for (const Matrix& each : matrices)
        stepped.insert(stepped.end(), each.weight, each.weight + each.size());
    record("stepped", stepped);
    // not the gradients above: where one is near zero, AdamW steps as far whatever its rounding
    std::vector<float> made = random_numbers((long)momentum.size(), 0.01f);
    std::vector<float> means(momentum.size()), means_of_squares(momentum.size());
    std::vector<float> steps(table.size());
    std::vector<Moments> moments;
    offset = 0;
    for (size_t i = 0; i < table.size(); offset += (long)model.tensors[i++].size())
        moments.push_back({weights[i].data(), &made[offset], &means[offset],
                           &means_of_squares[offset], &steps[i],
                           (int64_t)model.tensors[i].size() / W * W, 0.9f, 0.5f});
    const AdamRule adam{0.01, 0.9, 0.99, 1e-8};
    double norm;
    check(bardlet_norm(moments.data(), (int)moments.size(), threads, &norm));
    for (int step = 0; step < 2; step++)
        check(bardlet_adamw(moments.data(), (int)moments.size(), &adam, threads));
    std::vector<float> moved{(float)norm};
    for (const Moments& each : moments)
        moved.insert(moved.end(), each.weight, each.weight + each.size);
    record("moved by AdamW", moved);
}

// Texts of three prompts, written together and each alone; logits after each prompt.
static void decoding(const char* name, Model& model, int bf16_products, int bits, int threads,
                     int cache_bits = 0) {
    section = std::string(name) + " ";
    const Shape& s = model.s;
    constexpr int N = 3, STEPS = 12;
    const int32_t known[N] = {3, 9, 17}, past[N] = {}, top_k[N] = {0, 5, 20}, twin[N] = {-1, -1, -1};
    const float temperature[N] = {0.0f, 1.0f, 0.8f};
    std::vector<int64_t> prompts(N * s.context);
    for (int64_t& each : prompts) each = (int64_t)((random_number() + 1) / 2 * s.vocab);
    std::vector<float> uniform = random_numbers(N * STEPS, 0.5f);
    for (float& each : uniform) each += 0.5f;
    auto params = model.parameters();
    const float* rotary = s.llama ? model.rotary.data() : nullptr;
    // texts [first, first + n), `steps` tokens of each, or logits into `logits`
    auto run = [&](int first, int n, int steps, float* logits) {
        std::vector<char> packed_block, memory_block;
        long sizes[2];
        auto call = [&](char* packed, char* memory, const Texts* texts, int steps,
                        const float* uniform) {
            check(bardlet_decode(&s, params.data(), rotary, n, threads, bf16_products, bits,
                                 cache_bits, packed, memory, sizes, texts, steps, uniform));
        };
        call(nullptr, nullptr, nullptr, 0, nullptr);
        char* packed = aligned(packed_block, (size_t)sizes[0]);
        char* memory = aligned(memory_block, (size_t)sizes[1]);
        call(packed, memory, nullptr, 0, nullptr);
        std::vector<int64_t> tokens(prompts);
        std::vector<int64_t*> contexts;
        std::vector<float*> into;
        std::vector<float> drawn;
        const int32_t stream[N] = {0, 1, 2};
        for (int i = 0; i < n; i++) {
            contexts.push_back(&tokens[(first + i) * s.context]);
            into.push_back(logits ? logits + (first + i) * s.vocab : nullptr);
        }
        for (int step = 0; step < steps; step++)
            for (int i = 0; i < n; i++) drawn.push_back(uniform[step * N + first + i]);
        const Texts texts{n, stream, past, known + first, contexts.data(), temperature + first,
                          top_k + first, into.data(), twin, 0, nullptr};
        call(packed, memory, &texts, steps, drawn.data());
        std::vector<int32_t> written;
        for (int i = 0; i < n; i++)
            for (int step = 0; step < STEPS; step++)
                written.push_back((int32_t)contexts[i][known[first + i] + step]);
        return written;
    };
    std::vector<float> logits(N * s.vocab), alone(N * s.vocab);
    std::vector<int32_t> together = run(0, N, STEPS, nullptr), each;
    run(0, N, 1, logits.data());
    for (int i = 0; i < N; i++) {
        const std::vector<int32_t> one = run(i, 1, STEPS, nullptr);
        each.insert(each.end(), one.begin(), one.end());
        run(i, 1, 1, alone.data());
    }
    record("text", together);
    record("text=alone", each);
    record("logits", logits);
    record("logits=alone", alone);
}

static void models(const char* name, int bf16_products) {
    const std::string type = name;
    //           llama layers heads kv_heads head width hidden vocab context qk_norm eps
    const Shape llama{1, 2, 4, 2, 32, 64, 96, 65, 64, 1, 1e-6f};
    const Shape gpt2{0, 2, 2, 2, 32, 64, 128, 33, 32, 0, 1e-5f};
    auto call = [&](const char* part) { return type + " " + part; };
    state = 5;
    Model a(llama, false), b(gpt2, true);
    training(call("llama").c_str(), a, bf16_products, 1, {});
    training(call("llama, 3 threads, documents").c_str(), a, bf16_products, 3, {0, true, false});
    training(call("llama, a teacher").c_str(), a, bf16_products, 2, {0, false, true});
    training(call("gpt2").c_str(), b, bf16_products, 1, {});
    training(call("gpt2, dropout").c_str(), b, bf16_products, 2, {0.1f, false, false});
    decoding(call("llama, decoded").c_str(), a, bf16_products, 0, 2);
    decoding(call("gpt2, decoded").c_str(), b, bf16_products, 0, 1);
    decoding(call("llama, decoded in 8 bits").c_str(), a, bf16_products, 8, 2);
    decoding(call("llama, decoded in 4 bits").c_str(), a, bf16_products, 4, 2);
    decoding(call("llama, decoded, a cache in 8 bits").c_str(), a, bf16_products, 0, 2, 8);
    decoding(call("gpt2, decoded in 8 bits, a cache too").c_str(), b, bf16_products, 8, 1, 8);
}

int main() {
    state = 1;
    primitives();
    products<float>("float32");
    integer_products<8>("8 bits ");
    integer_products<4>("4 bits ");
    models("float32", 0);
    if constexpr (MULTIPLIES_BF16) {
        in_format(1, [](auto e) { products<decltype(e)>("bfloat16"); });
        models("bfloat16", 1);
    }
}
