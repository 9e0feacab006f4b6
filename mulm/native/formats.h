// How numbers lie in rows and in packed matrices, and how they are multiplied. A matrix (O outputs, I
// inputs) is packed in *units* of sixteen outputs; a unit is a sequence of *steps* that hold the weights
// of its outputs for the next inputs: 64 bytes with one (fp32), two (bf16) or four (int8) of them. A row
// has 4 bytes for each such step. Invariant: an output's sum is taken over the inputs in one order, step
// after step, whatever rows and units are computed beside it.
#pragma once

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
    static Weights weights(const char* from) { return load<Weights>(from); }
    static constexpr int kInputs = 1, kTileUnits = kUnits, kRowStep = 4;
    static Spread spread_step(const char* row) { return load<float>(row); }
    static void add(Sum& sum, Spread x, Weights w) { sum += x * w; }
};

// Weights and rows in bf16, sums in fp32: a step is two inputs.
struct Bf16 {
    using Sum = Floats;
    static constexpr int kInputs = 2, kTileUnits = kUnits, kRowStep = 4;
#if defined(__AVX512BF16__) && !defined(MULM_PORTABLE)
    using Weights = __m512i;
    using Spread = __m512i;
    static Weights weights(const char* from) { return load<Weights>(from); }
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
    static Weights weights(const char* from) { return load<Weights>(from); }
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
    static constexpr int kInputs = 4, kTileUnits = kUnits, kRowStep = 4;
#if defined(__AVX512VNNI__) && !defined(MULM_PORTABLE)
    using Weights = __m512i;
    using Spread = __m512i;
    static Weights weights(const char* from) { return load<Weights>(from); }
    static Spread spread_step(const char* row) { return _mm512_set1_epi32(load<int32_t>(row)); }
    static void add(Sum& sum, Spread x, Weights w) {
        sum = reinterpret_cast<Ints>(
            _mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), x, w));
    }
#else
    using Weights = Ints;
    using Spread = uint32_t;
    static Weights weights(const char* from) { return load<Weights>(from); }
    static Spread spread_step(const char* row) { return load<uint32_t>(row); }
    static void add(Sum& sum, Spread x, Weights w) {
        for (int i = 0; i < 4; ++i) {
            const int32_t value = static_cast<int32_t>((x >> (8 * i)) & 0xffu);
            sum += value * ((w << (24 - 8 * i)) >> 24);
        }
    }
#endif
};

// Weights in int8, rows in int16, sums in int32 and exact: a step is four inputs, of which the second and
// the third change places in the packed matrix. For keys and values.
struct Kv8 {
    using Sum = Ints;
    static constexpr int kInputs = 4, kTileUnits = kUnits, kRowStep = 8;
    static constexpr int kPlace[4] = {0, 2, 1, 3};  // of each of the four
    struct Weights {
        Shorts first, second;
    };
    struct Spread {
        Ints first, second;
    };
    static Spread spread_step(const char* row) {
        return {spread_int(load<int32_t>(row)), spread_int(load<int32_t>(row + 4))};
    }
    static Weights weights(const char* from) {
        const Shorts both = load<Shorts>(from);
        return {(both << 8) >> 8, both >> 8};
    }
    static void add(Sum& sum, Spread x, const Weights& w) {
        sum = add_pairs(add_pairs(sum, x.first, w.first), x.second, w.second);
    }
    // The products of both halves of each lane.
    static Ints add_pairs(Ints sum, Ints x, Shorts w) {
#if defined(__AVX512VNNI__) && !defined(MULM_PORTABLE)
        return reinterpret_cast<Ints>(_mm512_dpwssd_epi32(
            reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(x), reinterpret_cast<__m512i>(w)));
#else
        const Ints wide = load<Ints>(&w);
        return sum + ((x << 16) >> 16) * ((wide << 16) >> 16) + (x >> 16) * (wide >> 16);
#endif
    }
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
        for (int n = 0; n < kN; ++n) w[n] = F::weights(unit[n] + step * kUnitStep);
#pragma GCC unroll 4
        for (int n = 0; n < kAhead; ++n)
            __builtin_prefetch(tile.ahead[n] + step * kUnitStep, 0, 2);
#pragma GCC unroll 6
        for (int m = 0; m < kM; ++m) {
            const auto x = F::spread_step(tile.rows + m * tile.row_bytes + step * F::kRowStep);
#pragma GCC unroll 4
            for (int n = 0; n < kN; ++n) F::add(sum[m][n], x, w[n]);
        }
    }
}

}  // namespace mulm
