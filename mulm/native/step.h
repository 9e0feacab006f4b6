// One step of the engine: new tokens of several sequences go through all layers. Every thread runs the
// same sequence of phases with a barrier after each; a phase shares out rows, heads or units.
// Letters: T new tokens, S sequences, R wanted rows, D d_model, N heads, K kv heads, H as in attention.
#pragma once

#include <cmath>

#include "model.h"

namespace mulm {

struct Batch {
    const int32_t *ids, *positions, *begins, *pages, *wanted;
    int64_t n_tokens, n_sequences, n_wanted, pages_stride;
};

struct Range {
    size_t begin, end;
};

// A thread's part of n things, in whole grains.
inline Range part_of(size_t n, int thread, int n_threads, size_t grain = 1) {
    const size_t n_grains = (n + grain - 1) / grain;
    return {std::min(n, n_grains * thread / n_threads * grain),
            std::min(n, n_grains * (thread + 1) / n_threads * grain)};
}

inline void scaled_to_unit(const float* x, const float* gain, size_t n, float eps, float* to) {
    Floats squares = {};
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const Floats v = load<Floats>(x + i);
        squares += v * v;
    }
    float sum = sum_of(squares);
    for (; i < n; ++i) sum += x[i] * x[i];
    const float factor = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
    for (size_t d = 0; d < n; ++d) to[d] = x[d] * factor * gain[d];
}

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
    static size_t bytes(size_t n) { return (n + 1) / 2 * 4; }
    static void write(const float* x, size_t n, char* to, float*) {
        auto* out = reinterpret_cast<uint16_t*>(to);
        size_t i = 0;
        for (; i + kLanes <= n; i += kLanes) store_bf16(out + i, load<Floats>(x + i));
        for (; i < n; ++i) out[i] = to_bf16(x[i]);
        if (n % 2) out[n] = 0;
    }
};

template <>
struct RowFormat<Int8> {
    static size_t bytes(size_t n) { return (n + 3) / 4 * 4; }
    static void write(const float* x, size_t n, char* to, float* scale) {
        float largest = 1e-30f;
        for (size_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
        *scale = largest / 127.0f;
        const float factor = 127.0f / largest;
        auto* out = reinterpret_cast<uint8_t*>(to);
        const float shift = 12582912.0f;  // rounds to whole numbers, ties to even
        for (size_t i = 0; i < n; ++i)
            out[i] = static_cast<uint8_t>(static_cast<int>((x[i] * factor + shift) - shift) + 128);
        for (size_t i = n; i < bytes(n); ++i) out[i] = 128;
    }
};

// A share of the attention of one step: some query rows of one kv head of one sequence.
struct Task {
    int32_t sequence, head;
    int32_t row, n_rows;  // among the query rows (token, head of the group) of the step
};

template <class F, class C>  // of the matrices, of the cache
class Step {
    using E = typename Element<C>::Type;

  public:
    Step(Model& model, const Pages& pages, const Batch& batch)
        : m_(model), s_(model.shape), pages_(pages), b_(batch), T_(batch.n_tokens) {
        const size_t q = s_.n_heads * s_.d_head, widest = std::max<size_t>({q, size_t(s_.d_ff), size_t(s_.d_model)});
        n_wide_ = std::max<size_t>(m_.layers[0].qkv.packed.n_units * kLanes, widest + kLanes);
        row_bytes_ = RowFormat<F>::bytes(widest) + 64;
        x_ = reinterpret_cast<float*>(m_.stream.of(4 * T_ * s_.d_model));
        wide_ = reinterpret_cast<float*>(m_.wide.of(4 * T_ * n_wide_));
        rows_ = m_.rows.of(T_ * row_bytes_);
        scales_ = reinterpret_cast<float*>(m_.scales.of(4 * T_));
        queries_ = reinterpret_cast<E*>(m_.queries.of(sizeof(E) * T_ * s_.n_heads * m_.H));
        m_.hidden.of(T_ * row_bytes_);
        share_out();
        if (n_stretches_)
            parts_ = reinterpret_cast<float*>(m_.parts.of(4 * tasks_.size() * n_stretches_ * part_floats()));
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
    void layer(const Layer& layer, size_t number, int thread) {
        const size_t D = s_.d_model;
        each_row(thread, [&](size_t t) { norm_row(t, layer.attention_norm); });
        m_.pool.wait();
        multiply_by(layer.qkv, thread, 1, [&](size_t t, size_t unit, const Floats* y, int n) {
            for (int i = 0; i < n; ++i) store(wide_ + t * n_wide_ + (unit + i) * kLanes, y[i]);
        });
        m_.pool.wait();
        place_heads(layer, number, thread);
        if (thread == 0) next_task_ = 0;
        m_.pool.wait();
        attend(number);
        m_.pool.wait();
        if (n_stretches_) {
            join_stretches(thread);
            m_.pool.wait();
        }
        if constexpr (F::kInputs == 4) {
            each_row(thread, [&](size_t t) { write_row(t, wide_ + t * n_wide_, s_.n_heads * s_.d_head); });
            m_.pool.wait();
        }
        const auto add = [&](size_t t, size_t unit, const Floats* y, int n) {
            float* x = x_ + t * D;
            for (int i = 0; i < n; ++i) add_unit(x, (unit + i) * kLanes, y[i], D);
        };
        multiply_by(layer.out, thread, 1, add);
        m_.pool.wait();
        each_row(thread, [&](size_t t) { norm_row(t, layer.mlp_norm); });
        m_.pool.wait();
        gate(layer, thread);
        m_.pool.wait();
        if constexpr (F::kInputs == 4) {
            each_row(thread, [&](size_t t) { write_row(t, wide_ + t * n_wide_, s_.d_ff); });
            m_.pool.wait();
            multiply_by(layer.down, thread, 1, add);
        } else {
            product_of(layer.down, {m_.hidden.memory.data(), row_bytes_}, thread, 1, add);
        }
        m_.pool.wait();
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

    template <class Take>
    void multiply_by(const Matrix& matrix, int thread, size_t grain, Take take) {
        product_of(matrix, {rows_, row_bytes_, scales_}, thread, grain, take);
    }

    template <class Take>
    void product_of(const Matrix& matrix, const Rows& rows, int thread, size_t grain, Take take) {
        const Range mine = part_of(matrix.packed.n_units, thread, m_.pool.n_threads(), grain);
        product<F>(matrix.packed, rows, T_, mine.begin, mine.end, take);
    }

    static void add_unit(float* x, size_t first, Floats y, size_t n) {
        if (first + kLanes <= n) return store(x + first, load<Floats>(x + first) + y);
        for (size_t i = first; i < n; ++i) x[i] += y[i - first];
    }

    // silu(gate) * up, as rows for the next matrix where their format allows to write them in parts.
    void gate(const Layer& layer, int thread) {
        multiply_by(layer.gate_up, thread, 2, [&](size_t t, size_t unit, const Floats* y, int n) {
            for (int i = 0; i + 1 < n; i += 2) {
                const Floats changed = y[i] / (exponential(-y[i]) + 1.0f) * y[i + 1];
                const size_t first = (unit + i) / 2 * kLanes;
                if constexpr (F::kInputs == 4) store(wide_ + t * n_wide_ + first, changed);
                else Element<F>::store(hidden_row(t) + first, changed);
            }
        });
    }

    typename Element<C>::Type* hidden_row(size_t t) {
        return reinterpret_cast<E*>(m_.hidden.memory.data() + t * row_bytes_);
    }

    // Queries, keys and values of new tokens: normalised, turned, put where attention finds them.
    void place_heads(const Layer& layer, size_t number, int thread) {
        const size_t n_heads = s_.n_heads + s_.n_kv_heads;
        const Range mine = part_of(T_ * n_heads, thread, m_.pool.n_threads());
        for (size_t i = mine.begin; i < mine.end; ++i) {
            const size_t t = i / n_heads, head = i % n_heads;
            const float* qkv = wide_ + t * n_wide_;
            float turned[kWidestHead] = {};
            const bool is_query = head < size_t(s_.n_heads);
            turn(qkv + head * s_.d_head, is_query ? layer.q_norm : layer.k_norm, b_.positions[t], turned);
            if (is_query) place_query(t, head, turned);
            else place_token(number, t, head - s_.n_heads, turned, qkv + (head + s_.n_kv_heads) * s_.d_head);
        }
    }

    void turn(const float* x, const std::vector<float>& gain, int position, float* to) {
        const size_t H = s_.d_head, half = H / 2;
        float room[kWidestHead];
        if (s_.has_qk_norm) {
            scaled_to_unit(x, gain.data(), H, m_.eps, room);
            x = room;
        }
        const float *cos = m_.cos.data() + position * H, *sin = m_.sin.data() + position * H;
        for (size_t d = 0; d < half; ++d) {
            to[d] = x[d] * cos[d] - x[d + half] * sin[d];
            to[d + half] = x[d + half] * cos[d + half] + x[d] * sin[d + half];
        }
    }

    void place_query(size_t t, size_t head, const float* x) {
        const float scale = 1.0f / std::sqrt(static_cast<float>(s_.d_head));
        E* to = query(t, head / m_.G, head % m_.G);
        for (int d = 0; d < m_.H; d += kLanes) Element<C>::store(to + d, load<Floats>(x + d) * scale);
    }

    E* query(size_t t, size_t kv_head, size_t g) { return queries_ + ((kv_head * T_ + t) * m_.G + g) * m_.H; }

    void place_token(size_t number, size_t t, size_t head, const float* k, const float* v) {
        const int position = b_.positions[t];
        const int32_t page = table(sequence_of_[t])[position / kPageTokens];
        write_token<C>(pages_.keys(number, page, head), pages_.part_bytes, position % kPageTokens, k, v,
                       static_cast<int>(s_.d_head));
    }

    const int32_t* table(size_t sequence) const { return b_.pages + sequence * b_.pages_stride; }

    // Attention in tasks of up to sixteen tokens. With few tasks and long contexts each stretch of a
    // context is a task of its own; the arithmetic is the same.
    void share_out() {
        constexpr int kTaskTokens = 16;
        sequence_of_.resize(T_);
        int longest = 0;
        bool are_single = true;
        for (int64_t s = 0; s < b_.n_sequences; ++s) {
            const int begin = b_.begins[s], end = b_.begins[s + 1];
            std::fill(sequence_of_.begin() + begin, sequence_of_.begin() + end, static_cast<int32_t>(s));
            longest = std::max(longest, b_.positions[end - 1] + 1);
            are_single = are_single && end - begin == 1;
            for (int64_t head = 0; head < s_.n_kv_heads; ++head)
                for (int t = begin; t < end; t += kTaskTokens)
                    for (int row = t * m_.G; row < std::min(t + kTaskTokens, end) * m_.G; row += kRows)
                        tasks_.push_back({static_cast<int32_t>(s), static_cast<int32_t>(head), row,
                                          std::min<int32_t>(kRows, std::min(t + kTaskTokens, end) * m_.G - row)});
        }
        const int n = (longest + kStretchTokens - 1) / kStretchTokens;
        if (are_single && n > 1 && tasks_.size() < 8 * static_cast<size_t>(m_.pool.n_threads())) n_stretches_ = n;
    }

    Queries queries_of(const Task& task) {
        Queries q;
        q.rows = reinterpret_cast<const char*>(query(0, task.head, 0) + static_cast<size_t>(task.row) * m_.H);
        q.row_bytes = sizeof(E) * m_.H;
        q.n_rows = task.n_rows;
        q.last_of_all = 0;
        for (int i = 0; i < q.n_rows; ++i) {
            q.last[i] = b_.positions[(task.row + i) / m_.G];
            q.last_of_all = std::max(q.last_of_all, q.last[i]);
        }
        return q;
    }

    size_t part_floats() const { return kRows * (m_.H + 2); }

    void attend(size_t number) {
        Seen all(m_.H), stretch(m_.H);
        const size_t n_tasks = tasks_.size() * std::max(1, n_stretches_);
        for (size_t i; (i = next_task_.fetch_add(1)) < n_tasks;) {
            // The last tasks have the longest contexts: begin with them.
            const Task& task = tasks_[tasks_.size() - 1 - i / std::max(1, n_stretches_)];
            const Queries q = queries_of(task);
            if (n_stretches_) {
                see_part(number, task, q, static_cast<int>(i % n_stretches_), stretch);
                continue;
            }
            all.clear(q.n_rows, m_.H);
            for (int begin = 0; begin <= q.last_of_all; begin += kStretchTokens) {
                see_stretch_of<C>(q, pages_, number, task.head, table(task.sequence), begin, m_.H, stretch);
                all.join(stretch.largest, stretch.weight, stretch.mixed.data(), q.n_rows, m_.H);
            }
            finish(task, all);
        }
    }

    float* part(const Task& task, int n) {
        return parts_ + ((&task - tasks_.data()) * n_stretches_ + n) * part_floats();
    }

    void see_part(size_t number, const Task& task, const Queries& q, int n, Seen& stretch) {
        if (n * kStretchTokens > q.last_of_all) return;
        see_stretch_of<C>(q, pages_, number, task.head, table(task.sequence), n * kStretchTokens, m_.H, stretch);
        float* to = part(task, n);
        std::copy_n(stretch.largest, kRows, to);
        std::copy_n(stretch.weight, kRows, to + kRows);
        std::copy_n(stretch.mixed.data(), q.n_rows * m_.H, to + 2 * kRows);
    }

    void join_stretches(int thread) {
        Seen all(m_.H);
        const Range mine = part_of(tasks_.size(), thread, m_.pool.n_threads());
        for (size_t i = mine.begin; i < mine.end; ++i) {
            const Queries q = queries_of(tasks_[i]);
            all.clear(q.n_rows, m_.H);
            for (int n = 0; n * kStretchTokens <= q.last_of_all; ++n) {
                const float* from = part(tasks_[i], n);
                all.join(from, from + kRows, from + 2 * kRows, q.n_rows, m_.H);
            }
            finish(tasks_[i], all);
        }
    }

    void finish(const Task& task, const Seen& seen) {
        for (int i = 0; i < task.n_rows; ++i) {
            const size_t t = (task.row + i) / m_.G, g = (task.row + i) % m_.G;
            const float* mixed = seen.mixed.data() + i * m_.H;
            float room[kWidestHead];
            for (int d = 0; d < m_.H; d += kLanes)
                store(room + d, load<Floats>(mixed + d) / seen.weight[i]);
            const size_t first = (task.head * m_.G + g) * s_.d_head;
            if constexpr (F::kInputs == 4) {
                std::copy_n(room, s_.d_head, wide_ + t * n_wide_ + first);
            } else {
                auto* to = reinterpret_cast<E*>(rows_ + t * row_bytes_) + first;
                for (int64_t d = 0; d < s_.d_head; ++d) to[d] = Element<F>::of(room[d]);
            }
        }
    }

    Model& m_;
    const Shape& s_;
    const Pages& pages_;
    const Batch& b_;
    const size_t T_;
    size_t n_wide_, row_bytes_;
    float *x_, *wide_, *scales_, *parts_ = nullptr;
    char* rows_;
    E* queries_;
    std::vector<int32_t> sequence_of_;
    std::vector<Task> tasks_;
    int n_stretches_ = 0;
    std::atomic<size_t> next_task_{0};
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
                   [&](size_t r, size_t unit, const Floats* y, int n) {
                       for (int i = 0; i < n; ++i) store(logits + r * width + (unit + i) * kLanes, y[i]);
                   });
    });
}

}  // namespace mulm
