// One step of the engine: new tokens of several sequences go through all layers. Every thread runs the
// same sequence of phases with a barrier after each; a phase shares out rows, heads or units.
// Letters: T new tokens, S sequences, R wanted rows, D d_model, N heads, K kv heads, H as in attention.
#pragma once

#include <memory>

#include "heads.h"

namespace mulm {

// How rows look before they are multiplied by a matrix in format F.
template <class F>
struct RowFormat;

template <>
struct RowFormat<Fp32> {
    static size_t bytes(size_t n) { return 4 * n; }
    static void write(const float* x, size_t n, char* to, float*) { std::memcpy(to, x, 4 * n); }
};

template <>
struct RowFormat<Bf16> {
    static size_t bytes(size_t n) { return (n + 1) / 2 * Bf16::kRowStep; }
    static void write(const float* x, size_t n, char* to, float*) {
        auto* out = reinterpret_cast<Bf16::Row*>(to);
        size_t i = 0;
        for (; i + kLanes <= n; i += kLanes) Bf16::store_rows(out + i, load<Floats>(x + i));
        for (; i < n; ++i) out[i] = Bf16::row_of(x[i]);
        if (n % 2) out[n] = 0;
    }
};

template <size_t kStep>
struct ByteRows {
    static size_t bytes(size_t n) { return (n + kStep - 1) / kStep * kStep; }
    static void write(const float* x, size_t n, char* to, float* scale) {
        const float largest = largest_size(x, n), factor = 127.0f / largest;
        *scale = largest / 127.0f;
        auto* out = reinterpret_cast<uint8_t*>(to);
        for (size_t i = 0; i < n; ++i) out[i] = static_cast<uint8_t>(rounded(x[i] * factor) + 128);
        for (size_t i = n; i < bytes(n); ++i) out[i] = 128;
    }
};

template <>
struct RowFormat<Int8> : ByteRows<Int8::kRowStep> {};
template <>
struct RowFormat<Int4> : ByteRows<Int4::kRowStep> {};

// Consecutive tokens with the same adapter.
struct Stretch {
    size_t begin, end;
    const Adapter* adapter;
};

template <class F>  // of the matrices
class Step {
    // Bytes have a scale for a whole row, which is therefore written when all of it is known.
    static constexpr bool kHasBytes = std::is_same_v<typename F::Sum, Ints>;
    using Inner = std::conditional_t<std::is_same_v<F, Int4>, Int8, F>;  // of adapters

  public:
    Step(Model& model, const Pages& pages, const Batch& batch)
        : m_(model), s_(model.shape), b_(batch), T_(batch.n_tokens) {
        const size_t q = s_.n_heads * s_.d_head, widest = std::max<size_t>({q, size_t(s_.d_ff), size_t(s_.d_model)});
        n_wide_ = std::max<size_t>(m_.layers[0].matrices[kQkv].packed.n_units * kLanes, widest + kLanes);
        row_bytes_ = RowFormat<F>::bytes(widest) + 64;
        x_ = reinterpret_cast<float*>(m_.stream.of(4 * T_ * s_.d_model));
        wide_ = reinterpret_cast<float*>(m_.wide.of(4 * T_ * n_wide_));
        rows_ = m_.rows.of(T_ * row_bytes_);
        scales_ = reinterpret_cast<float*>(m_.scales.of(4 * T_));
        hidden_ = m_.hidden.of(T_ * row_bytes_);
        heads_ = heads_of(pages);
        if (b_.adapters) find_adapters();
    }

    void run(float* hidden) {
        m_.pool.run([&](int thread) {
            each_row(thread, [&](size_t t) { m_.embedding.read(b_.ids[t], x_ + t * s_.d_model); });
            m_.pool.wait();
            for (size_t i = 0; i < m_.layers.size(); ++i) layer(m_.layers[i], i, thread);
            const Range mine = part_of(b_.n_wanted, thread, m_.pool.n_threads());
            for (size_t r = mine.begin; r < mine.end; ++r)
                scaled_to_unit(x_ + b_.wanted[r] * s_.d_model, m_.norm.data(), s_.d_model, m_.eps,
                               hidden + r * s_.d_model);
        });
    }

  private:
    std::unique_ptr<Heads> heads_of(const Pages& pages) {
        const Room room{wide_, n_wide_, rows_, row_bytes_};
        if (s_.kv_format == kFp32) return std::make_unique<HeadsOf<Fp32>>(m_, pages, b_, room);
        if (s_.kv_format == kBf16) return std::make_unique<HeadsOf<Bf16>>(m_, pages, b_, room);
        return std::make_unique<HeadsOf<Kv8>>(m_, pages, b_, room);
    }

    void find_adapters() {
        adapter_of_.resize(T_);
        for (int64_t s = 0; s < b_.n_sequences; ++s) {
            if (b_.adapters[s] < 0) continue;
            const Adapter& adapter = m_.adapters.at(b_.adapters[s]);
            const size_t begin = b_.begins[s], end = b_.begins[s + 1];
            std::fill(adapter_of_.begin() + begin, adapter_of_.begin() + end, &adapter);
            n_inner_ = std::max(n_inner_, adapter.n_numbers);
            if (!stretches_.empty() && stretches_.back().end == begin && stretches_.back().adapter == &adapter)
                stretches_.back().end = end;
            else stretches_.push_back({begin, end, &adapter});
        }
        if (stretches_.empty()) adapter_of_.clear();
        inner_ = reinterpret_cast<float*>(m_.inner.of(4 * T_ * n_inner_));
    }

    void layer(const Layer& layer, size_t number, int thread) {
        const size_t D = s_.d_model;
        const Rows rows{rows_, row_bytes_, scales_};
        each_row(thread, [&](size_t t) {
            norm_row(t, layer.attention_norm);
            heads_->begin_page(number, t);
        });
        write_inner_rows(number, kQkv, rows, thread);
        m_.pool.wait();
        multiply_by(number, kQkv, rows, thread, 1, [&](size_t t, size_t unit, Floats* y, int n) {
            for (int i = 0; i < n; ++i) store(wide_ + t * n_wide_ + (unit + i) * kLanes, y[i]);
        });
        m_.pool.wait();
        heads_->place(layer, number, thread);
        m_.pool.wait();
        heads_->attend(number, thread);
        m_.pool.wait();
        if (heads_->has_stretches()) {
            heads_->join_stretches(thread);
            m_.pool.wait();
        }
        const auto add = [&](size_t t, size_t unit, Floats* y, int n) {
            float* x = x_ + t * D;
            for (int i = 0; i < n; ++i) add_unit(x, (unit + i) * kLanes, y[i], D);
        };
        finish_rows(number, kOut, s_.n_heads * s_.d_head, rows, thread);
        multiply_by(number, kOut, rows, thread, 1, add);
        m_.pool.wait();
        each_row(thread, [&](size_t t) { norm_row(t, layer.mlp_norm); });
        write_inner_rows(number, kGateUp, rows, thread);
        m_.pool.wait();
        gate(number, rows, thread);
        m_.pool.wait();
        const Rows changed = kHasBytes ? rows : Rows{hidden_, row_bytes_};
        finish_rows(number, kDown, s_.d_ff, changed, thread);
        multiply_by(number, kDown, changed, thread, 1, add);
        m_.pool.wait();
    }

    // Rows that were written in parts by all threads, made ready to be multiplied.
    void finish_rows(size_t number, Name name, size_t n, const Rows& rows, int thread) {
        if (!kHasBytes && stretches_.empty()) return;
        if (kHasBytes) each_row(thread, [&](size_t t) { write_row(t, wide_ + t * n_wide_, n); });
        write_inner_rows(number, name, rows, thread);
        m_.pool.wait();
    }

    // What adapters make of this thread's own rows first.
    void write_inner_rows(size_t number, Name name, const Rows& rows, int thread) {
        const Range mine = part_of(T_, thread, m_.pool.n_threads());
        for (const Stretch& stretch : stretches_) {
            const size_t begin = std::max(mine.begin, stretch.begin), end = std::min(mine.end, stretch.end);
            for (const LowRank& part : stretch.adapter->layers[number][name].parts)
                write_inner<Inner>(part, rows, begin, end, inner_, n_inner_);
        }
    }

    void add_changes(size_t number, Name name, size_t t, size_t unit, Floats* y, int n) const {
        if (!adapter_of_[t]) return;
        for (const LowRank& part : adapter_of_[t]->layers[number][name].parts)
            for (int i = 0; i < n; ++i) part.add(inner_ + t * n_inner_, unit + i, y[i]);
    }

    template <class Do>
    void each_row(int thread, Do what) {
        const Range mine = part_of(T_, thread, m_.pool.n_threads());
        for (size_t t = mine.begin; t < mine.end; ++t) what(t);
    }

    void write_row(size_t t, const float* x, size_t n) {
        RowFormat<F>::write(x, n, rows_ + t * row_bytes_, scales_ + t);
    }

    void norm_row(size_t t, const std::vector<float>& gain) {
        float* room = wide_ + t * n_wide_;  // free at this time
        scaled_to_unit(x_ + t * s_.d_model, gain.data(), s_.d_model, m_.eps, room);
        write_row(t, room, s_.d_model);
    }

    // `take(t, unit, y, n)` gets a row's results, `n` units at a time.
    template <class TakeRow>
    void multiply_by(size_t number, Name name, const Rows& rows, int thread, size_t grain, TakeRow take) {
        const Packed& matrix = m_.layers[number].matrices[name].packed;
        const Range mine = part_of(matrix.n_units, thread, m_.pool.n_threads(), grain);
        const bool has_adapters = !stretches_.empty();
        const auto take_tile = [&](size_t row, size_t unit, Floats* values, int n_rows, int n_units) {
            for (int m = 0; m < n_rows; ++m) {
                if (has_adapters) add_changes(number, name, row + m, unit, values + m * n_units, n_units);
                take(row + m, unit, values + m * n_units, n_units);
            }
        };
        product<F>(matrix, rows, T_, mine.begin, mine.end, take_tile);
    }

    static void add_unit(float* x, size_t first, Floats y, size_t n) {
        if (first + kLanes <= n) return store(x + first, load<Floats>(x + first) + y);
        for (size_t i = first; i < n; ++i) x[i] += y[i - first];
    }

    // silu(gate) * up, as rows for the next matrix where their format allows to write them in parts.
    void gate(size_t number, const Rows& rows, int thread) {
        multiply_by(number, kGateUp, rows, thread, 2, [&](size_t t, size_t unit, Floats* y, int n) {
            for (int i = 0; i + 1 < n; i += 2) {
                const Floats changed = y[i] / (power_of_two(y[i] * -kLog2E) + 1.0f) * y[i + 1];
                const size_t first = (unit + i) / 2 * kLanes;
                if constexpr (kHasBytes) store(wide_ + t * n_wide_ + first, changed);
                else Element<F>::store(hidden_row(t) + first, changed);
            }
        });
    }

    auto* hidden_row(size_t t) {
        return reinterpret_cast<typename Element<F>::Type*>(hidden_ + t * row_bytes_);
    }

    Model& m_;
    const Shape& s_;
    const Batch& b_;
    const size_t T_;
    size_t n_wide_, row_bytes_;
    float *x_, *wide_, *scales_;
    char *rows_, *hidden_;
    std::unique_ptr<Heads> heads_;
    std::vector<Stretch> stretches_;
    std::vector<const Adapter*> adapter_of_;  // of each token; empty where no sequence has one
    size_t n_inner_ = 0;
    float* inner_ = nullptr;
};

// logits (R, vocabulary padded to whole units) of hidden rows.
template <class F>
void write_logits(Model& m, const float* hidden, size_t n_rows, float* logits) {
    const Matrix& head = m.head();
    const size_t row_bytes = RowFormat<F>::bytes(m.shape.d_model), width = head.packed.n_units * kLanes;
    char* rows = m.rows.of(n_rows * row_bytes);
    float* scales = reinterpret_cast<float*>(m.scales.of(4 * n_rows));
    m.pool.run([&](int thread) {
        const Range own = part_of(n_rows, thread, m.pool.n_threads());
        for (size_t r = own.begin; r < own.end; ++r)
            RowFormat<F>::write(hidden + r * m.shape.d_model, m.shape.d_model, rows + r * row_bytes, scales + r);
        m.pool.wait();
        const Range mine = part_of(head.packed.n_units, thread, m.pool.n_threads(), kUnits);
        product<F>(head.packed, {rows, row_bytes, scales}, n_rows, mine.begin, mine.end,
                   [&](size_t row, size_t unit, Floats* y, int n_tile_rows, int n) {
                       for (int m = 0; m < n_tile_rows; ++m)
                           for (int i = 0; i < n; ++i)
                               store(logits + (row + m) * width + (unit + i) * kLanes, y[m * n + i]);
                   });
    });
}

}  // namespace mulm
