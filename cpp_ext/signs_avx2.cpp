// The AVX2 path for signs: vpshufb looks up for 32 rows at once.

#include <immintrin.h>

#include "prefetch.hpp"
#include "signs.hpp"

namespace procmem {
namespace {

constexpr std::size_t lanes = 32;
constexpr std::size_t parts = sign_rows / lanes;

inline __m256i load(const void* bytes) noexcept {
    return _mm256_loadu_si256(static_cast<const __m256i*>(bytes));
}

inline __m256i table_at(const std::uint8_t* entries) noexcept {  // the same for both lanes
    return _mm256_broadcastsi128_si256(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)));
}

inline __m256i is_within(__m256i distances, __m256i limit) noexcept {
    return _mm256_cmpeq_epi16(_mm256_max_epu16(distances, limit), limit);
}

// Writes the sums of 32 rows, given those of even and of odd ones; which are within the limit.
inline std::uint32_t write(__m256i even, __m256i odd, __m256i limit,
                           std::uint16_t* distances) noexcept {
    const __m256i low = _mm256_unpacklo_epi16(even, odd);   // rows 0 to 7 and 16 to 23
    const __m256i high = _mm256_unpackhi_epi16(even, odd);  // rows 8 to 15 and 24 to 31
    auto* const target = reinterpret_cast<__m256i*>(distances);
    _mm256_storeu_si256(target, _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256(target + 1, _mm256_permute2x128_si256(low, high, 0x31));
    const __m256i within =
        _mm256_packs_epi16(is_within(low, limit), is_within(high, limit));  // in order again
    return static_cast<std::uint32_t>(_mm256_movemask_epi8(within));
}

void compare(const SignBlock& block) noexcept {
    const std::uint8_t* signs = block.panels;
    const __m256i nibble = _mm256_set1_epi8(0x0f);
    const __m256i low_byte = _mm256_set1_epi16(0x00ff);
    const __m256i limit = _mm256_set1_epi16(static_cast<short>(block.limit));
    for (std::size_t panel = 0; panel < block.count; ++panel) {
        __m256i even[parts];
        __m256i odd[parts];
        for (std::size_t i = 0; i < parts; ++i) {
            even[i] = odd[i] = _mm256_setzero_si256();
        }
        for (std::size_t first = 0; first < block.bytes; first += bytes_at_once) {
            const std::size_t end = end_of_stretch(first, block.bytes);
            __m256i counted[parts] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
            for (std::size_t byte = first; byte < end; ++byte, signs += sign_rows) {
                fetch(signs, bytes_ahead);
                const std::uint8_t* const table = block.tables + byte * byte_entries;
                const __m256i low = table_at(table);
                const __m256i high = table_at(table + sign_entries);
                for (std::size_t i = 0; i < parts; ++i) {
                    const __m256i rows = load(signs + i * lanes);
                    const __m256i shifted = _mm256_and_si256(_mm256_srli_epi16(rows, 4), nibble);
                    const __m256i of_low =
                        _mm256_shuffle_epi8(low, _mm256_and_si256(rows, nibble));
                    const __m256i of_high = _mm256_shuffle_epi8(high, shifted);
                    counted[i] = _mm256_add_epi8(counted[i], _mm256_add_epi8(of_low, of_high));
                }
            }
            for (std::size_t i = 0; i < parts; ++i) {
                even[i] = _mm256_add_epi16(even[i], _mm256_and_si256(counted[i], low_byte));
                odd[i] = _mm256_add_epi16(odd[i], _mm256_srli_epi16(counted[i], 8));
            }
        }
        std::uint64_t within = 0;
        for (std::size_t i = 0; i < parts; ++i) {
            std::uint16_t* const distances = block.distances + panel * sign_rows + i * lanes;
            within |= std::uint64_t{write(even[i], odd[i], limit, distances)} << (i * lanes);
        }
        block.within[panel] = within;
    }
}

}  // namespace

const SignKernels signs_avx2 = {nullptr, nullptr, compare};

}  // namespace procmem
