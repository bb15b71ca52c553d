// The NEON path for signs: vcnt counts the ones of every byte, two rows at a time.

#include <arm_neon.h>

#include "signs.hpp"

namespace procmem {
namespace {

inline uint8x16_t count(uint64x2_t bits) noexcept { return vcntq_u8(vreinterpretq_u8_u64(bits)); }

inline uint64x2_t total(uint8x16_t bytes) noexcept {
    return vpaddlq_u32(vpaddlq_u16(vpaddlq_u8(bytes)));
}

void compare(const SignBlock& block) noexcept {
    const std::uint64_t* panels = block.panels;
    constexpr std::size_t pairs = sign_rows / 2;
    for (std::size_t panel = 0; panel < block.count; ++panel) {
        uint64x2_t sums[pairs];
        for (std::size_t pair = 0; pair < pairs; ++pair) {
            sums[pair] = vdupq_n_u64(0);
        }
        for (std::size_t first = 0; first < block.words; first += most_words_in_bytes) {
            const std::size_t end = end_of_stretch(first, block.words);
            uint8x16_t single[pairs];
            uint8x16_t twofold[pairs];
            for (std::size_t pair = 0; pair < pairs; ++pair) {
                single[pair] = twofold[pair] = vdupq_n_u8(0);
            }
            for (std::size_t word = first; word < end; ++word) {
                const uint64x2_t sign = vdupq_n_u64(block.signs[word]);
                const uint64x2_t ones = vdupq_n_u64(block.ones[word]);
                const uint64x2_t twos = vdupq_n_u64(block.twos[word]);
                for (std::size_t pair = 0; pair < pairs; ++pair, panels += 2) {
                    const uint64x2_t differing = veorq_u64(vld1q_u64(panels), sign);
                    single[pair] = vaddq_u8(single[pair], count(vandq_u64(differing, ones)));
                    twofold[pair] = vaddq_u8(twofold[pair], count(vandq_u64(differing, twos)));
                }
            }
            for (std::size_t pair = 0; pair < pairs; ++pair) {
                sums[pair] = vaddq_u64(sums[pair], total(single[pair]));
                sums[pair] = vaddq_u64(sums[pair], vshlq_n_u64(total(twofold[pair]), 1));
            }
        }
        std::uint64_t lanes[sign_rows];
        for (std::size_t pair = 0; pair < pairs; ++pair) {
            vst1q_u64(lanes + 2 * pair, sums[pair]);
        }
        write_panel(block, panel, lanes);
    }
}

}  // namespace

const SignKernels signs_neon = {compare};

}  // namespace procmem
