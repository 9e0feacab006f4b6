// The C interface of the kernels, called by mulm/native/library.py. Pointers are to contiguous memory
// that outlives the call. What cannot be made is null, what cannot be done for want of memory is false; a
// batch that cannot be computed changes nothing and gives the number of its fault. Nothing is thrown.

#include "check.h"

using namespace mulm;

namespace {

float number(const void* from, int64_t type, size_t i) {
    return type == kFp32 ? static_cast<const float*>(from)[i]
                         : from_bf16(static_cast<const uint16_t*>(from)[i]);
}

// Row r of codes and multipliers, two a byte, as mulm/model/quantize.py has them.
void pack_int4(Matrix& matrix, size_t output, size_t r, const uint8_t* codes, const uint8_t* multipliers) {
    const size_t n_groups = (matrix.n_inputs + 2 * Int4::kGroup - 1) / (2 * Int4::kGroup) * 2;
    int32_t sum = 0;
    for (size_t group = 0; group < n_groups; ++group) {
        const int multiplier = (multipliers[(r * n_groups + group) / 2] >> (4 * (group % 2)) & 15) + 1;
        const size_t first = group * Int4::kGroup;
        *matrix.multiplier_at(output, first) = static_cast<char>(multiplier);
        for (size_t i = first; i < first + Int4::kGroup; ++i) {
            const int code = codes[(r * n_groups * Int4::kGroup + i) / 2] >> (4 * (i % 2)) & 15;
            char* at = matrix.code_at(output, i);
            *at = static_cast<char>((*at & ~(15 << Matrix::half_of(i))) | code << Matrix::half_of(i));
            sum += (code - 8) * multiplier;
        }
    }
    matrix.offset[output] = 128 * sum;
}

void pack(Matrix& matrix, const Place& place, const void* from, int64_t type, const float* scale,
          const uint8_t* multipliers, Pool& pool) {
    pool.run([&](int thread) {
        const Range mine = part_of(place.n_rows, thread, pool.n_threads(), kLanes);
        for (size_t r = mine.begin; r < mine.end; ++r) {
            const size_t output = place.output(r);
            if (matrix.format == kInt4) {
                pack_int4(matrix, output, r, static_cast<const uint8_t*>(from), multipliers);
                matrix.scale[output] = scale[r];
                continue;
            }
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
            if (matrix.format == kInt8) matrix.offset[output] = 128 * sum, matrix.scale[output] = scale[r];
        }
    });
}

// `name`: 0 q, 1 k, 2 v, 3 out, 4 gate, 5 up, 6 down of a layer.
std::pair<Name, Place> place_of(const Shape& s, int64_t name) {
    const size_t q = s.n_heads * s.d_head, k = s.n_kv_heads * s.d_head, D = s.d_model, F = s.d_ff;
    const std::pair<Name, Place> places[] = {
        {kQkv, {0, q, 1, 0}},    {kQkv, {q, k, 1, 0}},    {kQkv, {q + k, k, 1, 0}}, {kOut, {0, D, 1, 0}},
        {kGateUp, {0, F, 2, 0}}, {kGateUp, {0, F, 2, 1}}, {kDown, {0, D, 1, 0}}};
    return places[name];
}

}  // namespace

extern "C" {

int64_t mulm_page_tokens() { return kPageTokens; }

int64_t mulm_lanes() { return kLanes; }

int64_t mulm_widest_head() { return kWidestHead; }

void* mulm_model_new(const int64_t* shape, float eps, const float* cos, const float* sin) try {
    Shape its_shape;
    std::memcpy(&its_shape, shape, sizeof(its_shape));
    return new Model(its_shape, eps, cos, sin);
} catch (const std::exception&) {
    return nullptr;
}

// Between two steps. False where there are no more threads to be had: one is left then.
int64_t mulm_set_threads(void* model, int64_t n_threads) try {
    static_cast<Model*>(model)->pool.resize(static_cast<int>(n_threads));
    return true;
} catch (const std::exception&) {
    return false;
}

void mulm_model_delete(void* model) { delete static_cast<Model*>(model); }

int64_t mulm_page_bytes(const void* model) {
    const Model& m = *static_cast<const Model*>(model);
    return m.page_bytes() * m.shape.n_layers;
}

// Weights in fp32 or bf16, int8 codes with scales, or int4 codes with multipliers too.
// `name`: as in `place_of`, or 7 embedding, 8 unembedding.
int64_t mulm_set_matrix(void* model, int64_t layer, int64_t name, const void* from, int64_t type,
                        const float* scale, const uint8_t* multipliers) try {
    Model& m = *static_cast<Model*>(model);
    if (name >= 7) {
        const Place whole{0, size_t(m.shape.vocab_size), 1, 0};
        pack(name == 7 ? m.embedding : m.unembedding, whole, from, type, scale, multipliers, m.pool);
        return true;
    }
    const auto [matrix, place] = place_of(m.shape, name);
    pack(m.layers[layer].matrices[matrix], place, from, type, scale, multipliers, m.pool);
    return true;
} catch (const std::exception&) {
    return false;
}

void* mulm_adapter_new(const void* model) try {
    return new Adapter(static_cast<const Model*>(model)->shape.n_layers);
} catch (const std::exception&) {
    return nullptr;
}

// Two narrow matrices beside one of a layer, `name` as in `place_of`: inner (rank, inputs), with scales
// if it is of bytes, and outer (outputs, rank). False where there is no memory.
int64_t mulm_adapter_add(void* model, void* adapter, int64_t layer, int64_t name, int64_t rank,
                         const void* inner, int64_t type, const float* scale, const float* outer) try {
    Model& m = *static_cast<Model*>(model);
    const auto [matrix, place] = place_of(m.shape, name);
    const Matrix& base = m.layers[layer].matrices[matrix];
    const auto format = static_cast<Format>(type);
    LowRank& part = static_cast<Adapter*>(adapter)->add(layer, matrix, format, rank, base.n_inputs, place);
    pack(part.inner, {0, size_t(rank), 1, 0}, inner, type, scale, nullptr, m.pool);
    part.set_outer(outer, place);
    return true;
} catch (const std::exception&) {
    return false;
}

void mulm_adapter_delete(void* adapter) { delete static_cast<Adapter*>(adapter); }

// The adapter becomes the model's under that number, in place of any that was, which stays where this is
// false; null removes it.
int64_t mulm_set_adapter(void* model, int64_t number, void* adapter) try {
    Model& m = *static_cast<Model*>(model);
    std::unique_ptr<Adapter> owned(static_cast<Adapter*>(adapter));
    if (owned) m.adapters.insert_or_assign(static_cast<int32_t>(number), std::move(*owned));
    else m.adapters.erase(static_cast<int32_t>(number));
    return true;
} catch (const std::exception&) {
    return false;
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
                 const int32_t* begins, const int32_t* pages, const int32_t* wanted,
                 const int32_t* adapters, int64_t n_tokens, int64_t n_sequences, int64_t n_wanted, int64_t pages_stride, float* hidden) try {
    Model& m = *static_cast<Model*>(model);
    Cache& c = *static_cast<Cache*>(cache);
    const Batch batch{ids, positions, begins, pages, wanted, adapters, n_tokens, n_sequences, n_wanted, pages_stride};
    if (const Fault fault = fault_of(m, c, batch)) return fault;
    if (m.shape.format == kFp32) Step<Fp32>(m, c.pages, batch).run(hidden);
    else if (m.shape.format == kBf16) Step<Bf16>(m, c.pages, batch).run(hidden);
    else if (m.shape.format == kInt8) Step<Int8>(m, c.pages, batch).run(hidden);
    else Step<Int4>(m, c.pages, batch).run(hidden);
    return kNone;
} catch (const std::exception&) {
    return kNoMemory;
}

int64_t mulm_logits(void* model, const float* hidden, int64_t n_rows, float* logits) try {
    Model& m = *static_cast<Model*>(model);
    const Format format = m.head().format;
    if (format == kFp32) write_logits<Fp32>(m, hidden, n_rows, logits);
    else if (format == kBf16) write_logits<Bf16>(m, hidden, n_rows, logits);
    else if (format == kInt8) write_logits<Int8>(m, hidden, n_rows, logits);
    else write_logits<Int4>(m, hidden, n_rows, logits);
    return true;
} catch (const std::exception&) {
    return false;
}

}  // extern "C"
