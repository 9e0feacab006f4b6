// Memory from the system, and a packed matrix that owns some.
#pragma once

#include <sys/mman.h>

#include <new>
#include <utility>
#include <vector>

#include "product.h"

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

}  // namespace mulm
