// The AVX-512 path for signs: eight rows of a panel are eight lanes, and vpopcntq counts in each.

#include <immintrin.h>

#include "kernels.hpp"
#include "prefetch.hpp"

namespace procmem {
namespace {

// What a processor foresees of a stream ends with each page of memory.
constexpr std::size_t bytes_ahead = 4096;

constexpr int differ_and_count = 0x28;  // (a ^ b) & c as a truth table

inline __m512i ones(const std::uint64_t* rows, __m512i signs, __m512i mask) noexcept {
    return _mm512_popcnt_epi64(
        _mm512_ternarylogic_epi64(_mm512_loadu_si512(rows), signs, mask, differ_and_count));
}

inline void write(const SignBlock& block, std::size_t panel, __m512i sums) noexcept {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(block.distances + panel * sign_rows),
                     _mm512_cvtepi64_epi16(sums));
    block.within[panel] = _mm512_cmple_epu64_mask(sums, _mm512_set1_epi64(block.limit));
}

// `Panels` panels at once, so that they share what is loaded of the other side.
template <std::size_t Panels>
inline void compare_panels(const SignBlock& block, std::size_t panel) noexcept {
    const std::size_t panel_words = block.words * sign_rows;
    const std::uint64_t* rows = block.panels + panel * panel_words;
    __m512i sums[Panels];
    for (std::size_t i = 0; i < Panels; ++i) {
        sums[i] = _mm512_setzero_si512();
    }
    for (std::size_t i = 0; i < Panels * panel_words; i += sign_rows) {
        fetch(rows + i, bytes_ahead);
    }
    for (std::size_t word = 0; word < block.words; ++word) {
        const __m512i signs = _mm512_set1_epi64(static_cast<long long>(block.signs[word]));
        const __m512i mask = _mm512_set1_epi64(static_cast<long long>(block.mask[word]));
        for (std::size_t i = 0; i < Panels; ++i) {
            sums[i] = _mm512_add_epi64(
                sums[i], ones(rows + i * panel_words + word * sign_rows, signs, mask));
        }
    }
    for (std::size_t i = 0; i < Panels; ++i) {
        write(block, panel + i, sums[i]);
    }
}

void compare(const SignBlock& block) noexcept {
    constexpr std::size_t at_once = 4;
    std::size_t panel = 0;
    for (; panel + at_once <= block.count; panel += at_once) {
        compare_panels<at_once>(block, panel);
    }
    for (; panel < block.count; ++panel) {
        compare_panels<1>(block, panel);
    }
}

}  // namespace

const SignKernels signs_avx512 = {compare};

}  // namespace procmem
