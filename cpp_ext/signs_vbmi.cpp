// The AVX-512 VBMI path for signs: vpermb looks six of them up for 64 rows at once. Memory is not
// asked for ahead as in the other paths: tried on Zen 4, that took a third longer when no cache
// held the rows.

#include <immintrin.h>

#include "signs_write.hpp"

namespace procmem {
namespace {

constexpr std::size_t trio =
    3;  // bytes of signs, 24 of them: the low six of each, the rest together
constexpr std::size_t tables_of_trio = trio + 1;
constexpr std::size_t entries = 64;
constexpr std::size_t trio_entries = tables_of_trio * entries;

// Bytes in whole trios whose entries a byte can add up.
constexpr std::size_t in_trios_at_once = bytes_at_once / trio * trio;

std::size_t table_bytes(std::size_t bytes) noexcept {
    return (bytes + trio - 1) / trio * trio_entries;
}

// Entries of six signs from those of four. What bits count that are not in an entry is in it as if
// they were not set; the last table takes that away where they are. Below zero it is right too:
// bytes add up modulo 256, and their sum is never more than 255.
void prepare(const std::uint8_t* fours, std::size_t bytes, std::uint8_t* tables) noexcept {
    static constexpr std::uint8_t nothing[byte_entries] = {};
    for (std::size_t first = 0; first < bytes; first += trio, tables += trio_entries) {
        const std::uint8_t* highs[trio];
        for (std::size_t i = 0; i < trio; ++i) {
            const std::uint8_t* const low =
                first + i < bytes ? fours + (first + i) * byte_entries : nothing;
            highs[i] = low + sign_entries;
            for (std::size_t high = 0; high < entries / sign_entries; ++high) {
                std::uint8_t* const target = tables + i * entries + high * sign_entries;
                for (std::size_t entry = 0; entry < sign_entries; ++entry) {
                    target[entry] = static_cast<std::uint8_t>(low[entry] + highs[i][high]);
                }
            }
        }
        for (std::size_t entry = 0; entry < entries; ++entry) {
            int sum = 0;
            for (std::size_t i = 0; i < trio; ++i) {
                sum += highs[i][(entry >> 2 * i & 3) << 2] - highs[i][0];
            }
            tables[trio * entries + entry] = static_cast<std::uint8_t>(sum);
        }
    }
}

// What the signs of a trio count in 64 rows.
inline __m512i count(const __m512i (&rows)[trio], const std::uint8_t* tables) noexcept {
    const __m512i lowest = _mm512_set1_epi8(0x03);
    const __m512i low = _mm512_set1_epi8(0x0f);
    // Bits beyond the sixth are not looked at.
    const __m512i first = _mm512_srli_epi16(rows[0], 6);
    const __m512i second = _mm512_srli_epi16(rows[1], 4);
    const __m512i third = _mm512_srli_epi16(rows[2], 2);
    constexpr int choose =
        0xca;  // a bit of the second where the first is set, of the third elsewhere
    const __m512i pair = _mm512_ternarylogic_epi32(lowest, first, second, choose);
    const __m512i rest = _mm512_ternarylogic_epi32(low, pair, third, choose);
    const auto look_up = [&](std::size_t table, __m512i six) {
        return _mm512_permutexvar_epi8(six, _mm512_loadu_si512(tables + table * entries));
    };
    return _mm512_add_epi8(_mm512_add_epi8(look_up(0, rows[0]), look_up(1, rows[1])),
                           _mm512_add_epi8(look_up(2, rows[2]), look_up(3, rest)));
}

void compare(const SignBlock& block) noexcept {
    const std::uint8_t* signs = block.panels;
    const __m512i low_byte = _mm512_set1_epi16(0x00ff);
    for (std::size_t panel = 0; panel < block.count; ++panel) {
        __m512i even = _mm512_setzero_si512();
        __m512i odd = _mm512_setzero_si512();
        const std::uint8_t* tables = block.tables;
        for (std::size_t first = 0; first < block.bytes; first += in_trios_at_once) {
            const std::size_t end = end_of_stretch(first, block.bytes, in_trios_at_once);
            __m512i counted = _mm512_setzero_si512();
            for (std::size_t byte = first; byte < end; byte += trio, tables += trio_entries) {
                __m512i rows[trio];
                for (std::size_t i = 0; i < trio; ++i) {
                    rows[i] = _mm512_setzero_si512();
                    if (byte + i < end) {
                        rows[i] = _mm512_loadu_si512(signs);
                        signs += sign_rows;
                    }
                }
                counted = _mm512_add_epi8(counted, count(rows, tables));
            }
            even = _mm512_add_epi16(even, _mm512_and_si512(counted, low_byte));
            odd = _mm512_add_epi16(odd, _mm512_srli_epi16(counted, 8));
        }
        write(block, panel, even, odd);
    }
}

}  // namespace

const SignKernels signs_vbmi = {table_bytes, prepare, compare};

}  // namespace procmem
