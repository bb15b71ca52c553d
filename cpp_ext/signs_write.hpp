// How the AVX-512 paths for signs end a panel. In an unnamed namespace as in topk.hpp.
#pragma once

#include <immintrin.h>

#include "signs.hpp"

namespace procmem {
namespace {

// Writes the sums of a panel, given those of even and of odd rows, and which are within the limit.
inline void write(const SignBlock& block, std::size_t panel, __m512i even, __m512i odd) noexcept {
    const __m512i low = _mm512_unpacklo_epi16(even, odd);   // rows 0 to 7, 16 to 23 and so on
    const __m512i high = _mm512_unpackhi_epi16(even, odd);  // rows 8 to 15, 24 to 31 and so on
    const __m512i before = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i after = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    const __m512i first = _mm512_permutex2var_epi64(low, before, high);
    const __m512i second = _mm512_permutex2var_epi64(low, after, high);
    auto* const target = reinterpret_cast<__m512i*>(block.distances + panel * sign_rows);
    _mm512_storeu_si512(target, first);
    _mm512_storeu_si512(target + 1, second);
    const __m512i limit = _mm512_set1_epi16(static_cast<short>(block.limit));
    block.within[panel] = std::uint64_t{_mm512_cmple_epu16_mask(first, limit)} |
                          std::uint64_t{_mm512_cmple_epu16_mask(second, limit)} << 32;
}

}  // namespace
}  // namespace procmem
