// Whether a batch can be computed: everything that a step takes as an index is looked at before it is
// one. Called once for every step, by its first thread; a thousandth of the step's time.
#pragma once

#include "step.h"

namespace mulm {

// What is wrong with a batch; mulm/native/library.py has the words.
enum Fault : int64_t { kNone, kBadOrder, kBadId, kBadPosition, kBadPage, kBadRow, kBadAdapter, kNoMemory };

inline bool is_below(int32_t index, int64_t end) { return index >= 0 && index < end; }

// Tokens of a sequence stand one after the other, and its pages hold all positions up to the last.
inline Fault fault_of_sequence(const Model& model, const Cache& cache, const Batch& batch, int64_t s) {
    const int begin = batch.begins[s], end = batch.begins[s + 1], first = batch.positions[begin];
    if (!is_below(first, model.shape.max_seq_len - (end - begin - 1))) return kBadPosition;
    for (int t = begin; t < end; ++t)
        if (batch.positions[t] != first + (t - begin)) return kBadPosition;
    const int64_t n_pages = (first + (end - begin) - 1) / kPageTokens + 1;
    if (n_pages > batch.pages_stride) return kBadPage;
    for (int64_t p = 0; p < n_pages; ++p)
        if (!is_below(batch.pages[s * batch.pages_stride + p], cache.n_pages)) return kBadPage;
    return kNone;
}

inline Fault fault_of(const Model& model, const Cache& cache, const Batch& batch) {
    const int32_t* begins = batch.begins;
    // Rows of queries are counted in 32 bits.
    if (batch.n_tokens * model.shape.n_heads > INT32_MAX - kRows) return kBadOrder;
    if (batch.n_sequences < 1 || begins[0] != 0 || begins[batch.n_sequences] != batch.n_tokens)
        return kBadOrder;
    for (int64_t s = 0; s < batch.n_sequences; ++s)
        if (begins[s + 1] <= begins[s]) return kBadOrder;
    for (int64_t t = 0; t < batch.n_tokens; ++t)
        if (!is_below(batch.ids[t], model.shape.vocab_size)) return kBadId;
    for (int64_t r = 0; r < batch.n_wanted; ++r)
        if (!is_below(batch.wanted[r], batch.n_tokens)) return kBadRow;
    for (int64_t s = 0; batch.adapters && s < batch.n_sequences; ++s)
        if (batch.adapters[s] != -1 && !model.adapters.count(batch.adapters[s])) return kBadAdapter;
    for (int64_t s = 0; s < batch.n_sequences; ++s)
        if (const Fault fault = fault_of_sequence(model, cache, batch, s)) return fault;
    return kNone;
}

}  // namespace mulm
