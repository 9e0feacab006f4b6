// Rows times a packed matrix. A matrix (O outputs, I inputs) is packed in *units* of sixteen outputs;
// a unit is a sequence of *steps*, 64 bytes each, that hold the weights of its outputs for the next
// one (fp32), two (bf16) or four (int8) inputs. A row has 4 bytes for each step. Invariant: an
// output's sum is taken over the inputs in one order, step after step, whatever rows and units are
// computed beside it; so a row gives the same bits in any batch.
#pragma once

#include <algorithm>
#include <cstddef>

#include "lanes.h"

namespace mulm {

constexpr size_t kUnitStep = 64;  // bytes of a unit's step
constexpr int kRows = 6;          // rows and units of the largest tile that fits the registers
constexpr int kUnits = 4;

// Weights and rows in fp32: a step is one input.
struct Fp32 {
    using Sum = Floats;
    using Weights = Floats;
    using Spread = float;
    static constexpr int kInputs = 1;
    static Spread spread_step(const char* row) { return load<float>(row); }
    static void add(Sum& sum, Spread x, Weights w) { sum += x * w; }
};

// Weights and rows in bf16, sums in fp32: a step is two inputs.
struct Bf16 {
    using Sum = Floats;
    static constexpr int kInputs = 2;
#if defined(__AVX512BF16__) && !defined(MULM_PORTABLE)
    using Weights = __m512i;
    using Spread = __m512i;
    static Spread spread_step(const char* row) { return _mm512_set1_epi32(load<int32_t>(row)); }
    static void add(Sum& sum, Spread x, Weights w) {
        sum = reinterpret_cast<Floats>(_mm512_dpbf16_ps(
            reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(x),
            reinterpret_cast<__m512bh>(w)));
    }
#else
    using Weights = Words;
    struct Spread {
        float first, second;
    };
    static Spread spread_step(const char* row) {
        return {from_bf16(load<uint16_t>(row)), from_bf16(load<uint16_t>(row + 2))};
    }
    static void add(Sum& sum, Spread x, Weights w) {
        const Words first = w << 16, second = w & 0xffff0000u;
        sum += x.first * load<Floats>(&first);
        sum += x.second * load<Floats>(&second);
    }
#endif
};

// Weights in int8, rows in uint8 (the value plus 128), sums in int32 and exact: a step is four inputs.
struct Int8 {
    using Sum = Ints;
    static constexpr int kInputs = 4;
#if defined(__AVX512VNNI__) && !defined(MULM_PORTABLE)
    using Weights = __m512i;
    using Spread = __m512i;
    static Spread spread_step(const char* row) { return _mm512_set1_epi32(load<int32_t>(row)); }
    static void add(Sum& sum, Spread x, Weights w) {
        sum = reinterpret_cast<Ints>(
            _mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), x, w));
    }
#else
    using Weights = Ints;
    using Spread = uint32_t;
    static Spread spread_step(const char* row) { return load<uint32_t>(row); }
    static void add(Sum& sum, Spread x, Weights w) {
        for (int i = 0; i < 4; ++i) {
            const int32_t value = static_cast<int32_t>((x >> (8 * i)) & 0xffu);
            sum += value * ((w << (24 - 8 * i)) >> 24);
        }
    }
#endif
};

// What a tile reads: `n_rows` rows from `rows` on, and some units.
struct Tile {
    const char* rows;
    size_t row_bytes;
    const char* const* units;
    size_t n_steps;
    const char* const* ahead;  // units that the next tiles need, brought near on the way
};

template <class F, int kM, int kN, int kAhead = 0>
inline void multiply(typename F::Sum (&sum)[kM][kN], const Tile& tile) {
    const char* unit[kN];
    for (int n = 0; n < kN; ++n) unit[n] = tile.units[n];
    for (size_t step = 0; step < tile.n_steps; ++step) {
        typename F::Weights w[kN];
#pragma GCC unroll 4
        for (int n = 0; n < kN; ++n) w[n] = load<typename F::Weights>(unit[n] + step * kUnitStep);
#pragma GCC unroll 4
        for (int n = 0; n < kAhead; ++n)
            __builtin_prefetch(tile.ahead[n] + step * kUnitStep, 0, 2);
#pragma GCC unroll 6
        for (int m = 0; m < kM; ++m) {
            const auto x = F::spread_step(tile.rows + m * tile.row_bytes + step * 4);
#pragma GCC unroll 4
            for (int n = 0; n < kN; ++n) F::add(sum[m][n], x, w[n]);
        }
    }
}

// A packed matrix, or the part of it that stands in one place.
struct Packed {
    const char* data = nullptr;
    size_t n_units = 0;
    size_t n_steps = 0;
    const float* scale = nullptr;    // int8: of each output
    const int32_t* offset = nullptr; // int8: 128 times the sum of each output's weights

    const char* unit(size_t n) const { return data + n * n_steps * kUnitStep; }
};

// Rows ready to be multiplied: bf16 or fp32 numbers, or bytes with a scale for each row.
struct Rows {
    const char* data;
    size_t row_bytes;
    const float* scale = nullptr;
};

inline Floats value_of(Floats sum, const Packed&, const Rows&, size_t, size_t) { return sum; }

inline Floats value_of(Ints sum, const Packed& matrix, const Rows& rows, size_t row, size_t unit) {
    const Ints exact = sum - load<Ints>(matrix.offset + unit * kLanes);
    const Floats scale = load<Floats>(matrix.scale + unit * kLanes) * rows.scale[row];
    return __builtin_convertvector(exact, Floats) * scale;
}

template <class F, int kM, int kN, int kAhead, class Take>
inline void tile(const Packed& matrix, const Rows& rows, size_t row, size_t unit,
                 const char* const* ahead, Take& take) {
    const char* units[kN];
    for (int n = 0; n < kN; ++n) units[n] = matrix.unit(unit + n);
    typename F::Sum sum[kM][kN] = {};
    multiply<F, kM, kN, kAhead>(
        sum, {rows.data + row * rows.row_bytes, rows.row_bytes, units, matrix.n_steps, ahead});
    for (int m = 0; m < kM; ++m) {
        Floats values[kN];
        for (int n = 0; n < kN; ++n)
            values[n] = value_of(sum[m][n], matrix, rows, row + m, unit + n);
        take(row + m, unit, values, kN);
    }
}

template <class F, int kM, int kN, class Take>
inline void tile_ahead(int n_ahead, const Packed& matrix, const Rows& rows, size_t row, size_t unit,
                       const char* const* ahead, Take& take) {
    if (n_ahead >= 4) tile<F, kM, kN, 4>(matrix, rows, row, unit, ahead, take);
    else if (n_ahead >= 2) tile<F, kM, kN, 2>(matrix, rows, row, unit, ahead, take);
    else if (n_ahead == 1) tile<F, kM, kN, 1>(matrix, rows, row, unit, ahead, take);
    else tile<F, kM, kN, 0>(matrix, rows, row, unit, ahead, take);
}

template <class F, int kN, class Take>
inline void tile_rows(int n_rows, int n_ahead, const Packed& matrix, const Rows& rows, size_t row,
                      size_t unit, const char* const* ahead, Take& take) {
    switch (n_rows) {
        case 1: return tile_ahead<F, 1, kN>(n_ahead, matrix, rows, row, unit, ahead, take);
        case 2: return tile_ahead<F, 2, kN>(n_ahead, matrix, rows, row, unit, ahead, take);
        case 3: return tile_ahead<F, 3, kN>(n_ahead, matrix, rows, row, unit, ahead, take);
        case 4: return tile_ahead<F, 4, kN>(n_ahead, matrix, rows, row, unit, ahead, take);
        case 5: return tile_ahead<F, 5, kN>(n_ahead, matrix, rows, row, unit, ahead, take);
        default: return tile_ahead<F, 6, kN>(n_ahead, matrix, rows, row, unit, ahead, take);
    }
}

// All rows times the units from `begin` to `end`. Units stay near while all rows pass by; meanwhile
// the next ones are fetched, a share with each tile. `take(row, unit, values, n)` gets the results.
template <class F, class Take>
void product(const Packed& matrix, const Rows& rows, size_t n_rows, size_t begin, size_t end,
             Take take) {
    const size_t n_tiles = (n_rows + kRows - 1) / kRows;
    for (size_t unit = begin; unit < end;) {
        const size_t n_units = std::min<size_t>(kUnits, end - unit);
        const char* ahead[kUnits];
        const int n_next =
            end >= unit + n_units + kUnits ? std::max<int>(1, kUnits / std::max<size_t>(n_tiles, 1)) : 0;
        for (size_t i = 0; i < n_tiles; ++i) {
            const size_t row = i * n_rows / n_tiles, next = (i + 1) * n_rows / n_tiles;
            int n_ahead = i * n_next < kUnits ? n_next : 0;
            for (int n = 0; n < n_ahead; ++n)
                ahead[n] = matrix.unit(unit + n_units + std::min<size_t>(i * n_next + n, kUnits - 1));
            const int n_here = static_cast<int>(next - row);
            switch (n_units) {
                case 4: tile_rows<F, 4>(n_here, n_ahead, matrix, rows, row, unit, ahead, take); break;
                case 3: tile_rows<F, 3>(n_here, 0, matrix, rows, row, unit, ahead, take); break;
                case 2: tile_rows<F, 2>(n_here, 0, matrix, rows, row, unit, ahead, take); break;
                default: tile_rows<F, 1>(n_here, 0, matrix, rows, row, unit, ahead, take);
            }
        }
        unit += n_units;
    }
}

}  // namespace mulm
