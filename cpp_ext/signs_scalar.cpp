// The portable path for signs: bits are counted by arithmetic on whole words.

#include "signs.hpp"

namespace procmem {
namespace {

// The number of ones, by sums of ever wider fields (Warren, "Hacker's Delight", figure 5-2).
inline std::uint64_t count(std::uint64_t x) noexcept {
    x -= (x >> 1) & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (x * 0x0101010101010101u) >> 56;
}

void compare(const SignBlock& block) noexcept {
    const std::uint64_t* panels = block.panels;
    for (std::size_t panel = 0; panel < block.count; ++panel) {
        std::uint64_t sums[sign_rows] = {};
        for (std::size_t word = 0; word < block.words; ++word) {
            for (std::size_t row = 0; row < sign_rows; ++row) {
                const std::uint64_t differing = *panels++ ^ block.signs[word];
                sums[row] += count(differing & block.ones[word]);
                sums[row] += 2 * count(differing & block.twos[word]);
            }
        }
        write_panel(block, panel, sums);
    }
}

}  // namespace

const SignKernels signs_scalar = {compare};

}  // namespace procmem
