// What is known of each row before any query: what makes it 1 long, and its copy in bytes. A row's
// own numbers decide, so that neither the rows beside it nor threads can show.

#include <cmath>

#include "blocks.hpp"

namespace procmem {
namespace {

constexpr std::size_t lanes = 16;        // sums side by side, for any processor to add at once
constexpr std::size_t rows_at_once = 64;  // that a worker claims

// Calls work(row, its numbers as float) for every row.
template <class Work>
void each_row(const Kernels& kernels, Rows<Half> rows, std::size_t threads, const Work& work) {
    const double cost = static_cast<double>(rows.rows) * static_cast<double>(rows.columns);
    const std::size_t parts = (rows.rows + rows_at_once - 1) / rows_at_once;
    const std::size_t team = usable_threads(threads, parts, cost);
    Scratch<float> scratch(team * rows.columns);
    std::atomic<std::size_t> next_row{0};
    run_on(team, [&](std::size_t worker) {
        float* wide = scratch.data() + worker * rows.columns;
        for (;;) {
            const std::size_t first = next_row.fetch_add(rows_at_once);
            if (first >= rows.rows) {
                break;
            }
            for (std::size_t row = first; row < std::min(first + rows_at_once, rows.rows); ++row) {
                kernels.widen(rows.data + row * rows.columns, rows.columns, wide);
                work(row, wide);
            }
        }
    });
}

// The sum of f(d) over all d, in an order that depends on their number alone.
template <class Number, class Function>
Number sum(std::size_t count, const Function& f) {
    Number sums[lanes] = {};
    std::size_t d = 0;
    for (; d + lanes <= count; d += lanes) {
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            sums[lane] += f(d + lane);
        }
    }
    for (std::size_t lane = 0; d < count; ++d, ++lane) {
        sums[lane] += f(d);
    }
    Number total = 0;
    for (const Number& one : sums) {
        total += one;
    }
    return total;
}

// No less than the root of a sum of squares is, for all rounding.
inline float bound_of(float squares) { return std::sqrt(squares) * 1.0001f + 1e-6f; }

}  // namespace

void unit_scales(const Kernels& kernels, Rows<Half> rows, std::size_t threads, float* scales) {
    each_row(kernels, rows, threads, [&](std::size_t row, const float* wide) {
        // Exact, hence free of the order: halves are multiples of 2^-24, their squares of 2^-48,
        // and sums below 32 of those fit into the 53 bits of a double.
        const auto squares = sum<double>(rows.columns, [&](std::size_t d) {
            return static_cast<double>(wide[d]) * static_cast<double>(wide[d]);
        });
        scales[row] = squares > 0 ? static_cast<float>(1.0 / std::sqrt(squares)) : 0.0f;
    });
}

void round_rows(const Kernels& kernels, Rows<Half> rows, const float* scales, float unit,
                std::size_t threads, std::int8_t* codes, float* errors, float* lengths) {
    constexpr float most = most_code;
    constexpr float whole = 12582912.0f;  // 1.5 * 2^23: added and taken away, it leaves an integer
    const float inverse = 1.0f / unit;
    each_row(kernels, rows, threads, [&](std::size_t row, float* wide) {
        const float scale = scales[row];
        std::int8_t* own = codes + row * rows.columns;
        const auto length = sum<float>(rows.columns, [&](std::size_t d) {
            wide[d] *= scale;
            return wide[d] * wide[d];
        });
        const auto error = sum<float>(rows.columns, [&](std::size_t d) {
            const float clipped = std::max(-most, std::min(most, wide[d] * inverse));
            const float code = (clipped + whole) - whole;
            own[d] = static_cast<std::int8_t>(code);
            const float off = code * unit - wide[d];
            return off * off;
        });
        errors[row] = bound_of(error);
        lengths[row] = bound_of(length);
    });
}

}  // namespace procmem
