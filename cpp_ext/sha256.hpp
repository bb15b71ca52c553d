// SHA-256 (FIPS 180-4) and HMAC (RFC 2104) of many short texts, for receipts.
//
// hashlib hashes as fast, but a call of it takes as long as the hash of a thousand bytes, and a
// receipt needs several for each item. Tests hold this to hashlib; and hashlib gets the root of each
// tree anew from the leaves that a receipt proves, before it is signed and when it is verified.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace procmem {

constexpr std::size_t hash_bytes = 32;
constexpr std::size_t hash_block = 64;

using HashState = std::array<std::uint32_t, 8>;

// Takes `blocks` blocks of 64 bytes into the state.
using Compress = void (*)(HashState& state, const unsigned char* data, std::size_t blocks);

void compress_portable(HashState& state, const unsigned char* data, std::size_t blocks);
#ifdef PROCMEM_X86
void compress_x86(HashState& state, const unsigned char* data, std::size_t blocks);
#endif
#ifdef PROCMEM_ARM64
void compress_arm64(HashState& state, const unsigned char* data, std::size_t blocks);
#endif

// The round constants, which every path needs.
extern const std::uint32_t sha256_constants[64];

// The fastest path that this processor runs; the portable one where `portable`.
Compress choose_compress(bool portable);

// One hash, of bytes that come in any number of pieces.
class Sha256 {
  public:
    explicit Sha256(Compress compress);

    void update(const unsigned char* data, std::size_t size);

    // Writes the 32 bytes of the hash to `target`; the object is used up.
    void finish(unsigned char* target);

  private:
    Compress compress_;
    HashState state_;
    std::uint64_t size_ = 0;
    unsigned char waiting_[hash_block];  // what does not fill a block yet
};

// HMAC-SHA256 under one key of at most 64 bytes: prepared once, then copied for each text.
class Hmac {
  public:
    Hmac(Compress compress, const unsigned char* key, std::size_t size);

    void update(const unsigned char* data, std::size_t size) { inner_.update(data, size); }

    // Writes the 32 bytes of the code to `target`; the object is used up.
    void finish(unsigned char* target);

  private:
    Sha256 inner_;
    Sha256 outer_;
};

}  // namespace procmem
