// What the paths for signs share. In an unnamed namespace as in topk.hpp.
#pragma once

#include "kernels.hpp"

namespace procmem {
namespace {

constexpr std::size_t most_words_in_bytes = 31;  // 8 ones a word and byte: a byte holds 255

// The end of the stretch of words that begins with `first` and whose ones bytes can count.
[[maybe_unused]] inline std::size_t end_of_stretch(std::size_t first, std::size_t words) noexcept {
    return words - first < most_words_in_bytes ? words : first + most_words_in_bytes;
}

// Writes what was counted for the rows of a panel.
[[maybe_unused]] inline void write_panel(const SignBlock& block, std::size_t panel,
                                         const std::uint64_t* sums) noexcept {
    unsigned within = 0;
    for (std::size_t row = 0; row < sign_rows; ++row) {
        block.distances[panel * sign_rows + row] = static_cast<std::uint16_t>(sums[row]);
        within |= static_cast<unsigned>(sums[row] <= block.limit) << row;
    }
    block.within[panel] = static_cast<std::uint8_t>(within);
}

}  // namespace
}  // namespace procmem
