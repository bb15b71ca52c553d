// The portable path for int8 rows: one plain loop that compilers turn into what the machine has.

#include "topk.hpp"

namespace procmem {
namespace {

std::int32_t dot(const std::int8_t* query, const std::int8_t* row, std::size_t width,
                 std::int32_t offset) noexcept {
    std::int32_t sum = offset;
    for (std::size_t d = 0; d < width; ++d) {
        sum += query[d] * row[d];
    }
    return sum;
}

// Rows are read as they stand.
void pack_queries(const std::int8_t*, std::size_t, std::size_t, std::int8_t*) noexcept {}

void topk_block(const Int8Block& block) noexcept {
    for (std::size_t row = 0; row < block.rows; ++row) {
        const std::int8_t* memory = block.memory + row * block.width;
        for (std::size_t query = 0; query < block.query_count; ++query) {
            const std::int32_t product =
                dot(block.plain_queries + query * block.width, memory, block.width, 0);
            if (product > block.thresholds[query]) {
                offer_products(block, query, row, 1, &product);
            }
        }
    }
}

}  // namespace

const Int8Kernels int8_scalar = {"scalar", 0, 1, 1, pack_queries, topk_block, dot};

}  // namespace procmem
