// Cuts a call into blocks and threads, owns all scratch memory, and joins the parts.
//
// The parts are joined so that threads cannot show: top-k by a total order, mix by giving each
// query to one thread that walks all blocks in order.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <system_error>
#include <thread>

#include "kernels.hpp"
#include "patchsim.hpp"
#include "topk.hpp"

namespace procmem {
namespace {

constexpr std::uint32_t infinity_bits = 0x7f800000u;
constexpr std::size_t block_bytes = 256 * 1024;  // of packed memory rows; fits a core's L2
constexpr std::size_t most_block_rows = 1024;
constexpr std::size_t most_queries_at_once = 1024;    // packing is repeated per group of queries
constexpr std::size_t most_heap_entries = 4'000'000;  // over all threads, 64 MB
constexpr double work_per_thread = 2e6;  // multiply-adds; starting a thread costs ~20 us

// Uninitialized floats that start at a cache line.
class Scratch {
  public:
    explicit Scratch(std::size_t count) : storage_(new float[count + 16]), count_(count) {}
    float* data() {
        void* start = storage_.get();
        std::size_t room = (count_ + 16) * sizeof(float);
        return static_cast<float*>(std::align(64, count_ * sizeof(float), start, room));
    }

  private:
    std::unique_ptr<float[]> storage_;
    std::size_t count_;
};

std::size_t round_up(std::size_t value, std::size_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

std::size_t block_rows(const Kernels& kernels, std::size_t width) {
    const std::size_t fitting = block_bytes / (width * sizeof(float)) / kernels.panel;
    return std::clamp<std::size_t>(fitting, 1, most_block_rows / kernels.panel) * kernels.panel;
}

std::size_t usable_threads(std::size_t wanted, std::size_t parts, double work) {
    const std::size_t all = wanted > 0 ? wanted : std::thread::hardware_concurrency();
    const double worthwhile = std::max(1.0, work / work_per_thread);
    std::size_t threads = std::max<std::size_t>(1, std::min(all, parts));
    if (static_cast<double>(threads) > worthwhile) {
        threads = static_cast<std::size_t>(worthwhile);
    }
    return threads;
}

// Runs work(0) .. work(threads - 1). `work` must not throw and must share its parts by claiming, so
// that nothing is lost when the system refuses a thread.
template <class Work>
void run_on(std::size_t threads, const Work& work) {
    std::vector<std::thread> others;
    others.reserve(threads);
    try {
        for (std::size_t i = 1; i < threads; ++i) {
            others.emplace_back(work, i);
        }
    } catch (const std::system_error&) {
        // No more threads to be had: those that run, and this one, claim the rest.
    }
    work(0);
    for (std::thread& other : others) {
        other.join();
    }
}

std::uint32_t magnitude_bits(const float* data, std::size_t count) {
    std::uint32_t largest = 0;
    for (std::size_t i = 0; i < count; ++i) {
        std::uint32_t bits;
        std::memcpy(&bits, data + i, sizeof bits);
        largest = std::max(largest, bits & 0x7fffffffu);
    }
    return largest;
}

double as_double(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return static_cast<double>(value);
}

std::size_t first_bad_row(Matrix matrix) {
    for (std::size_t row = 0; row < matrix.rows; ++row) {
        if (magnitude_bits(matrix.data + row * matrix.columns, matrix.columns) >= infinity_bits) {
            return row;
        }
    }
    return matrix.rows;
}

bool may_overflow(double bound) {
    return !(bound <= static_cast<double>(std::numeric_limits<float>::max()) / 2);
}

}  // namespace

Status topk_f32(const Kernels& kernels, Matrix queries, Matrix memory, std::size_t k,
                std::size_t threads, std::int64_t* indices, float* similarities) {
    const std::size_t width = queries.columns;
    const std::uint32_t query_bits = magnitude_bits(queries.data, queries.rows * width);
    if (query_bits >= infinity_bits) {
        return {Problem::queries_not_finite, first_bad_row(queries)};
    }
    const std::size_t rows = block_rows(kernels, width);
    const std::size_t blocks = (memory.rows + rows - 1) / rows;
    const std::size_t team =
        usable_threads(threads, blocks,
                       static_cast<double>(queries.rows) * static_cast<double>(memory.rows) *
                           static_cast<double>(width));
    const std::size_t group = std::clamp<std::size_t>(most_heap_entries / (team * k), 1,
                                                      std::min(most_queries_at_once, queries.rows));

    Scratch packed_queries(round_up(group, kernels.tile) * width);
    Scratch packed_memory(team * rows * width);
    std::unique_ptr<Entry[]> heaps(new Entry[team * group * k]);
    std::vector<std::size_t> counts(team * group);
    std::vector<float> thresholds(team * group);
    std::vector<std::uint32_t> memory_bits(team, 0);

    for (std::size_t first = 0; first < queries.rows; first += group) {
        const std::size_t in_group = std::min(group, queries.rows - first);
        kernels.pack_queries(queries.data + first * width, in_group, width, packed_queries.data());
        std::fill(counts.begin(), counts.end(), 0);
        std::fill(thresholds.begin(), thresholds.end(), -std::numeric_limits<float>::infinity());

        std::atomic<std::size_t> next_block{0};
        run_on(team, [&](std::size_t worker) {
            TopkBlock block{};
            block.queries = packed_queries.data();
            block.query_count = in_group;
            block.width = width;
            block.packed = packed_memory.data() + worker * rows * width;
            block.heaps = heaps.get() + worker * group * k;
            block.counts = counts.data() + worker * group;
            block.thresholds = thresholds.data() + worker * group;
            block.k = k;
            for (;;) {
                const std::size_t start = next_block.fetch_add(1) * rows;
                if (start >= memory.rows) {
                    break;
                }
                block.memory = memory.data + start * width;
                block.rows = std::min(rows, memory.rows - start);
                block.first = static_cast<std::int64_t>(start);
                memory_bits[worker] = std::max(memory_bits[worker], kernels.topk_block(block));
            }
        });

        const std::uint32_t largest = *std::max_element(memory_bits.begin(), memory_bits.end());
        if (largest >= infinity_bits) {
            return {Problem::memory_not_finite, first_bad_row(memory)};
        }
        if (may_overflow(static_cast<double>(width) * as_double(query_bits) * as_double(largest))) {
            return {Problem::similarity_overflow, 0};
        }
        for (std::size_t query = 0; query < in_group; ++query) {
            Entry* best = heaps.get() + query * k;
            for (std::size_t worker = 1; worker < team; ++worker) {
                const Entry* found = heaps.get() + (worker * group + query) * k;
                for (std::size_t i = 0; i < counts[worker * group + query]; ++i) {
                    offer(best, counts[query], k, found[i]);
                }
            }
            sort_heap_best_first(best, counts[query]);
            for (std::size_t i = 0; i < k; ++i) {
                indices[(first + query) * k + i] = best[i].index;
                similarities[(first + query) * k + i] = best[i].similarity;
            }
        }
    }
    return {Problem::none, 0};
}

Status mix_f32(const Kernels& kernels, Matrix queries, Matrix memory, Matrix values, float scale,
               std::size_t threads, float* mixed) {
    const std::size_t width = queries.columns;
    const std::size_t value_width = values.columns;
    const std::uint32_t query_bits = magnitude_bits(queries.data, queries.rows * width);
    if (query_bits >= infinity_bits) {
        return {Problem::queries_not_finite, first_bad_row(queries)};
    }
    const std::uint32_t memory_bits = magnitude_bits(memory.data, memory.rows * width);
    if (memory_bits >= infinity_bits) {
        return {Problem::memory_not_finite, first_bad_row(memory)};
    }
    const std::uint32_t value_bits = magnitude_bits(values.data, values.rows * value_width);
    if (value_bits >= infinity_bits) {
        return {Problem::values_not_finite, first_bad_row(values)};
    }
    const double largest =
        static_cast<double>(width) * as_double(query_bits) * as_double(memory_bits);
    if (may_overflow(largest * std::max(1.0, std::fabs(static_cast<double>(scale))))) {
        return {Problem::similarity_overflow, 0};
    }
    if (may_overflow(static_cast<double>(memory.rows) * as_double(value_bits))) {
        return {Problem::sum_overflow, 0};
    }

    const std::size_t rows = block_rows(kernels, width);
    const std::size_t tiles = (queries.rows + kernels.tile - 1) / kernels.tile;
    const std::size_t team =
        usable_threads(threads, tiles,
                       static_cast<double>(queries.rows) * static_cast<double>(memory.rows) *
                           static_cast<double>(width + value_width));
    // Whole tiles, shared evenly; a group's sums (V doubles per query) should stay near the core.
    const std::size_t group = std::min<std::size_t>((tiles + team - 1) / team, 8) * kernels.tile;

    Scratch packed_queries(team * group * width);
    Scratch packed_memory(team * rows * width);
    Scratch scores(team * kernels.tile * rows);
    Scratch weights(team * kernels.tile * rows);
    Scratch value_tail(team * kernels.panel * rows);
    std::vector<float> maxima(team * group);
    std::vector<double> totals(team * group);
    std::vector<double> sums(team * group * value_width);

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
            for (std::size_t start = 0; start < memory.rows; start += rows) {
                block.memory = memory.data + start * width;
                block.values = values.data + start * value_width;
                block.rows = std::min(rows, memory.rows - start);
                kernels.mix_block(block);
            }
            for (std::size_t query = 0; query < block.query_count; ++query) {
                for (std::size_t v = 0; v < value_width; ++v) {
                    mixed[(first + query) * value_width + v] = static_cast<float>(
                        block.sums[query * value_width + v] / block.totals[query]);
                }
            }
        }
    });
    return {Problem::none, 0};
}

}  // namespace procmem
