// The AVX-512 path for signs: eight rows of a panel are eight lanes, and vpopcntq counts in each.

#include <immintrin.h>

#include "kernels.hpp"
#include "prefetch.hpp"

namespace procmem {
namespace {

// What a processor foresees of a stream ends with each page of memory.
constexpr std::size_t bytes_ahead = 4096;

constexpr int differ_and_count = 0x28;  // (a ^ b) & c as a truth table

inline __m512i count(__m512i rows, __m512i signs, __m512i mask) noexcept {
    return _mm512_popcnt_epi64(_mm512_ternarylogic_epi64(rows, signs, mask, differ_and_count));
}

inline void write(const SignBlock& block, std::size_t panel, __m512i sums) noexcept {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(block.distances + panel * sign_rows),
                     _mm512_cvtepi64_epi16(sums));
    block.within[panel] = _mm512_cmple_epu64_mask(sums, _mm512_set1_epi64(block.limit));
}

// `Panels` panels at once, so that they share what is loaded of the other side. `Words` is how many
// words a row has, known to the compiler: then all of that stays in registers. 0: block.words.
template <std::size_t Panels, std::size_t Words>
inline void compare_panels(const SignBlock& block, std::size_t panel) noexcept {
    const std::size_t words = Words > 0 ? Words : block.words;
    const std::size_t panel_words = words * sign_rows;
    const std::uint64_t* rows = block.panels + panel * panel_words;
    __m512i single[Panels];
    __m512i twofold[Panels];
    for (std::size_t i = 0; i < Panels; ++i) {
        single[i] = twofold[i] = _mm512_setzero_si512();
    }
    for (std::size_t i = 0; i < Panels * panel_words; i += sign_rows) {
        fetch(rows + i, bytes_ahead);
    }
    for (std::size_t word = 0; word < words; ++word) {
        const __m512i signs = _mm512_set1_epi64(static_cast<long long>(block.signs[word]));
        const __m512i ones = _mm512_set1_epi64(static_cast<long long>(block.ones[word]));
        const __m512i twos = _mm512_set1_epi64(static_cast<long long>(block.twos[word]));
        for (std::size_t i = 0; i < Panels; ++i) {
            const __m512i own = _mm512_loadu_si512(rows + i * panel_words + word * sign_rows);
            single[i] = _mm512_add_epi64(single[i], count(own, signs, ones));
            twofold[i] = _mm512_add_epi64(twofold[i], count(own, signs, twos));
        }
    }
    for (std::size_t i = 0; i < Panels; ++i) {
        write(block, panel + i, _mm512_add_epi64(single[i], _mm512_slli_epi64(twofold[i], 1)));
    }
}

template <std::size_t Words>
void compare_rows_of(const SignBlock& block) noexcept {
    constexpr std::size_t at_once = 4;
    std::size_t panel = 0;
    for (; panel + at_once <= block.count; panel += at_once) {
        compare_panels<at_once, Words>(block, panel);
    }
    for (; panel < block.count; ++panel) {
        compare_panels<1, Words>(block, panel);
    }
}

void compare(const SignBlock& block) noexcept {
    using Compare = void (*)(const SignBlock&) noexcept;
    constexpr Compare by_words[] = {compare_rows_of<0>, compare_rows_of<1>, compare_rows_of<2>,
                                    compare_rows_of<3>, compare_rows_of<4>, compare_rows_of<5>,
                                    compare_rows_of<6>, compare_rows_of<7>, compare_rows_of<8>};
    constexpr std::size_t most = sizeof by_words / sizeof *by_words - 1;
    by_words[block.words <= most ? block.words : 0](block);
}

}  // namespace

const SignKernels signs_avx512 = {compare};

}  // namespace procmem
