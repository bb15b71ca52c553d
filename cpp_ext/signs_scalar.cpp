// The portable path for signs: what differs is counted by arithmetic on words that hold eight rows.

#include <algorithm>
#include <cstring>

#include "patchsim.hpp"
#include "signs.hpp"

namespace procmem {
namespace {

constexpr std::size_t word_rows = 8;
constexpr std::size_t panel_words = sign_rows / word_rows;

// A query's signs for one byte of the rows, in every byte of a word, and which of them count.
struct Flags {
    std::uint64_t signs;
    std::uint64_t ones;
    std::uint64_t twos;  // in both: three
};

Flags flags_of(const std::uint8_t* tables) noexcept {
    unsigned signs = 0;
    unsigned ones = 0;
    unsigned twos = 0;
    for (unsigned bit = 0; bit < 8; ++bit) {
        const std::uint8_t* const table = tables + bit / 4 * sign_entries;
        const unsigned unset = table[0];
        const unsigned set = table[std::size_t{1} << bit % 4];
        const unsigned counts = set < unset ? unset - set : set - unset;
        signs |= unsigned{set < unset} << bit;
        ones |= (counts & 1) << bit;
        twos |= (counts >> 1) << bit;
    }
    constexpr std::uint64_t every = 0x0101010101010101u;
    return {signs * every, ones * every, twos * every};
}

// What the signs of eight rows count, in a byte each, by sums of ever wider fields (Warren, "Hacker's
// Delight", figure 5-2): four signs count 12 at most, which are four bits.
inline std::uint64_t count(std::uint64_t rows, const Flags& flags) noexcept {
    constexpr std::uint64_t pairs = 0x5555555555555555u;
    constexpr std::uint64_t fours = 0x3333333333333333u;
    constexpr std::uint64_t eights = 0x0f0f0f0f0f0f0f0fu;
    const std::uint64_t differing = rows ^ flags.signs;
    std::uint64_t once = differing & flags.ones;
    std::uint64_t twice = differing & flags.twos;
    once -= (once >> 1) & pairs;
    twice -= (twice >> 1) & pairs;
    once = (once & fours) + ((once >> 2) & fours);
    twice = (twice & fours) + ((twice >> 2) & fours);
    const std::uint64_t both = once + 2 * twice;
    return (both & eights) + ((both >> 4) & eights);
}

void compare(const SignBlock& block) noexcept {
    Flags flags[most_sign_bytes];
    for (std::size_t byte = 0; byte < block.bytes; ++byte) {
        flags[byte] = flags_of(block.tables + byte * byte_entries);
    }
    const std::uint8_t* signs = block.panels;
    for (std::size_t panel = 0; panel < block.count; ++panel) {
        std::uint16_t* const sums = block.distances + panel * sign_rows;
        std::fill_n(sums, sign_rows, std::uint16_t{0});
        for (std::size_t first = 0; first < block.bytes; first += bytes_at_once) {
            const std::size_t end = end_of_stretch(first, block.bytes);
            std::uint64_t counted[panel_words];
            for (std::size_t word = 0; word < panel_words; ++word) {
                const std::uint8_t* at = signs + word * word_rows;
                std::uint64_t sum = 0;
                for (std::size_t byte = first; byte < end; ++byte, at += sign_rows) {
                    std::uint64_t rows;
                    std::memcpy(&rows, at, sizeof rows);
                    sum += count(rows, flags[byte]);
                }
                counted[word] = sum;
            }
            signs += (end - first) * sign_rows;
            std::uint8_t bytes[sign_rows];
            std::memcpy(bytes, counted, sizeof bytes);
            for (std::size_t row = 0; row < sign_rows; ++row) {
                sums[row] = static_cast<std::uint16_t>(sums[row] + bytes[row]);
            }
        }
        write_within(block, panel);
    }
}

}  // namespace

const SignKernels signs_scalar = {nullptr, nullptr, compare};

}  // namespace procmem
