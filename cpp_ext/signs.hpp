// What the paths for signs share. In an unnamed namespace as in topk.hpp.
//
// A row's signs are looked up four at a time in tables that hold what they count, and the entries
// added up: with rows side by side, one instruction looks up for 16 rows and more (Andre, Kermarrec,
// Le Scouarnec, "Cache locality is not enough: high-performance nearest neighbor search with product
// quantization fast scan", 2015).
#pragma once

#include "kernels.hpp"

namespace procmem {
namespace {

constexpr std::size_t halves = 2;  // of a byte of signs, with a table each
constexpr std::size_t byte_entries = halves * sign_entries;

// Bytes of a row whose entries a byte can add up.
constexpr std::size_t bytes_at_once = 255 / (halves * most_per_entry);

// What a processor foresees of a stream ends with each page of memory.
constexpr std::size_t bytes_ahead = 4096;

// The end of the stretch that begins with byte `first`.
[[maybe_unused]] inline std::size_t end_of_stretch(std::size_t first, std::size_t bytes,
                                                   std::size_t at_once = bytes_at_once) noexcept {
    return first + at_once < bytes ? first + at_once : bytes;
}

// Says which rows of a panel are within the limit, after their distances were written.
[[maybe_unused]] inline void write_within(const SignBlock& block, std::size_t panel) noexcept {
    std::uint64_t within = 0;
    for (std::size_t row = 0; row < sign_rows; ++row) {
        const bool is_within = block.distances[panel * sign_rows + row] <= block.limit;
        within |= std::uint64_t{is_within} << row;
    }
    block.within[panel] = within;
}

}  // namespace
}  // namespace procmem
