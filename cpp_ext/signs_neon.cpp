// The NEON path for signs: tbl looks up for 16 rows at once.

#include <arm_neon.h>

#include "signs.hpp"

namespace procmem {
namespace {

constexpr std::size_t lanes = 16;
constexpr std::size_t quarters = sign_rows / lanes;

void compare(const SignBlock& block) noexcept {
    const std::uint8_t* signs = block.panels;
    for (std::size_t panel = 0; panel < block.count; ++panel) {
        uint16x8_t sums[2 * quarters];
        for (uint16x8_t& eight : sums) {
            eight = vdupq_n_u16(0);
        }
        for (std::size_t first = 0; first < block.bytes; first += bytes_at_once) {
            const std::size_t end = end_of_stretch(first, block.bytes);
            uint8x16_t counted[quarters];
            for (uint8x16_t& quarter : counted) {
                quarter = vdupq_n_u8(0);
            }
            for (std::size_t byte = first; byte < end; ++byte, signs += sign_rows) {
                const std::uint8_t* const table = block.tables + byte * byte_entries;
                const uint8x16_t low = vld1q_u8(table);
                const uint8x16_t high = vld1q_u8(table + sign_entries);
                for (std::size_t i = 0; i < quarters; ++i) {
                    const uint8x16_t rows = vld1q_u8(signs + i * lanes);
                    const uint8x16_t of_low = vqtbl1q_u8(low, vandq_u8(rows, vdupq_n_u8(0x0f)));
                    const uint8x16_t of_high = vqtbl1q_u8(high, vshrq_n_u8(rows, 4));
                    counted[i] = vaddq_u8(counted[i], vaddq_u8(of_low, of_high));
                }
            }
            for (std::size_t i = 0; i < quarters; ++i) {
                sums[2 * i] = vaddw_u8(sums[2 * i], vget_low_u8(counted[i]));
                sums[2 * i + 1] = vaddw_u8(sums[2 * i + 1], vget_high_u8(counted[i]));
            }
        }
        for (std::size_t i = 0; i < 2 * quarters; ++i) {
            vst1q_u16(block.distances + panel * sign_rows + i * lanes / 2, sums[i]);
        }
        write_within(block, panel);
    }
}

}  // namespace

const SignKernels signs_neon = {nullptr, nullptr, compare};

}  // namespace procmem
