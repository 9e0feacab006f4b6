// Attention of one step: heads of new tokens are put in place, and each query sees what stands before it.
// Called by step.h from all threads, with a barrier between the phases.
// Letters: T new tokens, H and G as in attention.h.
#pragma once

#include <cmath>

#include "model.h"

namespace mulm {

struct Batch {
    const int32_t *ids, *positions, *begins, *pages, *wanted, *adapters;  // adapters: or null
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
        squares = multiply_add(v, v, squares);
    }
    float sum = sum_of(squares);
    for (; i < n; ++i) sum += x[i] * x[i];
    const float factor = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
    for (size_t d = 0; d < n; ++d) to[d] = x[d] * factor * gain[d];
}

// Where a step's rows stand: those of the wide stream, and those that the next matrix is multiplied by.
struct Room {
    float* wide;
    size_t n_wide;
    char* rows;
    size_t row_bytes;
};

// A share of the attention of one step: some query rows of one kv head of one sequence.
struct Task {
    int32_t sequence, head;
    int32_t row, n_rows;  // among the query rows (token, head of the group) of the step
};

// What a step asks of attention, whatever the format of the cache.
class Heads {
  public:
    virtual ~Heads() = default;
    virtual void begin_page(size_t number, size_t t) = 0;
    virtual void place(const Layer& layer, size_t number, int thread) = 0;
    virtual void attend(size_t number, int thread) = 0;
    virtual void join_stretches(int thread) = 0;
    virtual bool has_stretches() const = 0;
};

template <class C>  // of the cache
class HeadsOf final : public Heads {
  public:
    HeadsOf(Model& model, const Pages& pages, const Batch& batch, const Room& room)
        : m_(model), s_(model.shape), pages_(pages), b_(batch), room_(room), T_(batch.n_tokens) {
        query_bytes_ = Element<C>::query_bytes(m_.H);
        queries_ = m_.queries.of(query_bytes_ * T_ * s_.n_heads);
        seen_ = reinterpret_cast<float*>(m_.seen.of(size_t(4) * m_.pool.n_threads() * 2 * kRows * m_.H));
        share_out();
        if (n_stretches_)
            parts_ = reinterpret_cast<float*>(m_.parts.of(4 * tasks_.size() * n_stretches_ * part_floats()));
    }

    bool has_stretches() const override { return n_stretches_; }

    // A page that a token begins is emptied: tokens that are not there yet count nothing, but nothing times
    // what a broken model left there before could be no number, and spoil another sequence.
    void begin_page(size_t number, size_t t) override {
        const int position = b_.positions[t];
        if (position % kPageTokens) return;
        const int32_t page = table(sequence_of_[t])[position / kPageTokens];
        std::memset(pages_.keys(number, page, 0), 0, pages_.page_bytes);
    }

    // Queries, keys and values of new tokens: normalised, turned, put where attention finds them.
    void place(const Layer& layer, size_t number, int thread) override {
        if (thread == 0) next_task_ = 0;
        const size_t n_heads = s_.n_heads + s_.n_kv_heads;
        const Range mine = part_of(T_ * n_heads, thread, m_.pool.n_threads());
        for (size_t i = mine.begin; i < mine.end; ++i) {
            const size_t t = i / n_heads, head = i % n_heads;
            const float* qkv = room_.wide + t * room_.n_wide;
            float turned[kWidestHead];
            std::fill(turned + s_.d_head, turned + m_.H, 0.0f);
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
        const float scale = kLog2E / std::sqrt(static_cast<float>(s_.d_head));
        Element<C>::write_query(query(t * m_.G + head % m_.G, head / m_.G), x, scale, m_.H);
    }

    char* query(size_t row, size_t kv_head) { return queries_ + (kv_head * T_ * m_.G + row) * query_bytes_; }

    void place_token(size_t number, size_t t, size_t head, const float* k, const float* v) {
        const int position = b_.positions[t];
        const int32_t page = table(sequence_of_[t])[position / kPageTokens];
        Element<C>::write_token(pages_.keys(number, page, head), pages_.part_bytes, position % kPageTokens, k, v,
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
        q.rows = query(task.row, task.head);
        q.row_bytes = query_bytes_;
        q.n_rows = task.n_rows;
        q.last_of_all = 0;
        for (int i = 0; i < q.n_rows; ++i) {
            q.last[i] = b_.positions[(task.row + i) / m_.G];
            q.last_of_all = std::max(q.last_of_all, q.last[i]);
        }
        return q;
    }

    // Each thread has room for what two groups of rows have seen.
    float* seen_room(int thread, int n) { return seen_ + (2 * thread + n) * kRows * m_.H; }

    size_t part_floats() const { return kRows * (m_.H + 2); }

    void attend(size_t number, int thread) override {
        Seen all(seen_room(thread, 0)), stretch(seen_room(thread, 1));
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
                all.join(stretch.largest, stretch.weight, stretch.mixed, q.n_rows, m_.H);
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
        std::copy_n(stretch.mixed, q.n_rows * m_.H, to + 2 * kRows);
    }

    void join_stretches(int thread) override {
        Seen all(seen_room(thread, 0));
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
            const float* mixed = seen.mixed + i * m_.H;
            float room[kWidestHead];
            for (int d = 0; d < m_.H; d += kLanes)
                store(room + d, load<Floats>(mixed + d) / seen.weight[i]);
            const size_t first = (task.head * m_.G + g) * s_.d_head;
            write(room, t, first);
        }
    }

    // As the next matrix takes it; bytes have a scale for all heads, so they are written later.
    void write(const float* x, size_t t, size_t first) {
        if (s_.format == kFp32) {
            std::copy_n(x, s_.d_head, reinterpret_cast<float*>(room_.rows + t * room_.row_bytes) + first);
        } else if (s_.format == kBf16) {
            auto* to = reinterpret_cast<Bf16::Row*>(room_.rows + t * room_.row_bytes) + first;
            for (int64_t d = 0; d < s_.d_head; ++d) to[d] = Bf16::row_of(x[d]);
        } else {
            std::copy_n(x, s_.d_head, room_.wide + t * room_.n_wide + first);
        }
    }

    Model& m_;
    const Shape& s_;
    const Pages& pages_;
    const Batch& b_;
    const Room room_;
    const size_t T_;
    float *parts_ = nullptr, *seen_;
    char* queries_;
    size_t query_bytes_;
    std::vector<int32_t> sequence_of_;
    std::vector<Task> tasks_;
    int n_stretches_ = 0;
    std::atomic<size_t> next_task_{0};
};

}  // namespace mulm
