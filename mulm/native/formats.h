// How numbers lie in rows and in packed matrices, and how they are multiplied. A matrix (O outputs, I
// inputs) is packed in *units* of `kLanes` outputs; a unit is a sequence of *steps* that hold the weights
// of its outputs for the next inputs: 4 bytes of an output with one (fp32), two (bf16) or four (int8) of
// them, for which a row has as many; int4 has longer steps. What a register cannot multiply at once is
// done in *halves* of a step. Invariant: an output's sum is taken over the inputs in one order, step after
// step, whatever rows and units are computed beside it.
#pragma once

#include <cstddef>
#include <type_traits>

#include "lanes.h"

namespace mulm {

constexpr int kUnitStep = 4 * kLanes;  // bytes of a unit's step
// Rows and units of the largest tile that fits the registers, 32 of AVX-512, 16 of AVX2; two units at
// least, a gate and what it lets through.
constexpr int kRows = 6;
constexpr int kUnits = kLanes == 16 ? 4 : 2;

// Weights and rows in fp32: a step is one input.
struct Fp32 {
    using Sum = Floats;
    using Row = float;
    static constexpr int kInputs = 1, kHalves = 1, kTileUnits = kUnits, kStep = kUnitStep, kRowStep = 4;
    static Floats weights(const char* from, int) { return load<Floats>(from); }
    static Floats spread_step(const char* row, int) { return spread(load<float>(row)); }
    static void add(Sum& sum, Floats x, Floats w) { sum = multiply_add(x, w, sum); }
};

// Weights and rows in bf16, sums in fp32: a step is two inputs. Rows whose numbers a processor cannot
// multiply as they are keep them as fp32, rounded to bf16, so that a load can spread them.
struct Bf16 {
    using Sum = Floats;
#if defined(__AVX512BF16__) && !defined(MULM_PORTABLE)
    using Row = uint16_t;
    static constexpr int kHalves = 1;
    static Row row_of(float x) { return to_bf16(x); }
    static void store_rows(Row* to, Floats x) {
        const __m256bh narrow = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(x));
        std::memcpy(to, &narrow, sizeof(narrow));
    }
    static __m512i weights(const char* from, int) { return load<__m512i>(from); }
    static __m512i spread_step(const char* row, int) { return _mm512_set1_epi32(load<int32_t>(row)); }
    static void add(Sum& sum, __m512i x, __m512i w) {
        sum = reinterpret_cast<Floats>(_mm512_dpbf16_ps(
            reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(x),
            reinterpret_cast<__m512bh>(w)));
    }
#else
    using Row = float;
    static constexpr int kHalves = 2;
    static Row row_of(float x) { return from_bf16(to_bf16(x)); }
    static void store_rows(Row* to, Floats x) { store(to, rounded_bf16(x) << 16); }
    static Floats weights(const char* from, int half) {
        const Words both = load<Words>(from), one = half ? both & 0xffff0000u : both << 16;
        return load<Floats>(&one);
    }
    static Floats spread_step(const char* row, int half) { return spread(load<float>(row + 4 * half)); }
    static void add(Sum& sum, Floats x, Floats w) { sum = multiply_add(x, w, sum); }
#endif
    static constexpr int kInputs = 2, kTileUnits = kUnits, kStep = kUnitStep, kRowStep = 2 * sizeof(Row);
};

// Processors that add four products of bytes at once have one of two names for it.
#if defined(__AVX512VNNI__) && !defined(MULM_PORTABLE)
#define MULM_DOTS
inline Ints add_fours(Ints sum, Ints x, Ints w) {
    return reinterpret_cast<Ints>(_mm512_dpbusd_epi32(
        reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(x), reinterpret_cast<__m512i>(w)));
}
inline Ints add_pairs(Ints sum, Ints x, Ints w) {
    return reinterpret_cast<Ints>(_mm512_dpwssd_epi32(
        reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(x), reinterpret_cast<__m512i>(w)));
}
#elif defined(__AVXVNNI__) && !defined(__AVX512F__) && !defined(MULM_PORTABLE)
#define MULM_DOTS
inline Ints add_fours(Ints sum, Ints x, Ints w) {
    return reinterpret_cast<Ints>(_mm256_dpbusd_avx_epi32(
        reinterpret_cast<__m256i>(sum), reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(w)));
}
inline Ints add_pairs(Ints sum, Ints x, Ints w) {
    return reinterpret_cast<Ints>(_mm256_dpwssd_avx_epi32(
        reinterpret_cast<__m256i>(sum), reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(w)));
}
#elif defined(__AVX2__) && !defined(__AVX512F__) && !defined(MULM_PORTABLE)
#define MULM_AVX2_DOTS
inline Ints add_pairs(Ints sum, Ints x, Ints w) {
    return sum + reinterpret_cast<Ints>(
                     _mm256_madd_epi16(reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(w)));
}
#else
// The products of both 16-bit halves of each lane, added to its sum.
inline Ints add_pairs(Ints sum, Ints x, Ints w) {
    return sum + ((x << 16) >> 16) * ((w << 16) >> 16) + (x >> 16) * (w >> 16);
}
#endif

// Of each lane's four bytes the first and third, or the second and fourth, as 16-bit numbers.
inline Ints signed_bytes(Ints bytes, int half) {
    const Shorts both = load<Shorts>(&bytes), one = half ? both >> 8 : (both << 8) >> 8;
    return load<Ints>(&one);
}
inline Ints unsigned_bytes(Ints bytes, int half) { return (half ? bytes >> 8 : bytes) & 0x00ff00ff; }

// Weights in int8, rows in uint8 (the value plus 128), sums in int32 and exact: a step is four inputs.
struct Int8 {
    using Sum = Ints;
    static constexpr int kInputs = 4, kTileUnits = kUnits, kStep = kUnitStep, kRowStep = 4;
#if defined(MULM_DOTS)
    static constexpr int kHalves = 1;
    static Ints weights(const char* from, int) { return load<Ints>(from); }
    static Ints spread_step(const char* row, int) { return spread_int(load<int32_t>(row)); }
    static void add(Sum& sum, Ints x, Ints w) { sum = add_fours(sum, x, w); }
#else
    static constexpr int kHalves = 2;
    static Ints weights(const char* from, int half) { return signed_bytes(load<Ints>(from), half); }
    static Ints spread_step(const char* row, int half) { return unsigned_bytes(spread_int(load<int32_t>(row)), half); }
    static void add(Sum& sum, Ints x, Ints w) { sum = add_pairs(sum, x, w); }
#endif
};

// Weights of 4 bits, sixteen inputs of an output with one multiplier; rows as for int8, and so are the
// sums, since a multiplier times a code is a byte. A step is four such groups: first their multipliers
// (a byte each), then for each group twice four bytes of every output, with eight codes plus 8, those of
// the first four inputs in the low halves.
struct Int4 {
    using Sum = Ints;
    static constexpr int kGroup = 16, kGroups = 4, kInputs = kGroup * kGroups;
    static constexpr int kTileUnits = 2, kStep = 9 * kUnitStep, kRowStep = kInputs;

    struct Group {
        Ints codes[4];
        Ints multiplier;
    };

    static Group group(const char* step, int number) {
        Group it;
        it.multiplier = (load<Ints>(step) >> (8 * number)) & 0xff;
        for (int pair = 0; pair < 2; ++pair) {
            const Words both = load<Words>(step + kUnitStep * (1 + 2 * number + pair));
            const Words low = both & 0x0f0f0f0fu, high = (both >> 4) & 0x0f0f0f0fu;
            const Bytes first = load<Bytes>(&low) - 8, second = load<Bytes>(&high) - 8;
            it.codes[2 * pair] = load<Ints>(&first);
            it.codes[2 * pair + 1] = load<Ints>(&second);
        }
        return it;
    }

    // The products of bytes and codes of a group fit 16 bits.
    static void add(Sum& sum, const Ints (&x)[4], const Group& group) {
#if defined(MULM_DOTS)
        Ints own = {};
        for (int i = 0; i < 4; ++i) own = add_fours(own, x[i], group.codes[i]);
        sum = add_pairs(sum, own, group.multiplier);
#elif defined(MULM_AVX2_DOTS)
        Shorts own = {};
        for (int i = 0; i < 4; ++i)
            own += reinterpret_cast<Shorts>(_mm256_maddubs_epi16(reinterpret_cast<__m256i>(x[i]),
                                                                 reinterpret_cast<__m256i>(group.codes[i])));
        sum = add_pairs(sum, load<Ints>(&own), group.multiplier | group.multiplier << 16);
#else
        Ints own = {};
        for (int i = 0; i < 4; ++i)
            for (int half = 0; half < 2; ++half)
                own = add_pairs(own, unsigned_bytes(x[i], half), signed_bytes(group.codes[i], half));
        sum += own * group.multiplier;
#endif
    }
};

// Weights in int8, rows in int16, sums in int32 and exact: a step is four inputs, of which the second and
// the third change places in the packed matrix. For keys and values.
struct Kv8 {
    using Sum = Ints;
    static constexpr int kInputs = 4, kHalves = 2, kTileUnits = kUnits, kStep = kUnitStep, kRowStep = 8;
    static constexpr int kPlace[4] = {0, 2, 1, 3};  // of each of the four
    static Ints weights(const char* from, int half) { return signed_bytes(load<Ints>(from), half); }
    static Ints spread_step(const char* row, int half) { return spread_int(load<int32_t>(row + 4 * half)); }
    static void add(Sum& sum, Ints x, Ints w) { sum = add_pairs(sum, x, w); }
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
inline void multiply_steps(typename F::Sum (&its_sum)[kM][kN], const Tile& tile) {
    const char* unit[kN];
    for (int n = 0; n < kN; ++n) unit[n] = tile.units[n];
    // A copy, which no load of a weight can be thought to read.
    typename F::Sum sum[kM][kN];
#pragma GCC unroll 6
    for (int m = 0; m < kM; ++m)
#pragma GCC unroll 4
        for (int n = 0; n < kN; ++n) sum[m][n] = its_sum[m][n];
    for (size_t step = 0; step < tile.n_steps; ++step) {
#pragma GCC unroll 4
        for (int n = 0; n < kAhead; ++n)
            __builtin_prefetch(tile.ahead[n] + step * kUnitStep, 0, 2);
#pragma GCC unroll 2
        for (int half = 0; half < F::kHalves; ++half) {
            decltype(F::weights(nullptr, 0)) w[kN];
#pragma GCC unroll 4
            for (int n = 0; n < kN; ++n) w[n] = F::weights(unit[n] + step * kUnitStep, half);
#pragma GCC unroll 6
            for (int m = 0; m < kM; ++m) {
                const auto x = F::spread_step(tile.rows + m * tile.row_bytes + step * F::kRowStep, half);
#pragma GCC unroll 4
                for (int n = 0; n < kN; ++n) F::add(sum[m][n], x, w[n]);
            }
        }
    }
#pragma GCC unroll 6
    for (int m = 0; m < kM; ++m)
#pragma GCC unroll 4
        for (int n = 0; n < kN; ++n) its_sum[m][n] = sum[m][n];
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
                Ints x[4];
                for (int i = 0; i < 4; ++i) x[i] = spread_int(load<int32_t>(row + 4 * i));
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
