// The AVX2 path for int8 rows: 8 lanes, 4 queries x 16 memory rows.
//
// vpmaddubsw saturates, so bytes are widened to 16 bits: the even and the odd ones of each quad.

#include <immintrin.h>

#include <cstring>

#include "kernels.hpp"

namespace procmem {
namespace {

struct Sums {
    static constexpr std::size_t width = 8;
    __m256i lanes;
};

// 16-bit lanes: bytes 0 and 2, and bytes 1 and 3, of each quad.
struct Wide {
    __m256i even;
    __m256i odd;
};
using Quads = Wide;
using Query = Wide;

constexpr std::size_t tile_rows = 4;
constexpr int flipped = 0;

inline Sums begin_sums(std::int32_t x) noexcept { return {_mm256_set1_epi32(x)}; }

inline __m256i load_bytes(const std::int8_t* p) noexcept {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

inline void store(std::int32_t* p, Sums sums) noexcept {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), sums.lanes);
}

inline bool any_greater(const std::int32_t* line, std::int32_t threshold) noexcept {
    const __m256i limit = _mm256_set1_epi32(threshold);
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + Sums::width));
    const __m256i found =
        _mm256_or_si256(_mm256_cmpgt_epi32(a, limit), _mm256_cmpgt_epi32(b, limit));
    return _mm256_movemask_epi8(found) != 0;
}

inline Wide widen(__m256i bytes) noexcept {
    return {_mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), _mm256_srai_epi16(bytes, 8)};
}

inline Quads load_quads(const std::int8_t* p) noexcept { return widen(load_bytes(p)); }

inline Query load_query(const std::int8_t* p) noexcept {
    std::int32_t quad;
    std::memcpy(&quad, p, sizeof quad);
    return widen(_mm256_set1_epi32(quad));
}

inline Sums multiply_add(Query query, Quads quads, Sums sums) noexcept {
    const __m256i even = _mm256_madd_epi16(query.even, quads.even);
    const __m256i odd = _mm256_madd_epi16(query.odd, quads.odd);
    return {_mm256_add_epi32(sums.lanes, _mm256_add_epi32(even, odd))};
}

// Four quads of eight rows: target[quad][row]. A transposition of 32-bit lanes as in
// kernel_avx2.cpp.
inline void pack_quads(const std::int8_t* source, std::size_t stride, std::int8_t* target,
                       std::size_t target_stride) noexcept {
    __m256i parts[4];
    for (std::size_t i = 0; i < 4; ++i) {
        const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i * stride));
        const __m128i high =
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + (4 + i) * stride));
        parts[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    }
    const __m256i low01 = _mm256_unpacklo_epi32(parts[0], parts[1]);
    const __m256i high01 = _mm256_unpackhi_epi32(parts[0], parts[1]);
    const __m256i low23 = _mm256_unpacklo_epi32(parts[2], parts[3]);
    const __m256i high23 = _mm256_unpackhi_epi32(parts[2], parts[3]);
    const __m256i quads[4] = {
        _mm256_unpacklo_epi64(low01, low23), _mm256_unpackhi_epi64(low01, low23),
        _mm256_unpacklo_epi64(high01, high23), _mm256_unpackhi_epi64(high01, high23)};
    for (std::size_t i = 0; i < 4; ++i) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(target + i * target_stride), quads[i]);
    }
}

inline std::int32_t dot(const std::int8_t* query, const std::int8_t* row, std::size_t width,
                        std::int32_t offset) noexcept {
    Sums sums[2] = {begin_sums(0), begin_sums(0)};
    std::size_t d = 0;
    for (; d + 64 <= width; d += 64) {
        for (std::size_t i = 0; i < 2; ++i) {
            sums[i] =
                multiply_add(load_quads(query + d + 32 * i), load_quads(row + d + 32 * i), sums[i]);
        }
    }
    for (; d + 32 <= width; d += 32) {
        sums[0] = multiply_add(load_quads(query + d), load_quads(row + d), sums[0]);
    }
    const __m256i both = _mm256_add_epi32(sums[0].lanes, sums[1].lanes);
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    std::int32_t total = _mm_cvtsi128_si32(sum) + offset;
    for (; d < width; ++d) {
        total += query[d] * row[d];
    }
    return total;
}

}  // namespace
}  // namespace procmem

#include "int8.inl"

namespace procmem {

const Int8Kernels int8_avx2 = {"avx2", 0, tile_rows, panel_rows, pack_queries, topk_block, dot};

}  // namespace procmem
