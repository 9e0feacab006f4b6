// Sixteen numbers at a time, in GCC's and Clang's vector types: one register of AVX-512, two of AVX2,
// four of NEON. Used by all kernels. Every function here works lane by lane, so what a lane gives
// depends on nothing but that lane.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && !defined(MULM_PORTABLE)
#include <immintrin.h>
#endif

namespace mulm {

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef int16_t Shorts __attribute__((vector_size(64)));
typedef int8_t Bytes __attribute__((vector_size(64)));
typedef int16_t HalfShorts __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(64)));

constexpr int kLanes = 16;
constexpr float kNever = -1e30f;  // the score of what may not be seen; finite, so it never gives NaN

inline Floats spread(float x) { return x - Floats{}; }
inline Ints spread_int(int32_t x) { return x - Ints{}; }

template <class V>
inline V load(const void* from) {
    V v;
    std::memcpy(&v, from, sizeof(V));
    return v;
}

template <class V>
inline void store(void* to, V v) {
    std::memcpy(to, &v, sizeof(V));
}

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// Always added in the same tree, whatever the machine.
inline float sum_of(Floats v) {
    float x[kLanes];
    store(x, v);
    for (int half = kLanes / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) x[i] += x[i + half];
    return x[0];
}

// Each lane's partner `kHalf` lanes away.
template <int kHalf>
inline Floats partners(Floats v) {
    constexpr int k = kHalf;
#define MULM_PARTNERS 0 ^ k, 1 ^ k, 2 ^ k, 3 ^ k, 4 ^ k, 5 ^ k, 6 ^ k, 7 ^ k, 8 ^ k, 9 ^ k, 10 ^ k, 11 ^ k, \
        12 ^ k, 13 ^ k, 14 ^ k, 15 ^ k
#if defined(__clang__)
    return __builtin_shufflevector(v, v, MULM_PARTNERS);
#else
    return __builtin_shuffle(v, Ints{MULM_PARTNERS});
#endif
#undef MULM_PARTNERS
}

// In every lane the largest of all.
inline Floats largest_of(Floats v) {
    v = larger(v, partners<8>(v));
    v = larger(v, partners<4>(v));
    v = larger(v, partners<2>(v));
    return larger(v, partners<1>(v));
}

constexpr float kLog2E = 1.44269504088896341f;

// 2 to the x within 2 units in the last place; what a normal number cannot hold may be 0 or infinite.
inline Floats power_of_two(Floats x) {
#if defined(__AVX512F__) && !defined(MULM_PORTABLE)
    const Floats whole = reinterpret_cast<Floats>(_mm512_roundscale_ps(
        reinterpret_cast<__m512>(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
    const Ints is_nothing = x < spread(-126.0f);
    x = x > spread(127.0f) ? spread(127.0f) : (is_nothing ? Floats{} : x);
    const Floats shift = spread(12582912.0f);  // 1.5 * 2^23: adding it rounds to whole numbers
    const Floats whole = (x + shift) - shift;
#endif
    const Floats rest = x - whole;  // -1/2 to 1/2, where a polynomial of the sixth degree is near enough
    Floats y = spread(1.5370705e-4f);
    y = y * rest + 1.3399848e-3f;
    y = y * rest + 9.6183736e-3f;
    y = y * rest + 5.5503290e-2f;
    y = y * rest + 2.4022648e-1f;
    y = y * rest + 6.9314718e-1f;
    y = y * rest + 1.0f;
#if defined(__AVX512F__) && !defined(MULM_PORTABLE)
    return reinterpret_cast<Floats>(
        _mm512_scalef_ps(reinterpret_cast<__m512>(y), reinterpret_cast<__m512>(whole)));
#else
    const Ints exponent = (__builtin_convertvector(whole, Ints) + 127) << 23;
    return is_nothing ? Floats{} : y * load<Floats>(&exponent);
#endif
}

// To the nearest bf16, ties to even, in the low halves of 32-bit lanes. What is not finite stays so,
// except that a NaN's lowest bits may be lost.
inline Words rounded_bf16(Floats x) {
    const Words bits = load<Words>(&x);
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

inline uint16_t to_bf16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float from_bf16(uint16_t x) {
    const uint32_t bits = static_cast<uint32_t>(x) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}

inline void store_bf16(uint16_t* to, Floats x) {
#if defined(__AVX512BF16__) && !defined(MULM_PORTABLE)
    const __m256bh narrow = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(x));
    std::memcpy(to, &narrow, 32);
#else
    const Words wide = rounded_bf16(x);
    for (int i = 0; i < kLanes; ++i) to[i] = static_cast<uint16_t>(wide[i]);
#endif
}

}  // namespace mulm
