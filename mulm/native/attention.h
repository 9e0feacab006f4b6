// Attention straight from the pages. A page holds the keys and values of sixteen tokens of one layer;
// for each kv head first the keys as one unit of `product.h` (its outputs are the tokens), then the
// values as units of sixteen dimensions (its inputs are the tokens). So scores and mixtures are
// products with packed matrices, and nothing is gathered.
// Invariants: a query's result is made of blocks of 64 tokens and stretches of 512 that begin at fixed
// positions and are joined in order, so that it does not depend on what is computed beside it, on the
// number of threads, or on how the prompt was cut.
// Letters: H dimensions of a head, padded to whole units; G query heads of a kv head.
#pragma once

#include <vector>

#include "product.h"

namespace mulm {

constexpr int kPageTokens = 16;
constexpr int kWidestHead = 1024;  // there is room on the stack for that many dimensions
constexpr int kBlockPages = kUnits;
constexpr int kBlockTokens = kBlockPages * kPageTokens;
constexpr int kStretchTokens = 512;

template <class F>
struct Element;
template <>
struct Element<Fp32> {
    using Type = float;
    static void store(float* to, Floats x) { mulm::store(to, x); }
    static float of(float x) { return x; }
};
template <>
struct Element<Bf16> {
    using Type = uint16_t;
    static void store(uint16_t* to, Floats x) { store_bf16(to, x); }
    static uint16_t of(float x) { return to_bf16(x); }
};

// Where the keys and values of all layers lie.
struct Pages {
    char* data;
    size_t page_bytes;   // of one layer
    size_t layer_bytes;  // of all pages of one layer
    size_t part_bytes;   // the keys, or the values, of one kv head in a page

    char* keys(size_t layer, size_t page, size_t head) const {
        return data + layer * layer_bytes + page * page_bytes + head * 2 * part_bytes;
    }
};

// Put one token's key and value at its place in a page; both have H dimensions.
template <class F>
void write_token(char* keys, size_t part_bytes, int token, const float* k, const float* v, int H) {
    using E = typename Element<F>::Type;
    constexpr int n = F::kInputs;
    const size_t unit_bytes = kPageTokens / n * kUnitStep;
    char* values = keys + part_bytes;
    for (int d = 0; d < H; ++d) {
        const E key = Element<F>::of(k[d]), value = Element<F>::of(v[d]);
        std::memcpy(keys + d / n * kUnitStep + token * 4 + d % n * sizeof(E), &key, sizeof(E));
        std::memcpy(values + d / kLanes * unit_bytes + token / n * kUnitStep + d % kLanes * 4 +
                        token % n * sizeof(E),
                    &value, sizeof(E));
    }
}

// What some rows have seen so far: the largest score, the sum of weights, the weighted values.
struct Seen {
    float largest[kRows];
    float weight[kRows];
    std::vector<float> mixed;  // (kRows, H)

    explicit Seen(int H) : mixed(kRows * H) {}

    void clear(int n_rows, int H) {
        std::fill_n(largest, n_rows, kNever);
        std::fill_n(weight, n_rows, 0.0f);
        std::fill_n(mixed.data(), n_rows * H, 0.0f);
    }

    // Join what was seen later.
    void join(const float* its_largest, const float* its_weight, const float* its_mixed, int n_rows,
              int H) {
        for (int m = 0; m < n_rows; ++m) {
            const float top = std::max(largest[m], its_largest[m]);
            const Floats mine = exponential(spread(largest[m] - top));
            const Floats its = exponential(spread(its_largest[m] - top));
            for (int d = 0; d < H; d += kLanes) {
                float* at = mixed.data() + m * H + d;
                store(at, load<Floats>(at) * mine + load<Floats>(its_mixed + m * H + d) * its);
            }
            weight[m] = weight[m] * mine[0] + its_weight[m] * its[0];
            largest[m] = top;
        }
    }
};

// Query rows of one kv head, at most `kRows`; row m may see positions up to `last[m]`.
struct Queries {
    const char* rows;
    size_t row_bytes;
    int n_rows;
    int last[kRows];
    int last_of_all;
};

// Let the rows see one block of tokens: scores, weights by the largest score so far, mixed values.
template <class F, int kM>
void see_block(const Queries& q, const char* const* keys, int n_pages, int first, size_t part_bytes,
               int H, Seen& seen, Floats (&weight)[kRows]) {
    using E = typename Element<F>::Type;
    Floats score[kM][kUnits] = {};
    multiply<F, kM, kUnits>(
        score, {q.rows, q.row_bytes, keys, static_cast<size_t>(H / F::kInputs), nullptr});
    alignas(64) E share[kM][kBlockTokens];
    float shrink[kM];
    const Ints lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int m = 0; m < kM; ++m) {
        if (first + kBlockTokens > q.last[m] + 1)
            for (int n = 0; n < kUnits; ++n) {
                const Ints position = lanes + (first + n * kPageTokens);
                score[m][n] = position <= spread_int(q.last[m]) ? score[m][n] : spread(kNever);
            }
        const Floats top4 =
            larger(larger(score[m][0], score[m][1]), larger(score[m][2], score[m][3]));
        const float top = std::max(seen.largest[m], largest_of(top4));
        shrink[m] = exponential(spread(seen.largest[m] - top))[0];
        seen.largest[m] = top;
        Floats sum = weight[m] * shrink[m];
        for (int n = 0; n < kUnits; ++n) {
            const Floats part = exponential(score[m][n] - top);
            Element<F>::store(share[m] + n * kPageTokens, part);
            sum += part;
        }
        weight[m] = sum;
    }
    const size_t n_steps = kPageTokens / F::kInputs;
    const size_t unit_bytes = n_steps * kUnitStep;
    auto mix = [&](auto n_units, int d) {
        constexpr int kN = decltype(n_units)::value;
        Floats sum[kM][kN];
        for (int m = 0; m < kM; ++m)
            for (int n = 0; n < kN; ++n)
                sum[m][n] = load<Floats>(seen.mixed.data() + m * H + d + n * kLanes) * shrink[m];
        for (int page = 0; page < n_pages; ++page) {
            const char* units[kN];
            for (int n = 0; n < kN; ++n)
                units[n] = keys[page] + part_bytes + (d / kLanes + n) * unit_bytes;
            multiply<F, kM, kN>(sum, {reinterpret_cast<const char*>(share[0] + page * kPageTokens),
                                      sizeof(share[0]), units, n_steps, nullptr});
        }
        for (int m = 0; m < kM; ++m)
            for (int n = 0; n < kN; ++n)
                store(seen.mixed.data() + m * H + d + n * kLanes, sum[m][n]);
    };
    int d = 0;
    for (; d + 4 * kLanes <= H; d += 4 * kLanes) mix(std::integral_constant<int, 4>{}, d);
    for (; d < H; d += kLanes) mix(std::integral_constant<int, 1>{}, d);
}

// What the rows see of one stretch of tokens, from `begin` on.
template <class F, int kM>
void see_stretch(const Queries& q, const Pages& pages, size_t layer, size_t head, const int32_t* table,
                 int begin, int H, Seen& seen) {
    seen.clear(kM, H);
    Floats weight[kRows] = {};
    const int end = std::min(begin + kStretchTokens, q.last_of_all + 1);
    const char* keys[kBlockPages];
    for (int first = begin; first < end; first += kBlockTokens) {
        const int n_pages = std::min(kBlockPages, (end - first + kPageTokens - 1) / kPageTokens);
        for (int n = 0; n < kBlockPages; ++n)
            keys[n] = pages.keys(layer, table[first / kPageTokens + std::min(n, n_pages - 1)], head);
        see_block<F, kM>(q, keys, n_pages, first, pages.part_bytes, H, seen, weight);
    }
    for (int m = 0; m < kM; ++m) seen.weight[m] = sum_of(weight[m]);
}

template <class F>
void see_stretch_of(const Queries& q, const Pages& pages, size_t layer, size_t head,
                    const int32_t* table, int begin, int H, Seen& seen) {
    switch (q.n_rows) {
        case 1: return see_stretch<F, 1>(q, pages, layer, head, table, begin, H, seen);
        case 2: return see_stretch<F, 2>(q, pages, layer, head, table, begin, H, seen);
        case 3: return see_stretch<F, 3>(q, pages, layer, head, table, begin, H, seen);
        case 4: return see_stretch<F, 4>(q, pages, layer, head, table, begin, H, seen);
        case 5: return see_stretch<F, 5>(q, pages, layer, head, table, begin, H, seen);
        default: return see_stretch<F, 6>(q, pages, layer, head, table, begin, H, seen);
    }
}

}  // namespace mulm
