// The portable path: four lanes of plain C++ that any compiler can map to what the machine has.

#include <cmath>
#include <cstring>

#include "kernels.hpp"

namespace procmem {
namespace {

#if defined(__GNUC__)  // GCC and Clang: four floats that stay in one register
typedef float Lanes __attribute__((vector_size(16)));
#else
typedef float Lanes[4];
#endif

struct Vec {
    static constexpr std::size_t width = 4;
    Lanes lane;
};

constexpr std::size_t tile_rows = 5;

inline Vec broadcast(float x) noexcept { return Vec{{x, x, x, x}}; }
inline Vec zero() noexcept { return broadcast(0.0f); }
inline Vec load(const float* p) noexcept { return Vec{{p[0], p[1], p[2], p[3]}}; }

inline void store(float* p, const Vec& a) noexcept {
    for (std::size_t i = 0; i < Vec::width; ++i) {
        p[i] = a.lane[i];
    }
}

template <class Operation>
inline Vec lane_by_lane(Operation operation) noexcept {
    return Vec{{operation(0), operation(1), operation(2), operation(3)}};
}

inline Vec add(const Vec& a, const Vec& b) noexcept {
    return lane_by_lane([&](std::size_t i) { return a.lane[i] + b.lane[i]; });
}

inline Vec subtract(const Vec& a, const Vec& b) noexcept {
    return lane_by_lane([&](std::size_t i) { return a.lane[i] - b.lane[i]; });
}

inline Vec multiply(const Vec& a, const Vec& b) noexcept {
    return lane_by_lane([&](std::size_t i) { return a.lane[i] * b.lane[i]; });
}

// a * b + c, fused only where that is one instruction: emulating it would be 50 times slower.
inline Vec multiply_add(const Vec& a, const Vec& b, const Vec& c) noexcept {
#if defined(FP_FAST_FMAF)
    return lane_by_lane([&](std::size_t i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
#elif defined(__GNUC__)
    return Vec{a.lane * b.lane + c.lane};
#else
    return lane_by_lane([&](std::size_t i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
#endif
}

inline Vec maximum(const Vec& a, const Vec& b) noexcept {
    return lane_by_lane(
        [&](std::size_t i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}

inline bool any_greater(const Vec& a, const Vec& b) noexcept {
    bool any = false;
    for (std::size_t i = 0; i < Vec::width; ++i) {
        any |= a.lane[i] > b.lane[i];
    }
    return any;
}

inline Vec zero_below(const Vec& x, float limit, const Vec& value) noexcept {
    return lane_by_lane([&](std::size_t i) { return x.lane[i] >= limit ? value.lane[i] : 0.0f; });
}

// 2^n for the n in the low bits of 1.5 * 2^23 + n.
inline Vec power_of_two(const Vec& shifted) noexcept {
    return lane_by_lane([&](std::size_t i) {
        const float number = shifted.lane[i];
        std::uint32_t bits;
        std::memcpy(&bits, &number, sizeof bits);
        bits = (bits << 23) + 0x3f800000u;
        float power;
        std::memcpy(&power, &bits, sizeof power);
        return power;
    });
}

using Magnitude = std::uint32_t;
inline Magnitude no_magnitude() noexcept { return 0; }
inline std::uint32_t magnitude_bits_of(Magnitude magnitude) noexcept { return magnitude; }

inline void note(Magnitude& magnitude, const Vec& a) noexcept {
    for (std::size_t i = 0; i < Vec::width; ++i) {
        const float number = a.lane[i];
        std::uint32_t bits;
        std::memcpy(&bits, &number, sizeof bits);
        bits &= 0x7fffffffu;
        magnitude = bits > magnitude ? bits : magnitude;
    }
}

// columns[j] lane i = source[i][j].
inline void load_columns(const float* source, std::size_t stride, Vec (&columns)[4]) noexcept {
    for (std::size_t j = 0; j < 4; ++j) {
        columns[j] = lane_by_lane([&](std::size_t i) { return source[i * stride + j]; });
    }
}

// Exact, as every binary16 number is a binary32 number.
void widen(const Half* source, std::size_t count, float* target) noexcept {
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint32_t half = source[i].bits;
        const std::uint32_t sign = (half & 0x8000u) << 16;
        const std::uint32_t exponent = (half >> 10) & 0x1fu;
        const std::uint32_t fraction = half & 0x3ffu;
        if (exponent == 0) {  // zero or subnormal: a multiple of 2^-24
            const float magnitude = static_cast<float>(fraction) * 5.9604644775390625e-8f;
            target[i] = sign != 0 ? -magnitude : magnitude;
            continue;
        }
        const std::uint32_t wide = exponent == 0x1f ? 0xffu : exponent + 112;  // 112 = 127 - 15
        const std::uint32_t bits = sign | (wide << 23) | (fraction << 13);
        std::memcpy(target + i, &bits, sizeof bits);
    }
}

}  // namespace
}  // namespace procmem

#include "kernel.inl"

namespace procmem {

const Kernels kernels_scalar = {"scalar", tile_rows,  panel_rows, pack_queries,
                                widen,    topk_block, mix_block};

}  // namespace procmem
