// Attention straight from the pages: scores and mixtures are products with packed matrices, and nothing is
// gathered.
// Invariants: a query's result is made of blocks of 64 tokens and stretches of 512 that begin at fixed
// positions and are joined in order, so that it does not depend on what is computed beside it, on the
// number of threads, or on how the prompt was cut. Scores are logarithms to the base of two.
// Letters: H dimensions of a head, padded to whole units; G query heads of a kv head.
#pragma once

#include <vector>

#include "pages.h"

namespace mulm {

constexpr int kBlockPages = 4;
constexpr int kBlockTokens = kBlockPages * kPageTokens;
constexpr int kBlockUnits = kBlockPages * kPageUnits;
constexpr int kStretchTokens = 512;

// What some rows have seen so far: the largest score, the sum of weights, the weighted values.
struct Seen {
    float largest[kRows];
    float weight[kRows];
    float* mixed;  // (kRows, H), somebody else's

    explicit Seen(float* room) : mixed(room) {}

    void clear(int n_rows, int H) {
        std::fill_n(largest, n_rows, kNever);
        std::fill_n(weight, n_rows, 0.0f);
        std::fill_n(mixed, n_rows * H, 0.0f);
    }

    // Join what was seen later.
    void join(const float* its_largest, const float* its_weight, const float* its_mixed, int n_rows,
              int H) {
        for (int m = 0; m < n_rows; ++m) {
            const float top = std::max(largest[m], its_largest[m]);
            const Floats mine = power_of_two(spread(largest[m] - top));
            const Floats its = power_of_two(spread(its_largest[m] - top));
            for (int d = 0; d < H; d += kLanes) {
                float* at = mixed + m * H + d;
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
// Pages lie anywhere, so processors do not guess which comes next: while few rows, which have little to
// compute, see a block, those of the next one are brought near.
template <class C, int kM>
void see_block(const Queries& q, const char* const* keys, const char* const* next_keys, int n_pages, int first,
               size_t part_bytes, int H, Seen& seen, Floats (&weight)[kRows]) {
    constexpr bool is_ahead = kM < kRows;
    const size_t key_unit_bytes = static_cast<size_t>(H / C::kInputs) * kUnitStep;
    const auto unit_of = [&](const char* const* pages, int n) {
        return pages[n / kPageUnits] + n % kPageUnits * key_unit_bytes;
    };
    typename C::Sum product[kBlockUnits / kUnits][kM][kUnits] = {};
    for (int part = 0; part < kBlockUnits / kUnits; ++part) {
        const char *units[kUnits], *ahead[kUnits];
        for (int n = 0; n < kUnits; ++n) {
            units[n] = unit_of(keys, part * kUnits + n);
            ahead[n] = unit_of(next_keys, part * kUnits + n);
        }
        multiply<C, kM, kUnits, is_ahead ? kUnits : 0>(
            product[part], {q.rows, q.row_bytes, units, static_cast<size_t>(H / C::kInputs), ahead});
    }
    Floats score[kM][kBlockUnits], top[kM], shrinks = Floats{};
    const Ints lanes = lane_numbers();
    for (int m = 0; m < kM; ++m) {
        Floats largest = spread(kNever);
        for (int n = 0; n < kBlockUnits; ++n) {
            Floats& its = score[m][n];
            its = Element<C>::score(product[n / kUnits][m][n % kUnits], keys[n / kPageUnits], n % kPageUnits,
                                    q.rows + m * q.row_bytes, H);
            if (first + kBlockTokens > q.last[m] + 1) {
                const Ints position = lanes + (first + n * kLanes);
                its = position <= spread_int(q.last[m]) ? its : spread(kNever);
            }
            largest = larger(largest, its);
        }
        top[m] = larger(spread(seen.largest[m]), largest_of(largest));
        shrinks[m] = seen.largest[m] - top[m][0];
        seen.largest[m] = top[m][0];
    }
    shrinks = power_of_two(shrinks);  // of all rows at once
    alignas(64) typename Element<C>::Type share[kM][kBlockTokens];
    float shrink[kM], unit_of_share[kM];
    for (int m = 0; m < kM; ++m) {
        shrink[m] = shrinks[m];
        weight[m] = weight[m] * shrink[m];
        for (int n = 0; n < kBlockUnits; ++n) {
            score[m][n] = power_of_two(score[m][n] - top[m]);
            weight[m] += score[m][n];
        }
        unit_of_share[m] = Element<C>::write_shares(share[m], score[m], keys, H);
    }
    const size_t n_steps = kPageTokens / C::kInputs;
    const size_t unit_bytes = n_steps * kUnitStep;
    auto mix = [&](auto n_units, int d) {
        constexpr int kN = decltype(n_units)::value;
        typename C::Sum sum[kM][kN] = {};
        float* mixed = seen.mixed + d;
        constexpr bool is_exact = std::is_same_v<typename C::Sum, Ints>;
        if constexpr (!is_exact)
            for (int m = 0; m < kM; ++m)
                for (int n = 0; n < kN; ++n) sum[m][n] = load<Floats>(mixed + m * H + n * kLanes) * shrink[m];
        for (int page = 0; page < n_pages; ++page) {
            const char *units[kN], *ahead[kN];
            for (int n = 0; n < kN; ++n) {
                const size_t at = part_bytes + (d / kLanes + n) * unit_bytes;
                units[n] = keys[page] + at, ahead[n] = next_keys[page] + at;
            }
            multiply<C, kM, kN, is_ahead ? kN : 0>(
                sum, {reinterpret_cast<const char*>(share[0] + page * kPageTokens), sizeof(share[0]), units,
                      n_steps, ahead});
        }
        for (int m = 0; m < kM; ++m)
            for (int n = 0; n < kN; ++n) {
                float* at = mixed + m * H + n * kLanes;
                if constexpr (is_exact)
                    store(at, load<Floats>(at) * shrink[m] +
                                  __builtin_convertvector(sum[m][n], Floats) * unit_of_share[m]);
                else
                    store(at, sum[m][n]);
            }
    };
    int d = 0;
    for (; d + kUnits * kLanes <= H; d += kUnits * kLanes) mix(std::integral_constant<int, kUnits>{}, d);
    for (; d < H; d += kLanes) mix(std::integral_constant<int, 1>{}, d);
}

// What the rows see of one stretch of tokens, from `begin` on.
template <class C, int kM>
void see_stretch(const Queries& q, const Pages& pages, size_t layer, size_t head, const int32_t* table,
                 int begin, int H, Seen& seen) {
    seen.clear(kM, H);
    Floats weight[kRows] = {};
    const int end = std::min(begin + kStretchTokens, q.last_of_all + 1);
    const int last_page = (end - 1) / kPageTokens;
    const auto find = [&](int first, const char* (&keys)[kBlockPages]) {
        for (int n = 0; n < kBlockPages; ++n)
            keys[n] = pages.keys(layer, table[std::min(first / kPageTokens + n, last_page)], head);
    };
    const char *keys[kBlockPages], *next_keys[kBlockPages];
    find(begin, keys);
    for (int first = begin; first < end; first += kBlockTokens) {
        const int n_pages = std::min(kBlockPages, last_page + 1 - first / kPageTokens);
        find(first + kBlockTokens, next_keys);
        see_block<C, kM>(q, keys, next_keys, n_pages, first, pages.part_bytes, H, seen, weight);
        std::copy_n(next_keys, kBlockPages, keys);
    }
    for (int m = 0; m < kM; ++m) seen.weight[m] = sum_of(weight[m]);
}

template <class C>
void see_stretch_of(const Queries& q, const Pages& pages, size_t layer, size_t head,
                    const int32_t* table, int begin, int H, Seen& seen) {
    switch (q.n_rows) {
        case 1: return see_stretch<C, 1>(q, pages, layer, head, table, begin, H, seen);
        case 2: return see_stretch<C, 2>(q, pages, layer, head, table, begin, H, seen);
        case 3: return see_stretch<C, 3>(q, pages, layer, head, table, begin, H, seen);
        case 4: return see_stretch<C, 4>(q, pages, layer, head, table, begin, H, seen);
        case 5: return see_stretch<C, 5>(q, pages, layer, head, table, begin, H, seen);
        default: return see_stretch<C, 6>(q, pages, layer, head, table, begin, H, seen);
    }
}

}  // namespace mulm
