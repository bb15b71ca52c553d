// The AVX-512 path for signs: vpshufb looks up for 64 rows at once.

#include <immintrin.h>

#include "prefetch.hpp"
#include "signs_write.hpp"

namespace procmem {
namespace {

inline __m512i table_at(const std::uint8_t* entries) noexcept {  // the same for all lanes
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)));
}

void compare(const SignBlock& block) noexcept {
    const std::uint8_t* signs = block.panels;
    const __m512i nibble = _mm512_set1_epi8(0x0f);
    const __m512i low_byte = _mm512_set1_epi16(0x00ff);
    for (std::size_t panel = 0; panel < block.count; ++panel) {
        __m512i even = _mm512_setzero_si512();
        __m512i odd = _mm512_setzero_si512();
        for (std::size_t first = 0; first < block.bytes; first += bytes_at_once) {
            const std::size_t end = end_of_stretch(first, block.bytes);
            __m512i counted = _mm512_setzero_si512();
            for (std::size_t byte = first; byte < end; ++byte, signs += sign_rows) {
                fetch(signs, bytes_ahead);
                const std::uint8_t* const table = block.tables + byte * byte_entries;
                const __m512i rows = _mm512_loadu_si512(signs);
                const __m512i shifted = _mm512_and_si512(_mm512_srli_epi16(rows, 4), nibble);
                const __m512i of_low =
                    _mm512_shuffle_epi8(table_at(table), _mm512_and_si512(rows, nibble));
                const __m512i of_high = _mm512_shuffle_epi8(table_at(table + sign_entries), shifted);
                counted = _mm512_add_epi8(counted, _mm512_add_epi8(of_low, of_high));
            }
            even = _mm512_add_epi16(even, _mm512_and_si512(counted, low_byte));
            odd = _mm512_add_epi16(odd, _mm512_srli_epi16(counted, 8));
        }
        write(block, panel, even, odd);
    }
}

}  // namespace

const SignKernels signs_avx512 = {nullptr, nullptr, compare};

}  // namespace procmem
