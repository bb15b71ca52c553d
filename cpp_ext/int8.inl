// The int8 kernel, written once over small vector types and compiled per instruction set.
//
// Four bytes of a row, a quad, are what the instructions multiply and add up in one 32-bit lane.
// The including file defines, in namespace procmem and an unnamed namespace: `Sums` (32-bit lanes)
// with `width`, `tile_rows`, begin_sums, store, any_greater; `Quads` (one quad of `Sums::width`
// rows) with load_quads and pack_quads; `Query` with load_query; multiply_add; dot; and `flipped`,
// the bits of a row's bytes that packing turns over. All of it is exact integer arithmetic, so that
// every path gives the same numbers.

#include "topk.hpp"

namespace procmem {
namespace {

constexpr std::size_t quad_bytes = 4;
constexpr std::size_t panel_vectors = 2;
constexpr std::size_t panel_rows = panel_vectors * Sums::width;
constexpr std::size_t vector_bytes = Sums::width * quad_bytes;
constexpr std::size_t panel_bytes = panel_rows * quad_bytes;
// With few queries, whose rows are not packed, memory is read faster than the processor foresees.
constexpr std::size_t bytes_ahead = 8 * 1024;

inline std::size_t smaller(std::size_t a, std::size_t b) noexcept { return a < b ? a : b; }

inline std::size_t quads_of(std::size_t width) noexcept {
    return (width + quad_bytes - 1) / quad_bytes;
}

inline std::size_t tile_size(std::size_t remaining) noexcept {
    return remaining > 4 ? tile_rows : remaining > 1 ? 4 : 1;
}

// Byte by byte; zero beyond the row's end.
inline void copy_quad(const std::int8_t* row, std::size_t at, std::size_t width,
                      std::int8_t* target, int bits) noexcept {
    for (std::size_t i = 0; i < quad_bytes; ++i) {
        target[i] = static_cast<std::int8_t>((at + i < width ? row[at + i] : 0) ^ bits);
    }
}

void pack_queries(const std::int8_t* queries, std::size_t count, std::size_t width,
                  std::int8_t* packed) noexcept {
    const std::size_t quads = quads_of(width);
    for (std::size_t first = 0; first < count;) {
        const std::size_t tile = tile_size(count - first);
        std::int8_t* target = packed + first * quads * quad_bytes;
        for (std::size_t quad = 0; quad < quads; ++quad) {
            for (std::size_t r = 0; r < tile; ++r) {
                // Rows beyond the last repeat it; nobody reads their sums.
                const std::size_t row = smaller(first + r, count - 1);
                copy_quad(queries + row * width, quad * quad_bytes, width,
                          target + (quad * tile + r) * quad_bytes, 0);
            }
        }
        first += tile;
    }
}

// packed[quad][row] = four bytes of a row; zero for rows beyond `rows`.
inline void pack_panel(const std::int8_t* memory, std::size_t rows, std::size_t width,
                       std::int8_t* packed) noexcept {
    const std::size_t quads = quads_of(width);
    std::size_t quad = 0;
    if (rows == panel_rows) {
        for (; (quad + 4) * quad_bytes <= width; quad += 4) {
            for (std::size_t v = 0; v < panel_vectors; ++v) {
                pack_quads(memory + v * Sums::width * width + quad * quad_bytes, width,
                           packed + quad * panel_bytes + v * vector_bytes, panel_bytes);
            }
        }
    }
    for (; quad < quads; ++quad) {
        for (std::size_t row = 0; row < panel_rows; ++row) {
            const bool is_there = row < rows;
            copy_quad(memory + (is_there ? row * width : 0), quad * quad_bytes,
                      is_there ? width : 0, packed + quad * panel_bytes + row * quad_bytes,
                      flipped);
        }
    }
}

template <std::size_t R>
void multiply_tile(const std::int8_t* queries, const std::int32_t* offsets, const std::int8_t* rows,
                   std::size_t quads, std::int32_t* out) noexcept {
    Sums sums[R][panel_vectors];
    for (std::size_t r = 0; r < R; ++r) {
        for (std::size_t v = 0; v < panel_vectors; ++v) {
            sums[r][v] = begin_sums(offsets[r]);
        }
    }
    for (std::size_t quad = 0; quad < quads; ++quad) {
        Quads columns[panel_vectors];
        for (std::size_t v = 0; v < panel_vectors; ++v) {
            columns[v] = load_quads(rows + quad * panel_bytes + v * vector_bytes);
        }
        for (std::size_t r = 0; r < R; ++r) {
            const Query query = load_query(queries + (quad * R + r) * quad_bytes);
            for (std::size_t v = 0; v < panel_vectors; ++v) {
                sums[r][v] = multiply_add(query, columns[v], sums[r][v]);
            }
        }
    }
    for (std::size_t r = 0; r < R; ++r) {
        for (std::size_t v = 0; v < panel_vectors; ++v) {
            store(out + r * panel_rows + v * Sums::width, sums[r][v]);
        }
    }
}

void topk_block(const Int8Block& block) noexcept {
    if (block.query_count <= few_queries) {
        for (std::size_t row = 0; row < block.rows; ++row) {
            const std::int8_t* memory = block.memory + row * block.width;
            for (std::size_t d = 0; d < block.width; d += cache_line) {
                fetch(memory + d, bytes_ahead);
            }
            for (std::size_t query = 0; query < block.query_count; ++query) {
                const std::int32_t product = dot(block.plain_queries + query * block.width, memory,
                                                 block.width, block.offsets[query]);
                if (product > block.thresholds[query]) {
                    offer_products(block, query, row, 1, &product);
                }
            }
        }
        return;
    }
    const std::size_t quads = quads_of(block.width);
    const std::size_t row_bytes = quads * quad_bytes;
    for (std::size_t row = 0; row < block.rows; row += panel_rows) {
        pack_panel(block.memory + row * block.width, smaller(block.rows - row, panel_rows),
                   block.width, block.packed + row * row_bytes);
    }
    std::int32_t products[tile_rows * panel_rows];
    for (std::size_t first = 0; first < block.query_count;) {
        const std::size_t tile = tile_size(block.query_count - first);
        const std::size_t in_tile = smaller(tile, block.query_count - first);
        const std::int8_t* queries = block.queries + first * row_bytes;
        const std::int32_t* offsets = block.offsets + first;
        for (std::size_t row = 0; row < block.rows; row += panel_rows) {
            const std::int8_t* rows = block.packed + row * row_bytes;
            if (tile == tile_rows) {
                multiply_tile<tile_rows>(queries, offsets, rows, quads, products);
            } else if (tile == 4) {
                multiply_tile<4>(queries, offsets, rows, quads, products);
            } else {
                multiply_tile<1>(queries, offsets, rows, quads, products);
            }
            const std::size_t in_panel = smaller(block.rows - row, panel_rows);
            for (std::size_t r = 0; r < in_tile; ++r) {
                const std::int32_t* line = products + r * panel_rows;
                if (any_greater(line, block.thresholds[first + r])) {
                    offer_products(block, first + r, row, in_panel, line);
                }
            }
        }
        first += tile;
    }
}

}  // namespace
}  // namespace procmem
