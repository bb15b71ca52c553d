// Whole numbers as files and hashes have them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace procmem {

// Writes the lowest `bytes` bytes of a number, the highest of them first.
inline void big_endian(std::uint64_t value, std::size_t bytes, unsigned char* target) {
    for (std::size_t i = bytes; i-- > 0; value >>= 8) {
        target[i] = static_cast<unsigned char>(value & 0xff);
    }
}

}  // namespace procmem
