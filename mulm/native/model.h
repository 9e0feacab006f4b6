// A decoder's packed weights, and what it computes with: made once, filled matrix by matrix, read by
// every step. Shapes and letters as in mulm/model/layers.py.
#pragma once

#include <sys/mman.h>

#include <new>

#include "attention.h"
#include "pool.h"

namespace mulm {

enum Format : int64_t { kFp32 = 0, kBf16 = 1, kInt8 = 2 };

inline size_t n_inputs_of(Format format) { return format == kFp32 ? 1 : format == kBf16 ? 2 : 4; }

// Zeros that take memory only where they are touched, in large pages if the system has them.
class Memory {
  public:
    Memory() = default;
    explicit Memory(size_t n_bytes, bool is_dense = true) : n_bytes_(n_bytes) {
        if (!n_bytes) return;
        void* at = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) throw std::bad_alloc();
        data_ = static_cast<char*>(at);
#ifdef MADV_HUGEPAGE
        if (is_dense) madvise(at, n_bytes, MADV_HUGEPAGE);
#else
        (void)is_dense;
#endif
    }
    Memory(Memory&& other) noexcept { swap(other); }
    Memory& operator=(Memory&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Memory() {
        if (data_) munmap(data_, n_bytes_);
    }
    void swap(Memory& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(n_bytes_, other.n_bytes_);
    }
    char* data() const { return data_; }

  private:
    char* data_ = nullptr;
    size_t n_bytes_ = 0;
};

// A matrix with memory of its own.
struct Matrix {
    Format format = kFp32;
    size_t n_outputs = 0, n_inputs = 0;
    Memory memory;
    std::vector<float> scale;
    std::vector<int32_t> offset;
    Packed packed;

    void make(Format its_format, size_t outputs, size_t inputs) {
        format = its_format, n_outputs = outputs, n_inputs = inputs;
        const size_t n_units = (outputs + kLanes - 1) / kLanes;
        const size_t n_steps = (inputs + n_inputs_of(format) - 1) / n_inputs_of(format);
        memory = Memory(n_units * n_steps * kUnitStep);
        if (format == kInt8) scale.assign(n_units * kLanes, 0), offset.assign(n_units * kLanes, 0);
        packed = {memory.data(), n_units, n_steps, scale.data(), offset.data()};
    }

    // Where an output's weight for an input stands.
    char* at(size_t output, size_t input) const {
        const size_t n = n_inputs_of(format);
        return memory.data() + output / kLanes * packed.n_steps * kUnitStep +
               input / n * kUnitStep + output % kLanes * 4 + input % n * (4 / n);
    }

    // One output's weights as numbers: a row of the embedding table.
    void read(size_t output, float* to) const {
        for (size_t i = 0; i < n_inputs; ++i) {
            const char* from = at(output, i);
            if (format == kFp32) to[i] = load<float>(from);
            else if (format == kBf16) to[i] = from_bf16(load<uint16_t>(from));
            else to[i] = scale[output] * load<int8_t>(from);
        }
    }
};

struct Shape {
    int64_t vocab_size, d_model, n_layers, n_heads, n_kv_heads, d_head, d_ff, max_seq_len;
    int64_t has_qk_norm, is_tied, format, head_format, n_threads;
};

struct Layer {
    Matrix qkv, out, gate_up, down;
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
    Numbers stream, wide, rows, scales, queries, mixed, hidden, parts;

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
            layer.qkv.make(format, (s.n_heads + 2 * s.n_kv_heads) * s.d_head, s.d_model);
            layer.out.make(format, s.d_model, s.n_heads * s.d_head);
            layer.gate_up.make(format, paired, s.d_model);
            layer.down.make(format, s.d_model, s.d_ff);
            layer.attention_norm.resize(s.d_model), layer.mlp_norm.resize(s.d_model);
            layer.q_norm.resize(s.d_head), layer.k_norm.resize(s.d_head);
        }
        embedding.make(head_format, s.vocab_size, s.d_model);
        if (!s.is_tied) unembedding.make(format, s.vocab_size, s.d_model);
    }

    const Matrix& head() const { return shape.is_tied ? embedding : unembedding; }
    bool has_bf16_cache() const { return shape.format != kFp32; }
    size_t part_bytes() const { return static_cast<size_t>(H) * kPageTokens * (has_bf16_cache() ? 2 : 4); }
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
