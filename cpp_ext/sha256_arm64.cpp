// SHA-256 by the instructions of arm64 processors, four rounds at a time.

#include <arm_neon.h>

#include "sha256.hpp"

namespace procmem {
namespace {

inline uint32x4_t message(const unsigned char* data) {
    return vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data)));
}

}  // namespace

void compress_arm64(HashState& state, const unsigned char* data, std::size_t blocks) {
    uint32x4_t abcd = vld1q_u32(state.data());
    uint32x4_t efgh = vld1q_u32(state.data() + 4);
    for (; blocks > 0; --blocks, data += hash_block) {
        const uint32x4_t abcd_before = abcd, efgh_before = efgh;
        uint32x4_t w[4] = {message(data), message(data + 16), message(data + 32),
                           message(data + 48)};
        for (int group = 0; group < 16; ++group) {
            uint32x4_t& now = w[group % 4];
            if (group >= 4) {
                now = vsha256su1q_u32(vsha256su0q_u32(now, w[(group + 1) % 4]), w[(group + 2) % 4],
                                      w[(group + 3) % 4]);
            }
            const uint32x4_t sum = vaddq_u32(now, vld1q_u32(sha256_constants + 4 * group));
            const uint32x4_t abcd_now = abcd;
            abcd = vsha256hq_u32(abcd, efgh, sum);
            efgh = vsha256h2q_u32(efgh, abcd_now, sum);
        }
        abcd = vaddq_u32(abcd, abcd_before);
        efgh = vaddq_u32(efgh, efgh_before);
    }
    vst1q_u32(state.data(), abcd);
    vst1q_u32(state.data() + 4, efgh);
}

}  // namespace procmem
