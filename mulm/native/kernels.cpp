// The C interface of the kernels, called by mulm/native/library.py. Pointers are to contiguous memory
// that outlives the call. What cannot be made is null; a batch that cannot be computed changes nothing and
// gives the number of its fault.

#include "check.h"

using namespace mulm;

namespace {

// Weights as they come: fp32, bf16, or int8 codes.
float number(const void* from, int64_t type, size_t i) {
    return type == kFp32 ? static_cast<const float*>(from)[i]
                         : from_bf16(static_cast<const uint16_t*>(from)[i]);
}

void pack_rows(Matrix& matrix, const void* from, int64_t type, size_t n_rows, size_t first,
               size_t unit_stride, size_t unit_shift, Pool& pool) {
    pool.run([&](int thread) {
        const Range mine = part_of(n_rows, thread, pool.n_threads(), kLanes);
        for (size_t r = mine.begin; r < mine.end; ++r) {
            const size_t row = first + r;
            const size_t output = (row / kLanes * unit_stride + unit_shift) * kLanes + row % kLanes;
            int32_t sum = 0;
            for (size_t i = 0; i < matrix.n_inputs; ++i) {
                char* to = matrix.at(output, i);
                const size_t at = r * matrix.n_inputs + i;
                if (matrix.format == kFp32) {
                    const float x = number(from, type, at);
                    std::memcpy(to, &x, 4);
                } else if (matrix.format == kBf16) {
                    const uint16_t x = type == kBf16 ? static_cast<const uint16_t*>(from)[at]
                                                     : to_bf16(number(from, type, at));
                    std::memcpy(to, &x, 2);
                } else {
                    *to = static_cast<const char*>(from)[at];
                    sum += static_cast<const int8_t*>(from)[at];
                }
            }
            if (matrix.format == kInt8) matrix.offset[output] = 128 * sum;
        }
    });
}

template <class F, class C>
void extend(Model& model, Cache& cache, const Batch& batch, float* hidden) {
    Step<F, C>(model, cache.pages, batch).run(hidden);
}

}  // namespace

extern "C" {

int64_t mulm_page_tokens() { return kPageTokens; }

int64_t mulm_widest_head() { return kWidestHead; }

void* mulm_model_new(const int64_t* shape, float eps, const float* cos, const float* sin) try {
    Shape its_shape;
    std::memcpy(&its_shape, shape, sizeof(its_shape));
    return new Model(its_shape, eps, cos, sin);
} catch (const std::exception&) {
    return nullptr;
}

void mulm_model_delete(void* model) { delete static_cast<Model*>(model); }

int64_t mulm_page_bytes(const void* model) {
    const Model& m = *static_cast<const Model*>(model);
    return m.page_bytes() * m.shape.n_layers;
}

// `name`: 0 q, 1 k, 2 v, 3 out, 4 gate, 5 up, 6 down of a layer; 7 embedding, 8 unembedding.
void mulm_set_matrix(void* model, int64_t layer, int64_t name, const void* from, int64_t type,
                     const float* scale) {
    Model& m = *static_cast<Model*>(model);
    const Shape& s = m.shape;
    const size_t q = s.n_heads * s.d_head, k = s.n_kv_heads * s.d_head;
    Matrix* matrix;
    size_t n_rows, first = 0, stride = 1, shift = 0;
    if (name >= 7) {
        matrix = name == 7 ? &m.embedding : &m.unembedding, n_rows = s.vocab_size;
    } else {
        Layer& at = m.layers[layer];
        Matrix* const matrices[] = {&at.qkv, &at.qkv, &at.qkv, &at.out, &at.gate_up, &at.gate_up, &at.down};
        const size_t counts[] = {q, k, k, size_t(s.d_model), size_t(s.d_ff), size_t(s.d_ff), size_t(s.d_model)};
        matrix = matrices[name], n_rows = counts[name];
        if (name == 1) first = q;
        if (name == 2) first = q + k;
        if (name == 4 || name == 5) stride = 2, shift = name - 4;
    }
    pack_rows(*matrix, from, type, n_rows, first, stride, shift, m.pool);
    if (!scale) return;
    for (size_t r = 0; r < n_rows; ++r) {
        const size_t row = first + r;
        matrix->scale[(row / kLanes * stride + shift) * kLanes + row % kLanes] = scale[r];
    }
}

// `name`: 0 attention_norm, 1 mlp_norm, 2 q_norm, 3 k_norm of a layer; 4 the last norm.
void mulm_set_norm(void* model, int64_t layer, int64_t name, const float* gain) {
    Model& m = *static_cast<Model*>(model);
    std::vector<float>* const norms[] = {&m.layers[layer].attention_norm, &m.layers[layer].mlp_norm,
                                         &m.layers[layer].q_norm, &m.layers[layer].k_norm, &m.norm};
    std::copy_n(gain, norms[name]->size(), norms[name]->begin());
}

void* mulm_cache_new(const void* model, int64_t n_pages) try {
    return new Cache(*static_cast<const Model*>(model), n_pages);
} catch (const std::exception&) {
    return nullptr;
}

void mulm_cache_delete(void* cache) { delete static_cast<Cache*>(cache); }

int64_t mulm_extend(void* model, void* cache, const int32_t* ids, const int32_t* positions,
                 const int32_t* begins, const int32_t* pages, const int32_t* wanted, int64_t n_tokens,
                 int64_t n_sequences, int64_t n_wanted, int64_t pages_stride, float* hidden) try {
    Model& m = *static_cast<Model*>(model);
    Cache& c = *static_cast<Cache*>(cache);
    const Batch batch{ids, positions, begins, pages, wanted, n_tokens, n_sequences, n_wanted, pages_stride};
    if (const Fault fault = fault_of(m, c, batch)) return fault;
    if (m.shape.format == kFp32) extend<Fp32, Fp32>(m, c, batch, hidden);
    else if (m.shape.format == kBf16) extend<Bf16, Bf16>(m, c, batch, hidden);
    else extend<Int8, Bf16>(m, c, batch, hidden);
    return kNone;
} catch (const std::bad_alloc&) {
    return kNoMemory;
}

void mulm_logits(void* model, const float* hidden, int64_t n_rows, float* logits) {
    Model& m = *static_cast<Model*>(model);
    const Format format = m.head().format;
    if (format == kFp32) write_logits<Fp32>(m, hidden, n_rows, logits);
    else if (format == kBf16) write_logits<Bf16>(m, hidden, n_rows, logits);
    else write_logits<Int8>(m, hidden, n_rows, logits);
}

}  // extern "C"
