// The NEON path for int8 rows, with the dot products of ARMv8.2: 4 lanes, 8 queries x 8 memory
// rows.

#include <arm_neon.h>

#include <cstring>

#include "kernels.hpp"

namespace procmem {
namespace {

struct Sums {
    static constexpr std::size_t width = 4;
    int32x4_t lanes;
};

struct Quads {
    int8x16_t bytes;
};

using Query = Quads;

constexpr std::size_t tile_rows = 8;
constexpr int flipped = 0;

inline Sums begin_sums(std::int32_t x) noexcept { return {vdupq_n_s32(x)}; }

inline void store(std::int32_t* p, Sums sums) noexcept { vst1q_s32(p, sums.lanes); }

inline bool any_greater(const std::int32_t* line, std::int32_t threshold) noexcept {
    const int32x4_t limit = vdupq_n_s32(threshold);
    const uint32x4_t found = vorrq_u32(vcgtq_s32(vld1q_s32(line), limit),
                                       vcgtq_s32(vld1q_s32(line + Sums::width), limit));
    return vmaxvq_u32(found) != 0;
}

inline Quads load_quads(const std::int8_t* p) noexcept { return {vld1q_s8(p)}; }

inline Query load_query(const std::int8_t* p) noexcept {
    std::int32_t quad;
    std::memcpy(&quad, p, sizeof quad);
    return {vreinterpretq_s8_s32(vdupq_n_s32(quad))};
}

inline Sums multiply_add(Query query, Quads quads, Sums sums) noexcept {
    return {vdotq_s32(sums.lanes, quads.bytes, query.bytes)};
}

// Four quads of four rows: target[quad][row]. A transposition of 32-bit lanes as in
// kernel_neon.cpp.
inline void pack_quads(const std::int8_t* source, std::size_t stride, std::int8_t* target,
                       std::size_t target_stride) noexcept {
    int32x4_t rows[4];
    for (std::size_t i = 0; i < 4; ++i) {
        rows[i] = vreinterpretq_s32_s8(vld1q_s8(source + i * stride));
    }
    const int32x4x2_t even = vtrnq_s32(rows[0], rows[1]);
    const int32x4x2_t odd = vtrnq_s32(rows[2], rows[3]);
    for (std::size_t j = 0; j < 2; ++j) {
        const int32x4_t low = vcombine_s32(vget_low_s32(even.val[j]), vget_low_s32(odd.val[j]));
        const int32x4_t high = vcombine_s32(vget_high_s32(even.val[j]), vget_high_s32(odd.val[j]));
        vst1q_s8(target + j * target_stride, vreinterpretq_s8_s32(low));
        vst1q_s8(target + (j + 2) * target_stride, vreinterpretq_s8_s32(high));
    }
}

inline std::int32_t dot(const std::int8_t* query, const std::int8_t* row, std::size_t width,
                        std::int32_t offset) noexcept {
    int32x4_t sums[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
    std::size_t d = 0;
    for (; d + 32 <= width; d += 32) {
        for (std::size_t i = 0; i < 2; ++i) {
            sums[i] = vdotq_s32(sums[i], vld1q_s8(query + d + 16 * i), vld1q_s8(row + d + 16 * i));
        }
    }
    std::int32_t total = vaddvq_s32(vaddq_s32(sums[0], sums[1])) + offset;
    for (; d < width; ++d) {
        total += query[d] * row[d];
    }
    return total;
}

}  // namespace
}  // namespace procmem

#include "int8.inl"

namespace procmem {

const Int8Kernels int8_neon = {"neon", 0, tile_rows, panel_rows, pack_queries, topk_block, dot};

}  // namespace procmem
