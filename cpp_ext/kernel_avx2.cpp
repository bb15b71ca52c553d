// The AVX2 + FMA path: 8 lanes, 6 queries x 16 memory rows in 12 of the 16 registers.

#include <immintrin.h>

#include "kernels.hpp"

namespace procmem {
namespace {

struct Vec {
    static constexpr std::size_t width = 8;
    __m256 lanes;
};

constexpr std::size_t tile_rows = 6;

inline Vec zero() noexcept { return {_mm256_setzero_ps()}; }
inline Vec load(const float* p) noexcept { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Vec a) noexcept { _mm256_storeu_ps(p, a.lanes); }
inline Vec broadcast(float x) noexcept { return {_mm256_set1_ps(x)}; }
inline Vec add(Vec a, Vec b) noexcept { return {_mm256_add_ps(a.lanes, b.lanes)}; }
inline Vec subtract(Vec a, Vec b) noexcept { return {_mm256_sub_ps(a.lanes, b.lanes)}; }
inline Vec multiply(Vec a, Vec b) noexcept { return {_mm256_mul_ps(a.lanes, b.lanes)}; }
inline Vec maximum(Vec a, Vec b) noexcept { return {_mm256_max_ps(a.lanes, b.lanes)}; }

inline Vec multiply_add(Vec a, Vec b, Vec c) noexcept {
    return {_mm256_fmadd_ps(a.lanes, b.lanes, c.lanes)};
}

inline bool any_greater(Vec a, Vec b) noexcept {
    return _mm256_movemask_ps(_mm256_cmp_ps(a.lanes, b.lanes, _CMP_GT_OQ)) != 0;
}

inline Vec zero_below(Vec x, float limit, Vec value) noexcept {
    const __m256 keep = _mm256_cmp_ps(x.lanes, _mm256_set1_ps(limit), _CMP_GE_OQ);
    return {_mm256_and_ps(keep, value.lanes)};
}

// 2^n for the n in the low bits of 1.5 * 2^23 + n.
inline Vec power_of_two(Vec shifted) noexcept {
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted.lanes), 23);
    return {_mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(0x3f800000)))};
}

struct Magnitude {
    __m256i bits;
};

inline Magnitude no_magnitude() noexcept { return {_mm256_setzero_si256()}; }

inline void note(Magnitude& magnitude, Vec a) noexcept {
    const __m256i no_sign = _mm256_set1_epi32(0x7fffffff);
    magnitude.bits =
        _mm256_max_epi32(magnitude.bits, _mm256_and_si256(_mm256_castps_si256(a.lanes), no_sign));
}

inline std::uint32_t magnitude_bits_of(Magnitude magnitude) noexcept {
    std::uint32_t lanes[Vec::width];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), magnitude.bits);
    std::uint32_t largest = 0;
    for (std::uint32_t bits : lanes) {
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

// columns[j] lane i = source[i][j]. Part p of parts[i] holds row 4p + i, so that 4 x 4 transposes
// inside the parts are enough.
inline void load_columns(const float* source, std::size_t stride, Vec (&columns)[4]) noexcept {
    __m256 parts[4];
    for (std::size_t i = 0; i < 4; ++i) {
        parts[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(source + i * stride)),
                                        _mm_loadu_ps(source + (4 + i) * stride), 1);
    }
    const __m256 low01 = _mm256_unpacklo_ps(parts[0], parts[1]);
    const __m256 high01 = _mm256_unpackhi_ps(parts[0], parts[1]);
    const __m256 low23 = _mm256_unpacklo_ps(parts[2], parts[3]);
    const __m256 high23 = _mm256_unpackhi_ps(parts[2], parts[3]);
    columns[0] = {_mm256_shuffle_ps(low01, low23, 0x44)};
    columns[1] = {_mm256_shuffle_ps(low01, low23, 0xee)};
    columns[2] = {_mm256_shuffle_ps(high01, high23, 0x44)};
    columns[3] = {_mm256_shuffle_ps(high01, high23, 0xee)};
}

void widen(const Half* source, std::size_t count, float* target) noexcept {
    std::size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i));
        _mm256_storeu_ps(target + i, _mm256_cvtph_ps(halves));
    }
    for (; i < count; ++i) {
        target[i] = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(source[i].bits)));
    }
}

}  // namespace
}  // namespace procmem

#include "kernel.inl"

namespace procmem {

const Kernels kernels_avx2 = {"avx2", tile_rows,  panel_rows, pack_queries,
                              widen,  topk_block, mix_block};

}  // namespace procmem
