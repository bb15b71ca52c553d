#include "sha256.hpp"

#include <algorithm>
#include <cstring>

#include "big_endian.hpp"

#if defined(PROCMEM_X86) && defined(_MSC_VER)
#include <intrin.h>
#elif defined(PROCMEM_X86)
#include <cpuid.h>
#elif defined(PROCMEM_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(PROCMEM_ARM64) && defined(_MSC_VER)
#define NOMINMAX  // or std::min is another thing
#include <windows.h>
#endif

namespace procmem {
namespace {

constexpr HashState initial = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                               0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};

inline std::uint32_t rotate(std::uint32_t value, unsigned bits) {
    return value >> bits | value << (32 - bits);
}

inline std::uint32_t load_big_endian(const unsigned char* at) {
    return std::uint32_t{at[0]} << 24 | std::uint32_t{at[1]} << 16 | std::uint32_t{at[2]} << 8 |
           std::uint32_t{at[3]};
}

bool runs_instructions() {
#if defined(PROCMEM_X86)
    // SHA: leaf 7, EBX bit 29; SSSE3 and SSE4.1: leaf 1, ECX bits 9 and 19.
    constexpr unsigned sse = 1u << 9 | 1u << 19;
#if defined(_MSC_VER)
    int leaf[4];
    __cpuid(leaf, 0);
    if (leaf[0] < 7) {
        return false;
    }
    __cpuid(leaf, 1);
    const auto first = static_cast<unsigned>(leaf[2]);
    __cpuidex(leaf, 7, 0);
    return (first & sse) == sse && (static_cast<unsigned>(leaf[1]) & 1u << 29) != 0;
#else
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & sse) != sse) {
        return false;
    }
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & 1u << 29) != 0;
#endif
#elif defined(PROCMEM_ARM64) && defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_SHA2) != 0;
#elif defined(PROCMEM_ARM64) && defined(_MSC_VER)
    return IsProcessorFeaturePresent(PF_ARM_V8_CRYPTO_INSTRUCTIONS_AVAILABLE) != 0;
#elif defined(PROCMEM_ARM64) && defined(__APPLE__)
    return true;  // since the M1
#else
    return false;
#endif
}

}  // namespace

const std::uint32_t sha256_constants[64] = {
    0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, 0x3956c25bu, 0x59f111f1u, 0x923f82a4u,
    0xab1c5ed5u, 0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, 0x72be5d74u, 0x80deb1feu,
    0x9bdc06a7u, 0xc19bf174u, 0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, 0x2de92c6fu,
    0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau, 0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u,
    0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u, 0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu,
    0x53380d13u, 0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u, 0xa2bfe8a1u, 0xa81a664bu,
    0xc24b8b70u, 0xc76c51a3u, 0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u, 0x19a4c116u,
    0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, 0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u,
    0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, 0x90befffau, 0xa4506cebu, 0xbef9a3f7u,
    0xc67178f2u};

void compress_portable(HashState& state, const unsigned char* data, std::size_t blocks) {
    for (; blocks > 0; --blocks, data += hash_block) {
        std::uint32_t w[64];
        for (std::size_t t = 0; t < 16; ++t) {
            w[t] = load_big_endian(data + 4 * t);
        }
        for (std::size_t t = 16; t < 64; ++t) {
            const std::uint32_t x = w[t - 15], y = w[t - 2];
            w[t] = w[t - 16] + (rotate(x, 7) ^ rotate(x, 18) ^ x >> 3) + w[t - 7] +
                   (rotate(y, 17) ^ rotate(y, 19) ^ y >> 10);
        }
        auto [a, b, c, d, e, f, g, h] = state;
        for (std::size_t t = 0; t < 64; ++t) {
            const std::uint32_t t1 = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                                     ((e & f) ^ (~e & g)) + sha256_constants[t] + w[t];
            const std::uint32_t t2 =
                (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
            h = g;
            g = f;
            f = e;
            e = d + t1;
            d = c;
            c = b;
            b = a;
            a = t1 + t2;
        }
        const HashState after{a, b, c, d, e, f, g, h};
        for (std::size_t i = 0; i < 8; ++i) {
            state[i] += after[i];
        }
    }
}

Compress choose_compress(bool portable) {
    static const bool fast = runs_instructions();
#if defined(PROCMEM_X86)
    return fast && !portable ? compress_x86 : compress_portable;
#elif defined(PROCMEM_ARM64)
    return fast && !portable ? compress_arm64 : compress_portable;
#else
    static_cast<void>(portable);
    static_cast<void>(fast);
    return compress_portable;
#endif
}

Sha256::Sha256(Compress compress) : compress_(compress), state_(initial) {}

void Sha256::update(const unsigned char* data, std::size_t size) {
    if (size == 0) {
        return;  // `data` may be nullptr
    }
    const std::size_t held = static_cast<std::size_t>(size_ % hash_block);
    size_ += size;
    if (held > 0) {
        const std::size_t taken = std::min(size, hash_block - held);
        std::memcpy(waiting_ + held, data, taken);
        if (held + taken < hash_block) {
            return;
        }
        compress_(state_, waiting_, 1);
        data += taken;
        size -= taken;
    }
    compress_(state_, data, size / hash_block);
    std::memcpy(waiting_, data + size / hash_block * hash_block, size % hash_block);
}

void Sha256::finish(unsigned char* target) {
    const std::uint64_t bits = 8 * size_;
    std::size_t held = static_cast<std::size_t>(size_ % hash_block);
    waiting_[held++] = 0x80;
    if (held > hash_block - 8) {  // no room for the length
        std::memset(waiting_ + held, 0, hash_block - held);
        compress_(state_, waiting_, 1);
        held = 0;
    }
    std::memset(waiting_ + held, 0, hash_block - 8 - held);
    big_endian(bits, 8, waiting_ + hash_block - 8);
    compress_(state_, waiting_, 1);
    for (std::size_t i = 0; i < state_.size(); ++i) {
        big_endian(state_[i], 4, target + 4 * i);
    }
}

Hmac::Hmac(Compress compress, const unsigned char* key, std::size_t size)
    : inner_(compress), outer_(compress) {
    unsigned char padded[hash_block];
    const auto pad = [&](unsigned char with) {
        for (std::size_t i = 0; i < hash_block; ++i) {
            padded[i] = static_cast<unsigned char>((i < size ? key[i] : 0) ^ with);
        }
    };
    pad(0x36);
    inner_.update(padded, hash_block);
    pad(0x5c);
    outer_.update(padded, hash_block);
}

void Hmac::finish(unsigned char* target) {
    unsigned char inner[hash_bytes];
    inner_.finish(inner);
    outer_.update(inner, hash_bytes);
    outer_.finish(target);
}

}  // namespace procmem
