// The kernels, written once over a small vector type and compiled per instruction set.
//
// The including file defines, in namespace procmem and an unnamed namespace: `Vec` and its `width`,
// `tile_rows`, zero, load, store, broadcast, add, subtract, multiply, multiply_add, maximum,
// any_greater, zero_below, power_of_two, load_columns, widen, and a `Magnitude` with no_magnitude,
// note and magnitude_bits_of. Everything here is lane by lane, so a result never depends on which
// lane or tile a row fell into.
//
// The product is that of a packed matrix multiplication: a panel of memory rows is transposed so
// that neighboring lanes hold neighboring rows, and a tile of queries is broadcast against it.
// The depth d is the innermost loop, unsplit: each dot product is one ordered chain.

#include <math.h>

#include "topk.hpp"

namespace procmem {
namespace {

constexpr std::size_t panel_vectors = 2;
constexpr std::size_t panel_rows = panel_vectors * Vec::width;
constexpr float minus_infinity = -INFINITY;

inline std::size_t smaller(std::size_t a, std::size_t b) noexcept { return a < b ? a : b; }

// A tile with few queries left uses a smaller register block; the chain per pair is the same.
inline std::size_t tile_size(std::size_t remaining) noexcept {
    return remaining >= tile_rows ? tile_rows : remaining > 4 ? tile_rows : remaining > 1 ? 4 : 1;
}

// out[r][c] = sum over d of queries[d][r] * rows[d][c], d ascending.
template <std::size_t R>
void multiply_tile(const float* queries, const float* rows, std::size_t row_stride,
                   std::size_t depth, float* out, std::size_t out_stride) noexcept {
    Vec sums[R][panel_vectors];
    for (std::size_t r = 0; r < R; ++r) {
        for (std::size_t v = 0; v < panel_vectors; ++v) {
            sums[r][v] = zero();
        }
    }
    for (std::size_t d = 0; d < depth; ++d) {
        Vec columns[panel_vectors];
        for (std::size_t v = 0; v < panel_vectors; ++v) {
            columns[v] = load(rows + d * row_stride + v * Vec::width);
        }
        for (std::size_t r = 0; r < R; ++r) {
            const Vec query = broadcast(queries[d * R + r]);
            for (std::size_t v = 0; v < panel_vectors; ++v) {
                sums[r][v] = multiply_add(query, columns[v], sums[r][v]);
            }
        }
    }
    for (std::size_t r = 0; r < R; ++r) {
        for (std::size_t v = 0; v < panel_vectors; ++v) {
            store(out + r * out_stride + v * Vec::width, sums[r][v]);
        }
    }
}

inline void multiply_any(std::size_t tile, const float* queries, const float* rows,
                         std::size_t row_stride, std::size_t depth, float* out,
                         std::size_t out_stride) noexcept {
    if (tile == tile_rows) {
        multiply_tile<tile_rows>(queries, rows, row_stride, depth, out, out_stride);
    } else if (tile == 4) {
        multiply_tile<4>(queries, rows, row_stride, depth, out, out_stride);
    } else {
        multiply_tile<1>(queries, rows, row_stride, depth, out, out_stride);
    }
}

// Column d of up to `Vec::width` rows, zero in the lanes beyond them.
inline Vec load_column(const float* source, std::size_t rows, std::size_t stride) noexcept {
    float lanes[Vec::width];
    for (std::size_t i = 0; i < Vec::width; ++i) {
        lanes[i] = i < rows ? source[i * stride] : 0.0f;
    }
    return load(lanes);
}

// Transposes one panel: packed[d][c] = memory[c][d], zero for rows beyond `rows`.
inline void pack_panel(const float* memory, std::size_t rows, std::size_t width, float* packed,
                       Magnitude& magnitude) noexcept {
    for (std::size_t group = 0; group < panel_rows; group += Vec::width) {
        const std::size_t in_group = rows > group ? smaller(rows - group, Vec::width) : 0;
        const float* source = memory + (in_group > 0 ? group * width : 0);
        float* target = packed + group;
        std::size_t d = 0;
        for (; in_group == Vec::width && d + 4 <= width; d += 4) {
            Vec columns[4];
            load_columns(source + d, width, columns);
            for (std::size_t j = 0; j < 4; ++j) {
                note(magnitude, columns[j]);
                store(target + (d + j) * panel_rows, columns[j]);
            }
        }
        for (; d < width; ++d) {
            const Vec column = load_column(source + d, in_group, width);
            note(magnitude, column);
            store(target + d * panel_rows, column);
        }
    }
}

// One query against a full panel, transposed in the registers: the same chains as multiply_tile.
inline void multiply_unpacked(const float* query, const float* memory, std::size_t width,
                              float* out, Magnitude& magnitude) noexcept {
    Vec sums[panel_vectors];
    for (std::size_t v = 0; v < panel_vectors; ++v) {
        sums[v] = zero();
    }
    std::size_t d = 0;
    for (; d + 4 <= width; d += 4) {
        for (std::size_t v = 0; v < panel_vectors; ++v) {
            Vec columns[4];
            load_columns(memory + v * Vec::width * width + d, width, columns);
            for (std::size_t j = 0; j < 4; ++j) {
                note(magnitude, columns[j]);
                sums[v] = multiply_add(broadcast(query[d + j]), columns[j], sums[v]);
            }
        }
    }
    for (; d < width; ++d) {
        for (std::size_t v = 0; v < panel_vectors; ++v) {
            const Vec column = load_column(memory + v * Vec::width * width + d, Vec::width, width);
            note(magnitude, column);
            sums[v] = multiply_add(broadcast(query[d]), column, sums[v]);
        }
    }
    for (std::size_t v = 0; v < panel_vectors; ++v) {
        store(out + v * Vec::width, sums[v]);
    }
}

inline std::uint32_t pack_block(const float* memory, std::size_t rows, std::size_t width,
                                float* packed) noexcept {
    Magnitude magnitude = no_magnitude();
    for (std::size_t row = 0; row < rows; row += panel_rows) {
        pack_panel(memory + row * width, smaller(rows - row, panel_rows), width,
                   packed + row * width, magnitude);
    }
    return magnitude_bits_of(magnitude);
}

void pack_queries(const float* queries, std::size_t count, std::size_t width,
                  float* packed) noexcept {
    for (std::size_t first = 0; first < count;) {
        const std::size_t tile = tile_size(count - first);
        const std::size_t in_tile = smaller(tile, count - first);
        float* target = packed + first * width;
        for (std::size_t d = 0; d < width; ++d) {
            for (std::size_t r = 0; r < tile; ++r) {
                target[d * tile + r] = r < in_tile ? queries[(first + r) * width + d] : 0.0f;
            }
        }
        first += tile;
    }
}

// Offers one query's products with the rows from `row` on, of which most are too far away.
inline void offer_panel(const TopkBlock<float, float>& block, std::size_t query, std::size_t row,
                        const float* products) noexcept {
    const Vec threshold = broadcast(block.thresholds[query]);
    bool candidate = false;
    for (std::size_t v = 0; v < panel_vectors; ++v) {
        candidate |= any_greater(load(products + v * Vec::width), threshold);
    }
    if (candidate) {
        offer_products(block, query, row, smaller(block.rows - row, panel_rows), products);
    }
}

std::uint32_t topk_block(const TopkBlock<float, float>& block) noexcept {
    float products[tile_rows * panel_rows];
    if (block.query_count == 1) {  // packing would cost more than it saves
        Magnitude magnitude = no_magnitude();
        for (std::size_t row = 0; row < block.rows; row += panel_rows) {
            const float* memory = block.memory + row * block.width;
            if (block.rows - row >= panel_rows) {
                multiply_unpacked(block.queries, memory, block.width, products, magnitude);
            } else {
                pack_panel(memory, block.rows - row, block.width, block.packed, magnitude);
                multiply_tile<1>(block.queries, block.packed, panel_rows, block.width, products,
                                 panel_rows);
            }
            offer_panel(block, 0, row, products);
        }
        return magnitude_bits_of(magnitude);
    }
    const std::uint32_t largest = pack_block(block.memory, block.rows, block.width, block.packed);
    for (std::size_t first = 0; first < block.query_count;) {
        const std::size_t tile = tile_size(block.query_count - first);
        const std::size_t in_tile = smaller(tile, block.query_count - first);
        for (std::size_t row = 0; row < block.rows; row += panel_rows) {
            multiply_any(tile, block.queries + first * block.width,
                         block.packed + row * block.width, panel_rows, block.width, products,
                         panel_rows);
            for (std::size_t r = 0; r < in_tile; ++r) {
                offer_panel(block, first + r, row, products + r * panel_rows);
            }
        }
        first += tile;
    }
    return largest;
}

// exp(x) for x <= 0 to about 2 units in the last place; exactly 0 below -87.
//
// Cody and Waite's reduction x = n ln 2 + r, |r| <= ln 2 / 2, and the polynomial of Cephes' expf.
inline Vec exponential(Vec x) noexcept {
    const Vec rounder = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const Vec shifted = multiply_add(x, broadcast(1.44269504088896341f), rounder);
    const Vec n = subtract(shifted, rounder);
    Vec r = multiply_add(n, broadcast(-0.693359375f), x);
    r = multiply_add(n, broadcast(2.12194440e-4f), r);
    Vec p = broadcast(1.9875691500e-4f);
    p = multiply_add(p, r, broadcast(1.3981999507e-3f));
    p = multiply_add(p, r, broadcast(8.3334519073e-3f));
    p = multiply_add(p, r, broadcast(4.1665795894e-2f));
    p = multiply_add(p, r, broadcast(1.6666665459e-1f));
    p = multiply_add(p, r, broadcast(5.0000001201e-1f));
    p = multiply_add(p, multiply(r, r), add(r, broadcast(1.0f)));
    return zero_below(x, -87.0f, multiply(p, power_of_two(shifted)));
}

// Turns one query's products into weights against the running maximum; returns their sum.
//
// `line` has padded columns. `rescale` is what earlier sums must be multiplied by.
double weigh(float* line, std::size_t rows, std::size_t padded, float scale, float& maximum_so_far,
             double& rescale) noexcept {
    for (std::size_t c = rows; c < padded; ++c) {
        line[c] = minus_infinity;
    }
    Vec largest = broadcast(maximum_so_far);
    for (std::size_t c = 0; c < padded; c += Vec::width) {
        Vec scores = load(line + c);
        if (c + Vec::width <= rows) {
            scores = multiply(scores, broadcast(scale));
            store(line + c, scores);
        } else {  // the padding's -infinity must not meet a scale of zero or below
            for (std::size_t lane = c; lane < smaller(rows, c + Vec::width); ++lane) {
                line[lane] = line[lane] * scale;
            }
            scores = load(line + c);
        }
        largest = maximum(largest, scores);
    }
    float lanes[Vec::width];
    store(lanes, largest);
    float new_maximum = lanes[0];
    for (std::size_t lane = 1; lane < Vec::width; ++lane) {
        new_maximum = lanes[lane] > new_maximum ? lanes[lane] : new_maximum;
    }
    rescale = exp(static_cast<double>(maximum_so_far) - static_cast<double>(new_maximum));
    maximum_so_far = new_maximum;

    Vec sum = zero();
    for (std::size_t c = 0; c < padded; c += Vec::width) {
        const Vec weights = exponential(subtract(load(line + c), broadcast(new_maximum)));
        store(line + c, weights);
        sum = add(sum, weights);
    }
    store(lanes, sum);
    double total = 0.0;
    for (std::size_t lane = 0; lane < Vec::width; ++lane) {
        total += static_cast<double>(lanes[lane]);
    }
    return total;
}

std::uint32_t mix_block(const MixBlock& block) noexcept {
    const std::size_t padded = (block.rows + panel_rows - 1) / panel_rows * panel_rows;
    const std::size_t value_tail = block.value_width % panel_rows;
    const std::size_t value_full = block.value_width - value_tail;
    const std::uint32_t largest = pack_block(block.memory, block.rows, block.width, block.packed);
    for (std::size_t n = 0; n < block.rows && value_tail > 0; ++n) {
        for (std::size_t c = 0; c < panel_rows; ++c) {
            block.value_tail[n * panel_rows + c] =
                c < value_tail ? block.values[n * block.value_width + value_full + c] : 0.0f;
        }
    }

    float products[tile_rows * panel_rows];
    double rescale[tile_rows];
    for (std::size_t first = 0; first < block.query_count;) {
        const std::size_t tile = tile_size(block.query_count - first);
        const std::size_t in_tile = smaller(tile, block.query_count - first);
        for (std::size_t row = 0; row < block.rows; row += panel_rows) {
            multiply_any(tile, block.queries + first * block.width,
                         block.packed + row * block.width, panel_rows, block.width,
                         block.scores + row, padded);
        }
        for (std::size_t r = 0; r < tile; ++r) {
            float* line = block.scores + r * padded;
            if (r < in_tile) {
                const std::size_t query = first + r;
                const double total =
                    weigh(line, block.rows, padded, block.scale, block.maxima[query], rescale[r]);
                block.totals[query] = block.totals[query] * rescale[r] + total;
            }
            for (std::size_t n = 0; n < block.rows; ++n) {
                block.weights[n * tile + r] = r < in_tile ? line[n] : 0.0f;
            }
        }
        for (std::size_t column = 0; column < block.value_width; column += panel_rows) {
            if (column < value_full) {
                multiply_any(tile, block.weights, block.values + column, block.value_width,
                             block.rows, products, panel_rows);
            } else {
                multiply_any(tile, block.weights, block.value_tail, panel_rows, block.rows,
                             products, panel_rows);
            }
            const std::size_t in_panel = smaller(block.value_width - column, panel_rows);
            for (std::size_t r = 0; r < in_tile; ++r) {
                double* sums = block.sums + (first + r) * block.value_width + column;
                for (std::size_t c = 0; c < in_panel; ++c) {
                    sums[c] =
                        sums[c] * rescale[r] + static_cast<double>(products[r * panel_rows + c]);
                }
            }
        }
        first += tile;
    }
    return largest;
}

}  // namespace
}  // namespace procmem
