// Rows times a packed matrix, in tiles. Invariant: a row gives the same bits in any batch.
#pragma once

#include <algorithm>

#include "formats.h"

namespace mulm {

// A packed matrix, or the part of it that stands in one place.
struct Packed {
    const char* data = nullptr;
    size_t n_units = 0;
    size_t n_steps = 0;
    size_t unit_bytes = 0;
    const float* scale = nullptr;    // int8 and int4: of each output
    const int32_t* offset = nullptr; // and 128 times the sum of each output's weights

    const char* unit(size_t n) const { return data + n * unit_bytes; }
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

// Gets the results of a tile, `values` (n_rows, n_units), from a row and a unit on. It refers to what it
// was made of. One type for all, so that tiles are compiled once for each format.
class Take {
  public:
    template <class Do>
    Take(const Do& what)  // NOLINT: a lambda is a Take
        : what_(&what), call_([](const void* what, size_t row, size_t unit, Floats* values, int n_rows, int n_units) {
              (*static_cast<const Do*>(what))(row, unit, values, n_rows, n_units);
          }) {}

    void operator()(size_t row, size_t unit, Floats* values, int n_rows, int n_units) const {
        call_(what_, row, unit, values, n_rows, n_units);
    }

  private:
    const void* what_;
    void (*call_)(const void*, size_t, size_t, Floats*, int, int);
};

template <class F, int kM, int kN, int kAhead>
inline void tile(const Packed& matrix, const Rows& rows, size_t row, size_t unit,
                 const char* const* ahead, const Take& take) {
    const char* units[kN];
    for (int n = 0; n < kN; ++n) units[n] = matrix.unit(unit + n);
    typename F::Sum sum[kM][kN] = {};
    multiply<F, kM, kN, kAhead>(
        sum, {rows.data + row * rows.row_bytes, rows.row_bytes, units, matrix.n_steps, ahead});
    Floats values[kM * kN];
    for (int m = 0; m < kM; ++m)
        for (int n = 0; n < kN; ++n)
            values[m * kN + n] = value_of(sum[m][n], matrix, rows, row + m, unit + n);
    take(row, unit, values, kM, kN);
}

template <class F, int kM, int kN>
inline void tile_ahead(int n_ahead, const Packed& matrix, const Rows& rows, size_t row, size_t unit,
                       const char* const* ahead, const Take& take) {
    if constexpr (kN == F::kTileUnits) {
        if constexpr (kN >= 4)
            if (n_ahead >= 4) return tile<F, kM, kN, 4>(matrix, rows, row, unit, ahead, take);
        if (n_ahead >= 2) return tile<F, kM, kN, 2>(matrix, rows, row, unit, ahead, take);
        if (n_ahead == 1) return tile<F, kM, kN, 1>(matrix, rows, row, unit, ahead, take);
    }
    tile<F, kM, kN, 0>(matrix, rows, row, unit, ahead, take);
}

template <class F, int kN>
inline void tile_rows(int n_rows, int n_ahead, const Packed& matrix, const Rows& rows, size_t row,
                      size_t unit, const char* const* ahead, const Take& take) {
    switch (n_rows) {
        case 1: return tile_ahead<F, 1, kN>(n_ahead, matrix, rows, row, unit, ahead, take);
        case 2: return tile_ahead<F, 2, kN>(n_ahead, matrix, rows, row, unit, ahead, take);
        case 3: return tile_ahead<F, 3, kN>(n_ahead, matrix, rows, row, unit, ahead, take);
        case 4: return tile_ahead<F, 4, kN>(n_ahead, matrix, rows, row, unit, ahead, take);
        case 5: return tile_ahead<F, 5, kN>(n_ahead, matrix, rows, row, unit, ahead, take);
        default: return tile_ahead<F, 6, kN>(n_ahead, matrix, rows, row, unit, ahead, take);
    }
}

template <class F, int kN>
inline void tile_units(int n_units, int n_rows, int n_ahead, const Packed& matrix, const Rows& rows,
                       size_t row, size_t unit, const char* const* ahead, const Take& take) {
    if constexpr (kN > 1) {
        if (n_units < kN)
            return tile_units<F, kN - 1>(n_units, n_rows, n_ahead, matrix, rows, row, unit, ahead, take);
    }
    tile_rows<F, kN>(n_rows, n_ahead, matrix, rows, row, unit, ahead, take);
}

// All rows times the units from `begin` to `end`. Units stay near while all rows pass by; meanwhile
// the next ones are fetched, a share with each tile.
template <class F>
void product(const Packed& matrix, const Rows& rows, size_t n_rows, size_t begin, size_t end,
             const Take& take) {
    constexpr int kN = F::kTileUnits;
    const size_t n_tiles = (n_rows + kRows - 1) / kRows;
    for (size_t unit = begin; unit < end;) {
        const size_t n_units = std::min<size_t>(kN, end - unit);
        const char* ahead[kN];
        const int n_next = end >= unit + n_units + kN ? std::max<int>(1, kN / std::max<size_t>(n_tiles, 1)) : 0;
        for (size_t i = 0; i < n_tiles; ++i) {
            const size_t row = i * n_rows / n_tiles, next = (i + 1) * n_rows / n_tiles;
            const int n_ahead = i * n_next < kN ? n_next : 0;
            for (int n = 0; n < n_ahead; ++n)
                ahead[n] = matrix.unit(unit + n_units + std::min<size_t>(i * n_next + n, kN - 1));
            tile_units<F, kN>(static_cast<int>(n_units), static_cast<int>(next - row), n_ahead, matrix, rows,
                              row, unit, ahead, take);
        }
        unit += n_units;
    }
}

}  // namespace mulm
