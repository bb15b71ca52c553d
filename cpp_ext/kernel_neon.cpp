// The NEON path of arm64: 4 lanes, 12 queries x 8 memory rows in 24 of the 32 registers.

#include <arm_neon.h>

#include "kernels.hpp"

namespace procmem {
namespace {

struct Vec {
    static constexpr std::size_t width = 4;
    float32x4_t lanes;
};

constexpr std::size_t tile_rows = 12;

inline Vec broadcast(float x) noexcept { return {vdupq_n_f32(x)}; }
inline Vec zero() noexcept { return broadcast(0.0f); }
inline Vec load(const float* p) noexcept { return {vld1q_f32(p)}; }
inline void store(float* p, Vec a) noexcept { vst1q_f32(p, a.lanes); }
inline Vec add(Vec a, Vec b) noexcept { return {vaddq_f32(a.lanes, b.lanes)}; }
inline Vec subtract(Vec a, Vec b) noexcept { return {vsubq_f32(a.lanes, b.lanes)}; }
inline Vec multiply(Vec a, Vec b) noexcept { return {vmulq_f32(a.lanes, b.lanes)}; }
inline Vec maximum(Vec a, Vec b) noexcept { return {vmaxq_f32(a.lanes, b.lanes)}; }

inline Vec multiply_add(Vec a, Vec b, Vec c) noexcept {
    return {vfmaq_f32(c.lanes, a.lanes, b.lanes)};
}

inline bool any_greater(Vec a, Vec b) noexcept {
    return vmaxvq_u32(vcgtq_f32(a.lanes, b.lanes)) != 0;
}

inline Vec zero_below(Vec x, float limit, Vec value) noexcept {
    const uint32x4_t keep = vcgeq_f32(x.lanes, vdupq_n_f32(limit));
    return {vreinterpretq_f32_u32(vandq_u32(keep, vreinterpretq_u32_f32(value.lanes)))};
}

// 2^n for the n in the low bits of 1.5 * 2^23 + n.
inline Vec power_of_two(Vec shifted) noexcept {
    const uint32x4_t exponent = vshlq_n_u32(vreinterpretq_u32_f32(shifted.lanes), 23);
    return {vreinterpretq_f32_u32(vaddq_u32(exponent, vdupq_n_u32(0x3f800000u)))};
}

struct Magnitude {
    uint32x4_t bits;
};

inline Magnitude no_magnitude() noexcept { return {vdupq_n_u32(0)}; }

inline void note(Magnitude& magnitude, Vec a) noexcept {
    const uint32x4_t bits = vandq_u32(vreinterpretq_u32_f32(a.lanes), vdupq_n_u32(0x7fffffffu));
    magnitude.bits = vmaxq_u32(magnitude.bits, bits);
}

inline std::uint32_t magnitude_bits_of(Magnitude magnitude) noexcept {
    return vmaxvq_u32(magnitude.bits);
}

// columns[j] lane i = source[i][j].
inline void load_columns(const float* source, std::size_t stride, Vec (&columns)[4]) noexcept {
    const float32x4x2_t even = vtrnq_f32(vld1q_f32(source), vld1q_f32(source + stride));
    const float32x4x2_t odd =
        vtrnq_f32(vld1q_f32(source + 2 * stride), vld1q_f32(source + 3 * stride));
    for (std::size_t j = 0; j < 2; ++j) {
        columns[j] = {vcombine_f32(vget_low_f32(even.val[j]), vget_low_f32(odd.val[j]))};
        columns[j + 2] = {vcombine_f32(vget_high_f32(even.val[j]), vget_high_f32(odd.val[j]))};
    }
}

void widen(const Half* source, std::size_t count, float* target) noexcept {
    std::size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const uint16x4_t bits = vld1_u16(&source[i].bits);
        vst1q_f32(target + i, vcvt_f32_f16(vreinterpret_f16_u16(bits)));
    }
    for (; i < count; ++i) {
        const uint16x4_t bits = vdup_n_u16(source[i].bits);
        target[i] = vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(bits)), 0);
    }
}

}  // namespace
}  // namespace procmem

#include "kernel.inl"

namespace procmem {

const Kernels kernels_neon = {"neon", tile_rows,  panel_rows, pack_queries,
                              widen,  topk_block, mix_block};

}  // namespace procmem
