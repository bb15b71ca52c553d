// The AVX2 path for signs: ones are looked up four bits at a time and added up byte by byte (Mula,
// Kurz, Lemire, "Faster population counts using AVX2 instructions", 2018).

#include <immintrin.h>

#include "signs.hpp"

namespace procmem {
namespace {

inline __m256i count(__m256i bits) noexcept {  // of every byte
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                           0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(0x0f);
    const __m256i low = _mm256_and_si256(bits, nibble);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(bits, 4), nibble);
    return _mm256_add_epi8(_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high));
}

inline __m256i total(__m256i bytes) noexcept {
    return _mm256_sad_epu8(bytes, _mm256_setzero_si256());
}

void compare(const SignBlock& block) noexcept {
    const std::uint64_t* panels = block.panels;
    constexpr std::size_t halves = 2;  // of the eight rows
    for (std::size_t panel = 0; panel < block.count; ++panel) {
        __m256i sums[halves] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (std::size_t first = 0; first < block.words; first += most_words_in_bytes) {
            const std::size_t end = end_of_stretch(first, block.words);
            __m256i single[halves] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
            __m256i twofold[halves] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
            for (std::size_t word = first; word < end; ++word) {
                const __m256i sign = _mm256_set1_epi64x(static_cast<long long>(block.signs[word]));
                const __m256i ones = _mm256_set1_epi64x(static_cast<long long>(block.ones[word]));
                const __m256i twos = _mm256_set1_epi64x(static_cast<long long>(block.twos[word]));
                for (std::size_t half = 0; half < halves; ++half, panels += 4) {
                    const __m256i rows =
                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panels));
                    const __m256i differing = _mm256_xor_si256(rows, sign);
                    single[half] = _mm256_add_epi8(single[half],
                                                   count(_mm256_and_si256(differing, ones)));
                    twofold[half] = _mm256_add_epi8(twofold[half],
                                                    count(_mm256_and_si256(differing, twos)));
                }
            }
            for (std::size_t half = 0; half < halves; ++half) {
                sums[half] = _mm256_add_epi64(sums[half], total(single[half]));
                sums[half] = _mm256_add_epi64(sums[half],
                                              _mm256_slli_epi64(total(twofold[half]), 1));
            }
        }
        std::uint64_t lanes[sign_rows];
        for (std::size_t half = 0; half < halves; ++half) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes + 4 * half), sums[half]);
        }
        write_panel(block, panel, lanes);
    }
}

}  // namespace

const SignKernels signs_avx2 = {compare};

}  // namespace procmem
