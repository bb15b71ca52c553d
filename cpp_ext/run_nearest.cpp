// The nearest rows by three looks, each at fewer of them and closer: at the signs of all, at the
// bytes of those whose signs are like the query's, at the rows themselves of the nearest by bytes.

#include <cmath>
#include <new>
#include <numeric>

#include "blocks.hpp"
#include "topk.hpp"

namespace procmem {
namespace {

// How many of the rows that were looked at by bytes are looked at anew: enough to find the nearest
// ones among them in spite of what rounding moves, and full panels of every path (its tail of a
// panel takes as long as a whole one).
std::size_t closer_rows(std::size_t k) { return round_up(2 * k + 16, 32); }

// A query in bytes, as round_rows makes them of rows, and where its sums begin.
class Code {
  public:
    Code(const Int8Kernels& kernels, std::size_t width) : bias_(kernels.bias), bytes_(width) {}

    void take(const float* query, float unit) {
        const float inverse = 1.0f / unit;
        offset_ = 0;
        for (std::size_t d = 0; d < bytes_.size(); ++d) {
            const float clipped = std::max(-most_code, std::min(most_code, query[d] * inverse));
            bytes_[d] = static_cast<std::int8_t>(std::nearbyint(clipped));
            offset_ -= bias_ * bytes_[d];
        }
    }

    const std::int8_t* bytes() const { return bytes_.data(); }
    std::int32_t offset() const { return offset_; }

  private:
    std::int32_t bias_;
    std::vector<std::int8_t> bytes_;
    std::int32_t offset_ = 0;
};

// What the product with a row is likely to be by how far their signs differ.
//
// Of a row 1 long whose product with its own signs is that of the query, relative to its length:
// the product is that of the query with the row's signs over it, and deviates from that by a nearly
// normal error (Gao and Long, "RaBitQ", 2024, theorem 3.2, who turn the vectors first).
class Expectation {
  public:
    Expectation(const float* query, std::size_t width)
        : root_(std::sqrt(static_cast<double>(width))) {
        double squares = 0;
        for (std::size_t d = 0; d < width; ++d) {
            const auto element = static_cast<double>(query[d]);
            sizes_ += std::fabs(element);
            squares += element * element;
        }
        length_ = std::sqrt(squares);
        own_ = sizes_ / (length_ * root_);
        deviation_ = length_ * std::sqrt(std::max(0.0, 1 - own_ * own_));
    }

    // What the product with a row at this distance hardly ever exceeds; of a query of zeros NaN,
    // which is below nothing. A distance counts half of the query's root mean square (see Query in
    // run_signs.cpp).
    double most(std::uint16_t distance) const {
        const double with_signs = sizes_ - length_ / root_ * distance;
        return (with_signs + deviations * deviation_) / (own_ * root_);
    }

  private:
    static constexpr double deviations = 4;

    double root_;
    double sizes_ = 0;
    double length_;
    double own_;  // the query's product with its own signs; 1 at most, 0.8 of normal elements
    double deviation_;
};

// In ascending order of distance; those of one distance as they came.
std::vector<LikeRow> by_distance(const std::vector<LikeRow>& rows) {
    const auto [least, most] = std::minmax_element(
        rows.begin(), rows.end(),
        [](const LikeRow& a, const LikeRow& b) { return a.distance < b.distance; });
    std::vector<std::size_t> places(std::size_t{most->distance} - least->distance + 2, 0);
    for (const LikeRow& one : rows) {
        ++places[std::size_t{one.distance} - least->distance + 1];
    }
    std::partial_sum(places.begin(), places.end(), places.begin());
    std::vector<LikeRow> sorted(rows.size());
    for (const LikeRow& one : rows) {
        sorted[places[std::size_t{one.distance} - least->distance]++] = one;
    }
    return sorted;
}

// The `count` of some rows whose bytes have the largest product with the query's, ascending. Those
// whose signs leave them no chance are not looked at.
std::vector<std::int64_t> nearest_by_bytes(const Int8Kernels& kernels, const Code& query,
                                           const Expectation& expected, Rows<std::int8_t> codes,
                                           float unit, const std::vector<LikeRow>& like,
                                           std::size_t count) {
    const std::vector<LikeRow> rows = by_distance(like);
    const double square = static_cast<double>(unit) * static_cast<double>(unit);
    std::vector<Entry<std::int32_t>> heap(count);
    std::size_t held = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const bool is_farther = i > 0 && rows[i].distance > rows[i - 1].distance;
        if (is_farther && held == count &&
            expected.most(rows[i].distance) < square * heap[0].similarity) {
            break;
        }
        const LikeRow& next = rows[std::min(i + rows_ahead, rows.size() - 1)];
        const std::int8_t* ahead = codes.data + next.row * codes.columns;
        for (std::size_t d = 0; d < codes.columns; d += cache_line) {
            fetch(ahead + d, 0);
        }
        const std::int8_t* code = codes.data + rows[i].row * codes.columns;
        offer(heap.data(), held, count,
              Entry<std::int32_t>{kernels.dot(query.bytes(), code, codes.columns, query.offset()),
                                  static_cast<std::int64_t>(rows[i].row)});
    }
    std::vector<std::int64_t> found(count);
    std::transform(heap.begin(), heap.end(), found.begin(),
                   [](const Entry<std::int32_t>& one) { return one.index; });
    std::sort(found.begin(), found.end());
    return found;
}

// The answer to one query.
Status nearest_of_one(const Paths& paths, Rows<float> query, const Looks& memory, const bool* keep,
                      std::size_t likely, std::size_t k, std::size_t threads, Code& code,
                      std::int64_t* indices, float* similarities) {
    if (!is_finite(query.data, query.columns)) {
        return {Problem::queries_not_finite, 0};
    }
    const std::vector<LikeRow> like =
        like_signs(paths.signs, memory.signs, query.data, query.columns, keep, likely, threads);
    code.take(query.data, memory.unit);
    const std::vector<std::int64_t> near =
        nearest_by_bytes(paths.int8, code, Expectation(query.data, query.columns), memory.codes,
                         memory.unit, like, std::min(closer_rows(k), like.size()));
    for (const std::int64_t row : near) {
        if (memory.scales != nullptr && !std::isfinite(memory.scales[row])) {
            return {Problem::scales_not_finite, static_cast<std::size_t>(row)};
        }
    }
    return topk(paths.floats, query, memory.rows, memory.scales,
                Selection(near.data(), near.size()), k, 1, indices, similarities);
}

}  // namespace

Status nearest_by_signs(const Paths& paths, Rows<float> queries, const Looks& memory,
                        const bool* keep, std::size_t likely, std::size_t k, std::size_t threads,
                        std::int64_t* indices, float* similarities) {
    const std::size_t width = queries.columns;
    const double bytes = static_cast<double>(memory.rows.rows) *
                         static_cast<double>(memory.signs.bytes * queries.rows);
    const std::size_t team = usable_threads(threads, queries.rows, bytes);
    std::vector<Status> ends(queries.rows, Status{Problem::none, 0});
    std::atomic<std::size_t> next_query{0};
    std::atomic<bool> is_out_of_memory{false};
    run_on(team, [&](std::size_t) {
        try {
            Code code(paths.int8, width);
            for (;;) {
                const std::size_t query = next_query.fetch_add(1);
                if (query >= queries.rows) {
                    break;
                }
                // Alone a query has all threads, among others one.
                ends[query] =
                    nearest_of_one(paths, Rows<float>{queries.data + query * width, 1, width},
                                   memory, keep, likely, k, team > 1 ? 1 : threads, code,
                                   indices + query * k, similarities + query * k);
            }
        } catch (const std::bad_alloc&) {  // would end the process if it left a thread
            is_out_of_memory = true;
        }
    });
    if (is_out_of_memory) {
        throw std::bad_alloc();
    }
    for (std::size_t query = 0; query < queries.rows; ++query) {
        if (ends[query].problem == Problem::queries_not_finite) {
            return {Problem::queries_not_finite, query};
        }
        if (ends[query].problem != Problem::none) {
            return ends[query];
        }
    }
    return {Problem::none, 0};
}

}  // namespace procmem
