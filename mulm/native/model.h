// A decoder's packed weights, and what it computes with: made once, filled matrix by matrix, read by
// every step. Shapes and letters as in mulm/model/layers.py.
#pragma once

#include <map>

#include "attention.h"
#include "low_rank.h"
#include "pool.h"

namespace mulm {

struct Shape {
    int64_t vocab_size, d_model, n_layers, n_heads, n_kv_heads, d_head, d_ff, max_seq_len;
    int64_t has_qk_norm, is_tied, format, head_format, kv_format, n_threads;
};

struct Layer {
    Matrix matrices[kNames];
    std::vector<float> attention_norm, mlp_norm, q_norm, k_norm;
};

// Rows of numbers that grow as a step needs them.
struct Numbers {
    Memory memory;
    size_t size = 0;

    char* of(size_t n_bytes) {
        if (n_bytes > size) {
            const size_t more = n_bytes + n_bytes / 2;
            memory = Memory(more);
            size = more;
        }
        return memory.data();
    }
};

struct Model {
    Shape shape;
    float eps;
    std::vector<float> cos, sin;  // (max_seq_len, d_head)
    std::vector<Layer> layers;
    std::vector<float> norm;
    Matrix embedding, unembedding;
    Pool pool;
    int H, G;  // dimensions of a head in the cache; query heads of a kv head
    Numbers stream, wide, rows, scales, queries, hidden, parts, seen, inner;
    std::map<int32_t, Adapter> adapters;

    Model(const Shape& its_shape, float its_eps, const float* its_cos, const float* its_sin)
        : shape(its_shape),
          eps(its_eps),
          layers(its_shape.n_layers),
          norm(its_shape.d_model),
          pool(static_cast<int>(its_shape.n_threads)),
          H(static_cast<int>((its_shape.d_head + kLanes - 1) / kLanes * kLanes)),
          G(static_cast<int>(its_shape.n_heads / its_shape.n_kv_heads)) {
        const Shape& s = shape;
        cos.assign(its_cos, its_cos + s.max_seq_len * s.d_head);
        sin.assign(its_sin, its_sin + s.max_seq_len * s.d_head);
        const auto format = static_cast<Format>(s.format);
        const auto head_format = static_cast<Format>(s.head_format);
        // Gates and ups stand in alternate units, so that one tile has both.
        const size_t paired = 2 * ((s.d_ff + kLanes - 1) / kLanes * kLanes);
        for (Layer& layer : layers) {
            layer.matrices[kQkv].make(format, (s.n_heads + 2 * s.n_kv_heads) * s.d_head, s.d_model);
            layer.matrices[kOut].make(format, s.d_model, s.n_heads * s.d_head);
            layer.matrices[kGateUp].make(format, paired, s.d_model);
            layer.matrices[kDown].make(format, s.d_model, s.d_ff);
            layer.attention_norm.resize(s.d_model), layer.mlp_norm.resize(s.d_model);
            layer.q_norm.resize(s.d_head), layer.k_norm.resize(s.d_head);
        }
        embedding.make(head_format, s.vocab_size, s.d_model);
        if (!s.is_tied) unembedding.make(format, s.vocab_size, s.d_model);
    }

    const Matrix& head() const { return shape.is_tied ? embedding : unembedding; }
    size_t part_bytes() const {
        if (shape.kv_format == kFp32) return Element<Fp32>::part_bytes(H);
        return shape.kv_format == kBf16 ? Element<Bf16>::part_bytes(H) : Element<Kv8>::part_bytes(H);
    }
    size_t page_bytes() const { return part_bytes() * 2 * shape.n_kv_heads; }
};

struct Cache {
    Memory memory;
    Pages pages;
    int64_t n_pages;

    Cache(const Model& model, size_t its_n_pages)
        : memory(its_n_pages * model.page_bytes() * model.shape.n_layers, false),
          pages{memory.data(), model.page_bytes(), model.page_bytes() * its_n_pages, model.part_bytes()},
          n_pages(its_n_pages) {}
};

}  // namespace mulm
