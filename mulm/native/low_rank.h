// LoRA adapters beside the packed matrices: y += outer (inner x), rows of one adapter after rows of
// another. Invariant: a row's sums are its own, so it gives the same bits in any batch, and a row without
// an adapter gives those of the base.
#pragma once

#include <array>
#include <vector>

#include "matrix.h"

namespace mulm {

// Where a matrix of the checkpoint stands in a packed one: its row r is output
// (row / kLanes * stride + shift) * kLanes + row % kLanes, where row = first + r.
struct Place {
    size_t first, n_rows, stride, shift;

    size_t output(size_t r) const {
        const size_t row = first + r;
        return (row / kLanes * stride + shift) * kLanes + row % kLanes;
    }
};

// Two narrow matrices beside a part of one packed matrix.
struct LowRank {
    Matrix inner;              // (rank, inputs)
    std::vector<float> outer;  // for each unit of rows: `rank` times their numbers
    size_t rank, at;           // `at`: where its inner numbers stand among those of a row
    size_t first, n_units, stride, shift;

    LowRank(Format format, size_t its_rank, size_t n_inputs, const Place& place, size_t its_at)
        : rank(its_rank), at(its_at), first(place.first / kLanes), stride(place.stride), shift(place.shift) {
        n_units = (place.first + place.n_rows + kLanes - 1) / kLanes - first;
        inner.make(format, rank, n_inputs);
        outer.assign(n_units * rank * kLanes, 0.0f);
    }

    // (place.n_rows, rank)
    void set_outer(const float* from, const Place& place) {
        for (size_t r = 0; r < place.n_rows; ++r) {
            const size_t row = place.first + r;
            float* to = outer.data() + (row / kLanes - first) * rank * kLanes + row % kLanes;
            for (size_t i = 0; i < rank; ++i) to[i * kLanes] = from[r * rank + i];
        }
    }

    // What it adds to a unit of outputs, given a row's inner numbers; false where it does not reach.
    bool add(const float* numbers, size_t unit, Floats& y) const {
        if (unit < shift || (unit - shift) % stride) return false;
        const size_t own = (unit - shift) / stride - first;
        if (own >= n_units) return false;
        const float* from = outer.data() + own * rank * kLanes;
        Floats sum = {};
        for (size_t i = 0; i < rank; ++i)
            sum = multiply_add(load<Floats>(from + i * kLanes), spread(numbers[at + i]), sum);
        y += sum;
        return true;
    }
};

// Some consecutive rows (at most `kRows`) times `inner`; `numbers` has a row of n_numbers for each.
template <class F, int kM>
void write_inner_of(const LowRank& it, const Rows& rows, size_t row, float* numbers, size_t n_numbers) {
    const Packed& inner = it.inner.packed;
    for (size_t unit = 0; unit < inner.n_units; ++unit) {
        const char* at = inner.unit(unit);
        typename F::Sum sum[kM][1] = {};
        multiply<F, kM, 1>(sum, {rows.data + row * rows.row_bytes, rows.row_bytes, &at, inner.n_steps, nullptr});
        for (int m = 0; m < kM; ++m)
            store(numbers + (row + m) * n_numbers + it.at + unit * kLanes, value_of(sum[m][0], inner, rows, row + m, unit));
    }
}

template <class F>
void write_inner(const LowRank& it, const Rows& rows, size_t begin, size_t end, float* numbers, size_t n_numbers) {
    for (; begin + kRows <= end; begin += kRows) write_inner_of<F, kRows>(it, rows, begin, numbers, n_numbers);
    for (; begin < end; ++begin) write_inner_of<F, 1>(it, rows, begin, numbers, n_numbers);
}

// All that an adapter has beside one packed matrix, and beside those of all layers.
struct Change {
    std::vector<LowRank> parts;
    size_t n_numbers = 0;  // of a row, each part's filled up to whole units
};

enum Name { kQkv, kOut, kGateUp, kDown, kNames };

struct Adapter {
    std::vector<std::array<Change, kNames>> layers;
    size_t n_numbers = 0;  // the most of its changes

    explicit Adapter(size_t n_layers) : layers(n_layers) {}

    LowRank& add(size_t layer, Name name, Format format, size_t rank, size_t n_inputs, const Place& place) {
        Change& change = layers[layer][name];
        change.parts.emplace_back(format, rank, n_inputs, place, change.n_numbers);
        change.n_numbers += (rank + kLanes - 1) / kLanes * kLanes;
        n_numbers = std::max(n_numbers, change.n_numbers);
        return change.parts.back();
    }
};

}  // namespace mulm
