// Memory from the system, and a packed matrix that owns some.
#pragma once

#include <sys/mman.h>

#include <new>
#include <utility>
#include <vector>

#include "product.h"

namespace mulm {

enum Format : int64_t { kFp32 = 0, kBf16 = 1, kInt8 = 2, kInt4 = 3 };

inline size_t n_inputs_of(Format format) {
    constexpr size_t numbers[] = {Fp32::kInputs, Bf16::kInputs, Int8::kInputs, Int4::kInputs};
    return numbers[format];
}

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
        const size_t unit_bytes = n_steps * (format == kInt4 ? Int4::kStep : kUnitStep);
        memory = Memory(n_units * unit_bytes);
        if (format == kInt8 || format == kInt4)
            scale.assign(n_units * kLanes, 0), offset.assign(n_units * kLanes, 0);
        packed = {memory.data(), n_units, n_steps, unit_bytes, scale.data(), offset.data()};
    }

    // Where an output's weight for an input stands; not of int4.
    char* at(size_t output, size_t input) const {
        const size_t n = n_inputs_of(format);
        return memory.data() + output / kLanes * packed.n_steps * kUnitStep +
               input / n * kUnitStep + output % kLanes * 4 + input % n * (4 / n);
    }

    // Of int4: where a multiplier stands, the byte of a code, and which half of it.
    char* multiplier_at(size_t output, size_t input) const {
        return step_at(output, input) + output % kLanes * 4 + input % Int4::kInputs / Int4::kGroup;
    }

    char* code_at(size_t output, size_t input) const {
        return step_at(output, input) + kUnitStep + input % Int4::kInputs / 8 * kUnitStep + output % kLanes * 4 +
               input % 4;
    }

    static int half_of(size_t input) { return input / 4 % 2 * 4; }

    // One output's weights as numbers: a row of the embedding table.
    void read(size_t output, float* to) const {
        for (size_t i = 0; i < n_inputs; ++i) {
            if (format == kInt4) {
                const int code = (*code_at(output, i) >> half_of(i) & 15) - 8;
                to[i] = scale[output] * static_cast<float>(code * *multiplier_at(output, i));
                continue;
            }
            const char* from = at(output, i);
            if (format == kFp32) to[i] = load<float>(from);
            else if (format == kBf16) to[i] = from_bf16(load<uint16_t>(from));
            else to[i] = scale[output] * load<int8_t>(from);
        }
    }

  private:
    char* step_at(size_t output, size_t input) const {
        return memory.data() + output / kLanes * packed.unit_bytes + input / Int4::kInputs * Int4::kStep;
    }
};

}  // namespace mulm
