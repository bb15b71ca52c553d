// Mix: each group of queries belongs to one worker, which walks all blocks in order, so that
// threads cannot show.

#include <cmath>

#include "blocks.hpp"

namespace procmem {
namespace {

// The largest |value| among kept rows, as bits.
std::uint32_t kept_magnitude_bits(Rows<float> values, const bool* keep) {
    std::uint32_t largest = 0;
    for (std::size_t row = 0; row < values.rows; ++row) {
        if (keep == nullptr || keep[row]) {
            largest = std::max(largest,
                               magnitude_bits(values.data + row * values.columns, values.columns));
        }
    }
    return largest;
}

// The values of a block's rows, copied together where they do not stand together.
template <class Stored>
const float* block_values(const Blocks<Stored, float>& source, Rows<float> values,
                          float* gathered) {
    const std::int64_t* indices = source.indices();
    if (indices == nullptr) {
        return values.data + source.first() * values.columns;
    }
    for (std::size_t row = 0; row < source.rows(); ++row) {
        std::memcpy(gathered + row * values.columns,
                    values.data + static_cast<std::size_t>(indices[row]) * values.columns,
                    values.columns * sizeof(float));
    }
    return gathered;
}

}  // namespace

template <class Stored>
Status mix(const Kernels& kernels, Rows<float> queries, Rows<Stored> memory, Rows<float> values,
           const bool* keep, float scale, std::size_t threads, float* mixed) {
    const std::size_t width = queries.columns;
    const std::size_t value_width = values.columns;
    const std::uint32_t query_bits = magnitude_bits(queries.data, queries.rows * width);
    if (query_bits >= infinity_bits) {
        return {Problem::queries_not_finite, first_bad_row(queries, nullptr)};
    }
    const std::uint32_t value_bits = kept_magnitude_bits(values, keep);
    if (value_bits >= infinity_bits) {
        return {Problem::values_not_finite, first_bad_row(values, keep)};
    }
    if (may_overflow(static_cast<double>(memory.rows) * as_double(value_bits))) {
        return {Problem::sum_overflow, 0};
    }

    const std::size_t rows = block_rows(kernels.panel, width * sizeof(float));
    const std::size_t tiles = (queries.rows + kernels.tile - 1) / kernels.tile;
    const std::size_t team =
        usable_threads(threads, tiles,
                       static_cast<double>(queries.rows) * static_cast<double>(memory.rows) *
                           static_cast<double>(width + value_width));
    // Whole tiles, shared evenly; a group's sums (V doubles per query) should stay near the core.
    const std::size_t group = std::min<std::size_t>((tiles + team - 1) / team, 8) * kernels.tile;

    Scratch<float> packed_queries(team * group * width);
    Scratch<float> packed_memory(team * rows * width);
    Scratch<float> gathered(keep == nullptr ? 0 : team * rows * value_width);
    Scratch<float> scores(team * kernels.tile * rows);
    Scratch<float> weights(team * kernels.tile * rows);
    Scratch<float> value_tail(team * kernels.panel * rows);
    std::vector<float> maxima(team * group);
    std::vector<double> totals(team * group);
    std::vector<double> sums(team * group * value_width);
    std::vector<std::uint32_t> memory_bits(team, 0);
    std::vector<Blocks<Stored, float>> sources;
    for (std::size_t worker = 0; worker < team; ++worker) {
        sources.emplace_back(memory, keep, rows, &kernels);
    }

    std::atomic<std::size_t> next_group{0};
    run_on(team, [&](std::size_t worker) {
        MixBlock block{};
        float* packed = packed_queries.data() + worker * group * width;
        block.queries = packed;
        block.width = width;
        block.value_width = value_width;
        block.scale = scale;
        block.packed = packed_memory.data() + worker * rows * width;
        block.scores = scores.data() + worker * kernels.tile * rows;
        block.weights = weights.data() + worker * kernels.tile * rows;
        block.value_tail = value_tail.data() + worker * kernels.panel * rows;
        block.maxima = maxima.data() + worker * group;
        block.totals = totals.data() + worker * group;
        block.sums = sums.data() + worker * group * value_width;
        float* gather = gathered.data() + (keep == nullptr ? 0 : worker * rows * value_width);
        for (;;) {
            const std::size_t first = next_group.fetch_add(1) * group;
            if (first >= queries.rows) {
                break;
            }
            block.query_count = std::min(group, queries.rows - first);
            kernels.pack_queries(queries.data + first * width, block.query_count, width, packed);
            std::fill_n(block.maxima, group, -std::numeric_limits<float>::infinity());
            std::fill_n(block.totals, group, 0.0);
            std::fill_n(block.sums, group * value_width, 0.0);
            Blocks<Stored, float>& source = sources[worker];
            std::atomic<std::size_t> next_part{0};  // shared with nobody
            for (source.restart(); source.advance(next_part);) {
                block.memory = source.data();
                block.rows = source.rows();
                block.values = block_values(source, values, gather);
                memory_bits[worker] = std::max(memory_bits[worker], kernels.mix_block(block));
            }
            for (std::size_t query = 0; query < block.query_count; ++query) {
                for (std::size_t v = 0; v < value_width; ++v) {
                    mixed[(first + query) * value_width + v] = static_cast<float>(
                        block.sums[query * value_width + v] / block.totals[query]);
                }
            }
        }
    });

    // What was computed of such numbers is not looked at.
    const std::uint32_t largest_bits = *std::max_element(memory_bits.begin(), memory_bits.end());
    if (largest_bits >= infinity_bits) {
        return {Problem::memory_not_finite, first_bad_row(memory, keep)};
    }
    const double largest =
        static_cast<double>(width) * as_double(query_bits) * as_double(largest_bits);
    if (may_overflow(largest * std::max(1.0, std::fabs(static_cast<double>(scale))))) {
        return {Problem::similarity_overflow, 0};
    }
    return {Problem::none, 0};
}

template Status mix(const Kernels&, Rows<float>, Rows<float>, Rows<float>, const bool*, float,
                    std::size_t, float*);
template Status mix(const Kernels&, Rows<float>, Rows<Half>, Rows<float>, const bool*, float,
                    std::size_t, float*);
template Status mix(const Kernels&, Rows<float>, Rows<std::int8_t>, Rows<float>, const bool*, float,
                    std::size_t, float*);

}  // namespace procmem
