// The AVX-512 paths for signs against the portable one, without Python and dispatch, which would
// take one of them only. Prints one line; ends with 1 at the first difference.

#include <cstdio>
#include <random>
#include <utility>
#include <vector>

#include "kernels.hpp"

namespace {

std::mt19937 random_bits(0);

int between(int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random_bits);
}

// What four signs count that differ from a query's, for each of the 16 that they can be.
void fill(std::uint8_t* table, int most) {
    for (int bit = 0; bit < 4; ++bit) {
        const int counts = between(most == 3 ? 3 : 0, most);  // or bytes would never be full
        const int sign = between(0, 1);
        for (int entry = 0; entry < 16; ++entry) {
            const bool differs = (entry >> bit & 1) != sign;
            table[entry] = static_cast<std::uint8_t>(table[entry] + (differs ? counts : 0));
        }
    }
}

using Seen = std::pair<std::vector<std::uint16_t>, std::vector<std::uint64_t>>;

// Distances, and which rows are within the limit.
Seen compared(const procmem::SignKernels& kernels, const std::vector<std::uint8_t>& signs,
              std::size_t panels, std::size_t bytes, const std::vector<std::uint8_t>& fours,
              std::uint16_t limit) {
    std::vector<std::uint8_t> own(kernels.prepare == nullptr ? 0 : kernels.table_bytes(bytes));
    if (kernels.prepare != nullptr) {
        kernels.prepare(fours.data(), bytes, own.data());
    }
    Seen seen{std::vector<std::uint16_t>(panels * procmem::sign_rows),
              std::vector<std::uint64_t>(panels)};
    procmem::SignBlock block{};
    block.panels = signs.data();
    block.count = panels;
    block.bytes = bytes;
    block.tables = kernels.prepare == nullptr ? fours.data() : own.data();
    block.limit = limit;
    block.distances = seen.first.data();
    block.within = seen.second.data();
    kernels.compare(block);
    return seen;
}

// One block of random signs, compared by all.
bool agree(std::size_t panels, std::size_t bytes, int most) {
    const std::size_t rows = panels * procmem::sign_rows;
    std::vector<std::uint8_t> signs(rows * bytes);
    for (std::uint8_t& byte : signs) {
        byte = static_cast<std::uint8_t>(between(0, 255));
    }
    std::vector<std::uint8_t> tables(2 * bytes * procmem::sign_entries, 0);
    for (std::size_t table = 0; table < 2 * bytes; ++table) {
        fill(tables.data() + table * procmem::sign_entries, most);
    }
    const auto limit = static_cast<std::uint16_t>(between(0, static_cast<int>(8 * bytes) * most));
    Seen seen[3];
    const procmem::SignKernels* const kernels[] = {&procmem::signs_scalar, &procmem::signs_avx512,
                                                   &procmem::signs_vbmi};
    for (int path = 0; path < 3; ++path) {
        seen[path] = compared(*kernels[path], signs, panels, bytes, tables, limit);
    }
    return seen[0] == seen[1] && seen[0] == seen[2];
}

}  // namespace

int main() {
    for (int round = 0; round < 300; ++round) {
        const auto panels = static_cast<std::size_t>(between(1, 8));
        // Among them the widest, whose distances take all 16 bits.
        const auto bytes = static_cast<std::size_t>(round % 50 == 0 ? 2730 : between(1, 60));
        if (!agree(panels, bytes, round % 5 == 0 ? 3 : between(0, 3))) {
            std::printf("round %d: %zu panels of %zu bytes differ\n", round, panels, bytes);
            return 1;
        }
    }
    std::printf("300 rounds agree\n");
}
