// SHA-256 by the instructions of x86 processors, four rounds at a time.
// https://www.intel.com/content/dam/develop/external/us/en/documents/intel-sha-extensions-white-paper.pdf

#include <immintrin.h>

#include "sha256.hpp"

namespace procmem {
namespace {

// Four words of the message, in the order in which the instructions take them.
inline __m128i message(const unsigned char* data) {
    const __m128i swapped = _mm_set_epi64x(0x0c0d0e0f08090a0bll, 0x0405060700010203ll);
    return _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data)), swapped);
}

}  // namespace

void compress_x86(HashState& state, const unsigned char* data, std::size_t blocks) {
    // The instructions keep a, b, e, f in one register and c, d, g, h in the other. Names say what
    // a register holds from its highest word to its lowest.
    const __m128i* stored = reinterpret_cast<const __m128i*>(state.data());
    const __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128(stored), 0xb1);
    const __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128(stored + 1), 0x1b);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
    __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
    for (; blocks > 0; --blocks, data += hash_block) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4] = {message(data), message(data + 16), message(data + 32), message(data + 48)};
        for (int group = 0; group < 16; ++group) {
            __m128i& now = w[group % 4];
            if (group >= 4) {
                const __m128i& before = w[(group + 3) % 4];
                const __m128i seven_back = _mm_alignr_epi8(before, w[(group + 2) % 4], 4);
                now = _mm_sha256msg1_epu32(now, w[(group + 1) % 4]);
                now = _mm_sha256msg2_epu32(_mm_add_epi32(now, seven_back), before);
            }
            const __m128i constants =
                _mm_loadu_si128(reinterpret_cast<const __m128i*>(sha256_constants + 4 * group));
            const __m128i sum = _mm_add_epi32(now, constants);
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    const __m128i feba = _mm_shuffle_epi32(abef, 0x1b);
    const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    __m128i* target = reinterpret_cast<__m128i*>(state.data());
    _mm_storeu_si128(target, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128(target + 1, _mm_alignr_epi8(dchg, feba, 8));
}

}  // namespace procmem
