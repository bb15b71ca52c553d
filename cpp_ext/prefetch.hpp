// Memory that is asked for before it is needed. In an unnamed namespace as in topk.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

namespace procmem {
namespace {

constexpr std::size_t cache_line = 64;

// Asks for the bytes that stand `ahead` of an address, which need not be anybody's.
inline void fetch(const void* address, std::size_t ahead) noexcept {
#if defined(__GNUC__)
    __builtin_prefetch(
        reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(address) + ahead));
#else
    (void)address;
    (void)ahead;
#endif
}

}  // namespace
}  // namespace procmem
