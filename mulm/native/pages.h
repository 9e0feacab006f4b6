// How keys and values lie in pages. A page holds those of sixteen tokens of one layer; for each kv head
// first the keys as units of `formats.h` (their outputs are the tokens), then the values as units of
// dimensions (their inputs are the tokens). With int8 each token's scale stands behind either part.
// Letters: H dimensions of a head, padded to whole units.
#pragma once

#include <algorithm>
#include <cmath>

#include "formats.h"

namespace mulm {

constexpr int kPageTokens = 16;
constexpr int kPageUnits = kPageTokens / kLanes;  // of keys
constexpr int kWidestHead = 1024;  // there is room on the stack for that many dimensions

// Where the keys and values of all layers lie.
struct Pages {
    char* data;
    size_t page_bytes;   // of one layer
    size_t layer_bytes;  // of all pages of one layer
    size_t part_bytes;   // the keys, or the values, of one kv head in a page

    char* keys(size_t layer, size_t page, size_t head) const {
        return data + layer * layer_bytes + page * page_bytes + head * 2 * part_bytes;
    }
};

inline float largest_size(const float* x, size_t n) {
    float largest = 1e-30f;
    for (size_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
    return largest;
}

// To a whole number, ties to even.
inline int rounded(float x) {
    const float shift = 12582912.0f;
    return static_cast<int>((x + shift) - shift);
}

// A cache's numbers: how queries (H) look beside its keys, and the shares of tokens beside its values.
template <class C>
struct Element;

template <class C, class E>  // of the cache
struct PlainElement {
    using Type = typename C::Row;
    static size_t part_bytes(int H) { return static_cast<size_t>(H) * kPageTokens * sizeof(E); }
    static size_t query_bytes(int H) { return sizeof(Type) * H; }

    static void write_query(char* to, const float* x, float scale, int H) {
        for (int d = 0; d < H; d += kLanes)
            Element<C>::store(reinterpret_cast<Type*>(to) + d, load<Floats>(x + d) * scale);
    }

    // One token's key and value; both have `n` dimensions.
    static void write_token(char* keys, size_t part_bytes, int token, const float* k, const float* v, int n) {
        constexpr int kInputs = C::kInputs;
        const size_t unit_bytes = kPageTokens / kInputs * kUnitStep;
        char* values = keys + part_bytes;
        keys += token / kLanes * (part_bytes / kPageUnits) + token % kLanes * 4;
        for (int d = 0; d < n; ++d) {
            const E key = Element<C>::of(k[d]), value = Element<C>::of(v[d]);
            std::memcpy(keys + d / kInputs * kUnitStep + d % kInputs * sizeof(E), &key, sizeof(E));
            std::memcpy(values + d / kLanes * unit_bytes + token / kInputs * kUnitStep + d % kLanes * 4 +
                            token % kInputs * sizeof(E),
                        &value, sizeof(E));
        }
    }

    static Floats score(Floats sum, const char*, int, const char*, int) { return sum; }

    // Give the shares of a block's tokens; what they are multiples of.
    template <int kN>
    static float write_shares(Type* to, const Floats (&parts)[kN], const char* const*, int) {
        for (int n = 0; n < kN; ++n) Element<C>::store(to + n * kLanes, parts[n]);
        return 1.0f;
    }
};

template <>
struct Element<Fp32> : PlainElement<Fp32, float> {
    static void store(float* to, Floats x) { mulm::store(to, x); }
    static float of(float x) { return x; }
};

template <>
struct Element<Bf16> : PlainElement<Bf16, uint16_t> {
    static void store(Bf16::Row* to, Floats x) { Bf16::store_rows(to, x); }
    static uint16_t of(float x) { return to_bf16(x); }
};

// Codes of -127 to 127; a token's largest number in a head is 127 times its scale.
template <>
struct Element<Kv8> {
    using Type = int16_t;
    static constexpr float kLargestQuery = 8191;  // the widest head's sums fit 32 bits
    static constexpr float kLargestShare = 32767;
    static constexpr size_t kScaleBytes = 4 * kPageTokens;
    static size_t part_bytes(int H) { return static_cast<size_t>(H) * kPageTokens + kScaleBytes; }
    static size_t query_bytes(int H) { return 2 * H + 64; }

    static void write_query(char* to, const float* x, float scale, int H) {
        const float largest = largest_size(x, H), factor = kLargestQuery / largest;
        for (int d = 0; d < H; ++d) reinterpret_cast<int16_t*>(to)[d] = static_cast<int16_t>(rounded(x[d] * factor));
        const float unit = scale * largest / kLargestQuery;
        std::memcpy(to + 2 * H, &unit, 4);
    }

    static void write_token(char* keys, size_t part_bytes, int token, const float* k, const float* v, int n) {
        const size_t unit_bytes = kPageTokens / Kv8::kInputs * kUnitStep;
        const float largest_k = largest_size(k, n), largest_v = largest_size(v, n);
        char *values = keys + part_bytes, *scales_of_keys = values - kScaleBytes;
        keys += token / kLanes * ((part_bytes - kScaleBytes) / kPageUnits) + token % kLanes * 4;
        for (int d = 0; d < n; ++d) {
            keys[d / 4 * kUnitStep + Kv8::kPlace[d % 4]] = code(k[d], largest_k);
            values[d / kLanes * unit_bytes + token / 4 * kUnitStep + d % kLanes * 4 + Kv8::kPlace[token % 4]] =
                code(v[d], largest_v);
        }
        const float scales[] = {largest_k / 127.0f, largest_v / 127.0f};
        std::memcpy(scales_of_keys + 4 * token, &scales[0], 4);
        std::memcpy(scales_of_keys + part_bytes + 4 * token, &scales[1], 4);
    }

    static char code(float x, float largest) { return static_cast<char>(rounded(x * (127.0f / largest))); }

    // Of a query and one unit of a page's keys.
    static Floats score(Ints sum, const char* keys, int unit, const char* query, int H) {
        const char* scales = keys + static_cast<size_t>(H) * kPageTokens + unit * kUnitStep;
        const Floats scale = load<Floats>(scales) * load<float>(query + 2 * H);
        return __builtin_convertvector(sum, Floats) * scale;
    }

    // Each token's share times the scale of its value, the block's largest as the largest number.
    template <int kN>
    static float write_shares(int16_t* to, const Floats (&parts)[kN], const char* const* keys, int H) {
        const size_t bytes = part_bytes(H);
        Floats scaled[kN], largest = Floats{};
        for (int n = 0; n < kN; ++n) {
            const char* scales = keys[n / kPageUnits] + 2 * bytes - kScaleBytes;
            scaled[n] = parts[n] * load<Floats>(scales + n % kPageUnits * kUnitStep);
            largest = larger(largest, scaled[n]);
        }
        const float top = std::max(largest_of(largest)[0], 1e-30f), factor = kLargestShare / top;
        for (int n = 0; n < kN; ++n) {
            const Ints whole = __builtin_convertvector(scaled[n] * factor + 0.5f, Ints);
            mulm::store(to + n * kLanes, __builtin_convertvector(whole, HalfShorts));
        }
        return top / kLargestShare;
    }
};

}  // namespace mulm
