// Some numbers at a time, in GCC's and Clang's vector types: sixteen in a register of AVX-512, else eight,
// a register of AVX2 and two of NEON. A vector wider than the registers would be taken apart by the compiler,
// at the price of minutes and most of the speed. Used by all kernels. Every function here works lane by
// lane, so what a lane gives depends on nothing but that lane.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__) && !defined(MULM_PORTABLE)
#include <immintrin.h>
#endif

namespace mulm {

#if defined(__AVX512F__)
#define MULM_EACH_LANE(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), \
        f(8), f(9), f(10), f(11), f(12), f(13), f(14), f(15)
constexpr int kLanes = 16;
#else
#define MULM_EACH_LANE(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)
constexpr int kLanes = 8;
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef int16_t Shorts __attribute__((vector_size(4 * kLanes)));
typedef int8_t Bytes __attribute__((vector_size(4 * kLanes)));
typedef int16_t HalfShorts __attribute__((vector_size(2 * kLanes)));

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

// Each lane's own number.
inline Ints lane_numbers() {
#define MULM_LANE(lane) lane
    return Ints{MULM_EACH_LANE(MULM_LANE)};
#undef MULM_LANE
}

// Each lane's partner `kHalf` lanes away.
template <int kHalf>
inline Floats partners(Floats v) {
#define MULM_PARTNER(lane) (lane) ^ kHalf
#if defined(__clang__)
    return __builtin_shufflevector(v, v, MULM_EACH_LANE(MULM_PARTNER));
#else
    return __builtin_shuffle(v, Ints{MULM_EACH_LANE(MULM_PARTNER)});
#endif
#undef MULM_PARTNER
}

// In every lane the largest of all.
inline Floats largest_of(Floats v) {
    if constexpr (kLanes > 8) v = larger(v, partners<8>(v));
    v = larger(v, partners<4>(v));
    v = larger(v, partners<2>(v));
    return larger(v, partners<1>(v));
}

// x * y + z rounded once, where the processor does that: written out, since the compiler may choose which
// product of a sum it takes together with the sum, here this way and there that.
inline Floats multiply_add(Floats x, Floats y, Floats z) {
#if defined(__AVX512F__) && !defined(MULM_PORTABLE)
    return reinterpret_cast<Floats>(_mm512_fmadd_ps(
        reinterpret_cast<__m512>(x), reinterpret_cast<__m512>(y), reinterpret_cast<__m512>(z)));
#elif defined(__AVX2__) && defined(__FMA__) && !defined(MULM_PORTABLE)
    return reinterpret_cast<Floats>(_mm256_fmadd_ps(
        reinterpret_cast<__m256>(x), reinterpret_cast<__m256>(y), reinterpret_cast<__m256>(z)));
#else
    return x * y + z;
#endif
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
    for (const float next : {1.3399848e-3f, 9.6183736e-3f, 5.5503290e-2f, 2.4022648e-1f, 6.9314718e-1f, 1.0f})
        y = multiply_add(y, rest, spread(next));
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

}  // namespace mulm
