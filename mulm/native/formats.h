// How numbers lie in rows and in packed matrices, and how they are multiplied. A matrix (O outputs, I
// inputs) is packed in *units* of sixteen outputs; a unit is a sequence of *steps* that hold the weights
// of its outputs for the next inputs: 64 bytes with one (fp32), two (bf16) or four (int8) of them, for
// which a row has 4 bytes; int4 has longer steps. Invariant: an output's sum is taken over the inputs in one order, step
// after step, whatever rows and units are computed beside it.
#pragma once

#include <cstddef>
#include <type_traits>

#include "lanes.h"

namespace mulm {

constexpr int kUnitStep = 64;  // bytes of a unit's step
constexpr int kRows = 6;          // rows and units of the largest tile that fits the registers
constexpr int kUnits = 4;

// Weights and rows in fp32: a step is one input.
struct Fp32 {
    using Sum = Floats;
    using Weights = Floats;
    using Spread = float;
    static Weights weights(const char* from) { return load<Weights>(from); }
    static constexpr int kInputs = 1, kTileUnits = kUnits, kStep = kUnitStep, kRowStep = 4;
    static Spread spread_step(const char* row) { return load<float>(row); }
    static void add(Sum& sum, Spread x, Weights w) { sum += x * w; }
};

// Weights and rows in bf16, sums in fp32: a step is two inputs.
struct Bf16 {
    using Sum = Floats;
    static constexpr int kInputs = 2, kTileUnits = kUnits, kStep = kUnitStep, kRowStep = 4;
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
    static constexpr int kInputs = 4, kTileUnits = kUnits, kStep = kUnitStep, kRowStep = 4;
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

// Weights of 4 bits, sixteen inputs of an output with one multiplier; rows as for int8, and so are the
// sums, since a multiplier times a code is a byte. A step is four such groups: first their multipliers
// (a byte each), then for each group two times 64 bytes with eight codes plus 8 of every output, those
// of the first four inputs in the low halves.
struct Int4 {
    using Sum = Ints;
    static constexpr int kGroup = 16, kGroups = 4, kInputs = kGroup * kGroups;
    static constexpr int kTileUnits = 2, kStep = 9 * kUnitStep, kRowStep = kInputs;

    struct Group {
        Int8::Weights codes[4];
        Ints multiplier;
    };

    static Group group(const char* step, int number) {
        Group it;
        it.multiplier = (load<Ints>(step) >> (8 * number)) & 0xff;
        for (int pair = 0; pair < 2; ++pair) {
            const Words both = load<Words>(step + kUnitStep * (1 + 2 * number + pair));
            const Words low = both & 0x0f0f0f0fu, high = (both >> 4) & 0x0f0f0f0fu;
            const Bytes first = load<Bytes>(&low) - 8, second = load<Bytes>(&high) - 8;
            it.codes[2 * pair] = load<Int8::Weights>(&first);
            it.codes[2 * pair + 1] = load<Int8::Weights>(&second);
        }
        return it;
    }

    // The products of bytes and codes of a group fit 16 bits.
    static void add(Sum& sum, const Int8::Spread (&x)[4], const Group& group) {
        Ints own = {};
        for (int i = 0; i < 4; ++i) Int8::add(own, x[i], group.codes[i]);
#if defined(__AVX512VNNI__) && !defined(MULM_PORTABLE)
        sum = reinterpret_cast<Ints>(
            _mm512_dpwssd_epi32(reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(own),
                                reinterpret_cast<__m512i>(group.multiplier)));
#else
        sum += own * group.multiplier;
#endif
    }
};

// Weights in int8, rows in int16, sums in int32 and exact: a step is four inputs, of which the second and
// the third change places in the packed matrix. For keys and values.
struct Kv8 {
    using Sum = Ints;
    static constexpr int kInputs = 4, kTileUnits = kUnits, kStep = kUnitStep, kRowStep = 8;
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

template <class F, int kM, int kN, int kAhead>
inline void multiply_steps(typename F::Sum (&sum)[kM][kN], const Tile& tile) {
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

// The same for int4.
template <int kM, int kN, int kAhead>
inline void multiply_groups(Ints (&sum)[kM][kN], const Tile& tile) {
    for (size_t step = 0; step < tile.n_steps; ++step) {
        for (int n = 0; n < kAhead; ++n)
            for (int line = 0; line < Int4::kStep; line += 64)
                __builtin_prefetch(tile.ahead[n] + step * Int4::kStep + line, 0, 2);
#pragma GCC unroll 4
        for (int number = 0; number < Int4::kGroups; ++number) {
            Int4::Group group[kN];
            for (int n = 0; n < kN; ++n) group[n] = Int4::group(tile.units[n] + step * Int4::kStep, number);
#pragma GCC unroll 6
            for (int m = 0; m < kM; ++m) {
                const char* row = tile.rows + m * tile.row_bytes + step * Int4::kRowStep + number * Int4::kGroup;
                Int8::Spread x[4];
                for (int i = 0; i < 4; ++i) x[i] = Int8::spread_step(row + 4 * i);
                for (int n = 0; n < kN; ++n) Int4::add(sum[m][n], x, group[n]);
            }
        }
    }
}

template <class F, int kM, int kN, int kAhead = 0>
inline void multiply(typename F::Sum (&sum)[kM][kN], const Tile& tile) {
    if constexpr (std::is_same_v<F, Int4>) return multiply_groups<kM, kN, kAhead>(sum, tile);
    else multiply_steps<F, kM, kN, kAhead>(sum, tile);
}

}  // namespace mulm
