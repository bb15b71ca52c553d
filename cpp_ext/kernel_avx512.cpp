// The AVX-512F path: 16 lanes, 14 queries x 32 memory rows in 28 of the 32 registers.

#include <immintrin.h>

#include "kernels.hpp"

namespace procmem {
namespace {

struct Vec {
    static constexpr std::size_t width = 16;
    __m512 lanes;
};

constexpr std::size_t tile_rows = 14;

inline Vec zero() noexcept { return {_mm512_setzero_ps()}; }
inline Vec load(const float* p) noexcept { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec a) noexcept { _mm512_storeu_ps(p, a.lanes); }
inline Vec broadcast(float x) noexcept { return {_mm512_set1_ps(x)}; }
inline Vec add(Vec a, Vec b) noexcept { return {_mm512_add_ps(a.lanes, b.lanes)}; }
inline Vec subtract(Vec a, Vec b) noexcept { return {_mm512_sub_ps(a.lanes, b.lanes)}; }
inline Vec multiply(Vec a, Vec b) noexcept { return {_mm512_mul_ps(a.lanes, b.lanes)}; }
inline Vec maximum(Vec a, Vec b) noexcept { return {_mm512_max_ps(a.lanes, b.lanes)}; }

inline Vec multiply_add(Vec a, Vec b, Vec c) noexcept {
    return {_mm512_fmadd_ps(a.lanes, b.lanes, c.lanes)};
}

inline bool any_greater(Vec a, Vec b) noexcept {
    return _mm512_cmp_ps_mask(a.lanes, b.lanes, _CMP_GT_OQ) != 0;
}

inline Vec zero_below(Vec x, float limit, Vec value) noexcept {
    const __mmask16 keep = _mm512_cmp_ps_mask(x.lanes, _mm512_set1_ps(limit), _CMP_GE_OQ);
    return {_mm512_maskz_mov_ps(keep, value.lanes)};
}

// 2^n for the n in the low bits of 1.5 * 2^23 + n.
inline Vec power_of_two(Vec shifted) noexcept {
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted.lanes), 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x3f800000)))};
}

struct Magnitude {
    __m512i bits;
};

inline Magnitude no_magnitude() noexcept { return {_mm512_setzero_si512()}; }

inline void note(Magnitude& magnitude, Vec a) noexcept {
    const __m512i no_sign = _mm512_set1_epi32(0x7fffffff);
    magnitude.bits =
        _mm512_max_epi32(magnitude.bits, _mm512_and_si512(_mm512_castps_si512(a.lanes), no_sign));
}

inline std::uint32_t magnitude_bits_of(Magnitude magnitude) noexcept {
    return static_cast<std::uint32_t>(_mm512_reduce_max_epi32(magnitude.bits));
}

// Four columns of rows 0, 4, 8 and 12 of `source`, one row per 128-bit part.
inline __m512 load_parts(const float* source, std::size_t stride) noexcept {
    __m512 parts = _mm512_castps128_ps512(_mm_loadu_ps(source));
    parts = _mm512_insertf32x4(parts, _mm_loadu_ps(source + 4 * stride), 1);
    parts = _mm512_insertf32x4(parts, _mm_loadu_ps(source + 8 * stride), 2);
    return _mm512_insertf32x4(parts, _mm_loadu_ps(source + 12 * stride), 3);
}

// columns[j] lane i = source[i][j]. Part p of parts[i] holds row 4p + i, so that 4 x 4 transposes
// inside the parts are enough.
inline void load_columns(const float* source, std::size_t stride, Vec (&columns)[4]) noexcept {
    __m512 parts[4];
    for (std::size_t i = 0; i < 4; ++i) {
        parts[i] = load_parts(source + i * stride, stride);
    }
    const __m512 low01 = _mm512_unpacklo_ps(parts[0], parts[1]);
    const __m512 high01 = _mm512_unpackhi_ps(parts[0], parts[1]);
    const __m512 low23 = _mm512_unpacklo_ps(parts[2], parts[3]);
    const __m512 high23 = _mm512_unpackhi_ps(parts[2], parts[3]);
    columns[0] = {_mm512_shuffle_ps(low01, low23, 0x44)};
    columns[1] = {_mm512_shuffle_ps(low01, low23, 0xee)};
    columns[2] = {_mm512_shuffle_ps(high01, high23, 0x44)};
    columns[3] = {_mm512_shuffle_ps(high01, high23, 0xee)};
}

void widen(const Half* source, std::size_t count, float* target) noexcept {
    std::size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + i));
        _mm512_storeu_ps(target + i, _mm512_cvtph_ps(halves));
    }
    for (; i < count; ++i) {
        target[i] = _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(source[i].bits)));
    }
}

}  // namespace
}  // namespace procmem

#include "kernel.inl"

namespace procmem {

const Kernels kernels_avx512 = {"avx512", tile_rows,  panel_rows, pack_queries,
                                widen,    topk_block, mix_block};

}  // namespace procmem
