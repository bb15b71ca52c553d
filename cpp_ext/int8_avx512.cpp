// The AVX-512 VNNI path for int8 rows: 16 lanes, 12 queries x 32 memory rows.
//
// vpdpbusd multiplies unsigned by signed bytes. A row goes in with 128 added to each byte, which is
// its sign bit turned over, and sums begin at -128 times the sum of the query's bytes.

#include <immintrin.h>

#include <cstring>

#include "kernels.hpp"

namespace procmem {
namespace {

struct Sums {
    static constexpr std::size_t width = 16;
    __m512i lanes;
};

struct Quads {
    __m512i bytes;
};

struct Query {
    __m512i bytes;
};

constexpr std::size_t tile_rows = 12;
constexpr int flipped = 0x80;

inline Sums begin_sums(std::int32_t x) noexcept { return {_mm512_set1_epi32(x)}; }

inline void store(std::int32_t* p, Sums sums) noexcept { _mm512_storeu_si512(p, sums.lanes); }

inline bool any_greater(const std::int32_t* line, std::int32_t threshold) noexcept {
    const __m512i limit = _mm512_set1_epi32(threshold);
    return (_mm512_cmpgt_epi32_mask(_mm512_loadu_si512(line), limit) |
            _mm512_cmpgt_epi32_mask(_mm512_loadu_si512(line + Sums::width), limit)) != 0;
}

inline Quads load_quads(const std::int8_t* p) noexcept { return {_mm512_loadu_si512(p)}; }

inline Query load_query(const std::int8_t* p) noexcept {
    std::int32_t quad;
    std::memcpy(&quad, p, sizeof quad);
    return {_mm512_set1_epi32(quad)};
}

inline Sums multiply_add(Query query, Quads quads, Sums sums) noexcept {
    return {_mm512_dpbusd_epi32(sums.lanes, quads.bytes, query.bytes)};
}

inline __m512i flip(__m512i bytes) noexcept {
    return _mm512_xor_si512(bytes, _mm512_set1_epi32(static_cast<int>(0x80808080u)));
}

inline __m512i load_parts(const std::int8_t* source, std::size_t stride) noexcept {
    const auto part = [&](std::size_t row) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + row * stride));
    };
    __m512i parts = _mm512_castsi128_si512(part(0));
    parts = _mm512_inserti32x4(parts, part(4), 1);
    parts = _mm512_inserti32x4(parts, part(8), 2);
    return _mm512_inserti32x4(parts, part(12), 3);
}

// Four quads of sixteen rows: target[quad][row]. A transposition of 32-bit lanes as in
// kernel_avx512.cpp.
inline void pack_quads(const std::int8_t* source, std::size_t stride, std::int8_t* target,
                       std::size_t target_stride) noexcept {
    __m512i parts[4];
    for (std::size_t i = 0; i < 4; ++i) {
        parts[i] = flip(load_parts(source + i * stride, stride));
    }
    const __m512i low01 = _mm512_unpacklo_epi32(parts[0], parts[1]);
    const __m512i high01 = _mm512_unpackhi_epi32(parts[0], parts[1]);
    const __m512i low23 = _mm512_unpacklo_epi32(parts[2], parts[3]);
    const __m512i high23 = _mm512_unpackhi_epi32(parts[2], parts[3]);
    const __m512i quads[4] = {
        _mm512_unpacklo_epi64(low01, low23), _mm512_unpackhi_epi64(low01, low23),
        _mm512_unpacklo_epi64(high01, high23), _mm512_unpackhi_epi64(high01, high23)};
    for (std::size_t i = 0; i < 4; ++i) {
        _mm512_storeu_si512(target + i * target_stride, quads[i]);
    }
}

inline std::int32_t dot(const std::int8_t* query, const std::int8_t* row, std::size_t width,
                        std::int32_t offset) noexcept {
    __m512i sums[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    std::size_t d = 0;
    for (; d + 128 <= width; d += 128) {
        for (std::size_t i = 0; i < 2; ++i) {
            sums[i] = _mm512_dpbusd_epi32(sums[i], flip(_mm512_loadu_si512(row + d + 64 * i)),
                                          _mm512_loadu_si512(query + d + 64 * i));
        }
    }
    for (; d < width; d += 64) {  // where the query ends it is zero, whatever the row is
        const std::size_t left = width - d;
        const __mmask64 there = left >= 64 ? ~0ull : (1ull << left) - 1;
        sums[0] = _mm512_dpbusd_epi32(sums[0], flip(_mm512_maskz_loadu_epi8(there, row + d)),
                                      _mm512_maskz_loadu_epi8(there, query + d));
    }
    return _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1])) + offset;
}

}  // namespace
}  // namespace procmem

#include "int8.inl"

namespace procmem {

const Int8Kernels int8_avx512 = {"avx512",     128,        tile_rows, panel_rows,
                                 pack_queries, topk_block, dot};

}  // namespace procmem
