// Top-k: workers claim blocks of memory rows; what they found is joined by a total order, so that
// threads cannot show.

#include <numeric>

#include "blocks.hpp"
#include "topk.hpp"

namespace procmem {
namespace {

constexpr std::size_t most_queries_at_once = 1024;    // packing is repeated per group of queries
// Listed rows are copied into a block, which few queries use once. A small one fits L1, and there is
// room for it: for a quarter of a megabyte the system is asked in every call anew, page by page.
constexpr std::size_t listed_block_bytes = 24 * 1024;
constexpr std::size_t most_heap_entries = 4'000'000;  // over all threads, 64 MB

// How one call is cut up.
struct Plan {
    std::size_t rows;   // in a block
    std::size_t team;   // threads
    std::size_t group;  // queries at once
};

template <class Element>
Plan plan(Rows<Element> queries, std::size_t memory, const Selection& selection,
          std::size_t row_bytes, std::size_t panel, std::size_t k, std::size_t threads) {
    const bool is_small = selection.rows != nullptr && queries.rows <= few_queries;
    const std::size_t count = selected(memory, selection);
    const std::size_t rows =
        std::min(block_rows(panel, row_bytes, is_small ? listed_block_bytes : block_bytes),
                 round_up(count, panel));
    const double work = static_cast<double>(queries.rows) * static_cast<double>(count) *
                        static_cast<double>(queries.columns);
    const std::size_t team = usable_threads(threads, (count + rows - 1) / rows, work);
    const std::size_t group = std::clamp<std::size_t>(most_heap_entries / (team * k), 1,
                                                      std::min(most_queries_at_once, queries.rows));
    return {rows, team, group};
}

// The k best of each query of a group, a heap for every worker.
template <class Similarity>
class Heaps {
  public:
    Heaps(const Plan& plan, std::size_t k)
        : plan_(plan),
          k_(k),
          entries_(new Entry<Similarity>[plan.team * plan.group * k]),
          counts_(plan.team * plan.group),
          thresholds_(plan.team * plan.group) {}

    void clear() {
        std::fill(counts_.begin(), counts_.end(), 0);
        using Limits = std::numeric_limits<Similarity>;
        std::fill(thresholds_.begin(), thresholds_.end(),
                  Limits::has_infinity ? -Limits::infinity() : Limits::lowest());
    }

    template <class Element>
    void lend(std::size_t worker, TopkBlock<Element, Similarity>& block) {
        block.heaps = entries_.get() + worker * plan_.group * k_;
        block.counts = counts_.data() + worker * plan_.group;
        block.thresholds = thresholds_.data() + worker * plan_.group;
        block.k = k_;
    }

    // Joins the workers' heaps of `queries` queries and writes them, best first.
    void write(std::size_t queries, std::int64_t* indices, Similarity* similarities) {
        for (std::size_t query = 0; query < queries; ++query) {
            Entry<Similarity>* best = entries_.get() + query * k_;
            for (std::size_t worker = 1; worker < plan_.team; ++worker) {
                const std::size_t heap = worker * plan_.group + query;
                for (std::size_t i = 0; i < counts_[heap]; ++i) {
                    offer(best, counts_[query], k_, entries_[heap * k_ + i]);
                }
            }
            sort_heap_best_first(best, counts_[query]);
            for (std::size_t i = 0; i < k_; ++i) {
                indices[query * k_ + i] = best[i].index;
                similarities[query * k_ + i] = best[i].similarity;
            }
        }
    }

  private:
    Plan plan_;
    std::size_t k_;
    std::unique_ptr<Entry<Similarity>[]> entries_;
    std::vector<std::size_t> counts_;
    std::vector<Similarity> thresholds_;
};

template <class Source, class Block>
void show(const Source& source, Block& block) {
    block.memory = source.data();
    block.rows = source.rows();
    block.first = static_cast<std::int64_t>(source.first());
    block.indices = source.indices();
}

}  // namespace

template <class Stored>
Status topk(const Kernels& kernels, Rows<float> queries, Rows<Stored> memory, const float* scales,
            Selection selection, std::size_t k, std::size_t threads, std::int64_t* indices,
            float* similarities) {
    const std::size_t width = queries.columns;
    const std::uint32_t query_bits = magnitude_bits(queries.data, queries.rows * width);
    if (query_bits >= infinity_bits) {
        return {Problem::queries_not_finite, first_bad_row(queries, nullptr)};
    }
    const Plan parts =
        plan(queries, memory.rows, selection, width * sizeof(float), kernels.panel, k, threads);
    Scratch<float> packed_queries(round_up(parts.group, kernels.tile) * width);
    Scratch<float> packed_memory(parts.team * parts.rows * width);
    Heaps<float> heaps(parts, k);
    std::vector<std::uint32_t> memory_bits(parts.team, 0);
    std::vector<Blocks<Stored, float>> sources;
    for (std::size_t worker = 0; worker < parts.team; ++worker) {
        sources.emplace_back(memory, selection, parts.rows, &kernels, scales);
    }

    for (std::size_t first = 0; first < queries.rows; first += parts.group) {
        const std::size_t in_group = std::min(parts.group, queries.rows - first);
        kernels.pack_queries(queries.data + first * width, in_group, width, packed_queries.data());
        heaps.clear();
        std::atomic<std::size_t> next_part{0};
        run_on(parts.team, [&](std::size_t worker) {
            TopkBlock<float, float> block{};
            block.queries = packed_queries.data();
            block.query_count = in_group;
            block.width = width;
            block.packed = packed_memory.data() + worker * parts.rows * width;
            heaps.lend(worker, block);
            Blocks<Stored, float>& source = sources[worker];
            for (source.restart(); source.advance(next_part);) {
                show(source, block);
                memory_bits[worker] = std::max(memory_bits[worker], kernels.topk_block(block));
            }
        });

        const std::uint32_t largest = *std::max_element(memory_bits.begin(), memory_bits.end());
        if (largest >= infinity_bits) {
            return {Problem::memory_not_finite, first_bad_row(memory, selection)};
        }
        if (may_overflow(static_cast<double>(width) * as_double(query_bits) * as_double(largest))) {
            return {Problem::similarity_overflow, 0};
        }
        heaps.write(in_group, indices + first * k, similarities + first * k);
    }
    return {Problem::none, 0};
}

template Status topk(const Kernels&, Rows<float>, Rows<float>, const float*, Selection, std::size_t,
                     std::size_t, std::int64_t*, float*);
template Status topk(const Kernels&, Rows<float>, Rows<Half>, const float*, Selection, std::size_t,
                     std::size_t, std::int64_t*, float*);

void topk(const Int8Kernels& kernels, Rows<std::int8_t> queries, Rows<std::int8_t> memory,
          Selection selection, std::size_t k, std::size_t threads, std::int64_t* indices,
          std::int32_t* similarities) {
    const std::size_t width = queries.columns;
    const std::size_t padded_width = round_up(width, 4);
    const Plan parts =
        plan(queries, memory.rows, selection, padded_width, kernels.panel, k, threads);
    const std::size_t padded_group = round_up(parts.group, kernels.tile);
    Scratch<std::int8_t> packed_queries(padded_group * padded_width);
    Scratch<std::int8_t> packed_memory(parts.team * parts.rows * padded_width);
    std::vector<std::int32_t> offsets(padded_group);
    Heaps<std::int32_t> heaps(parts, k);
    std::vector<Blocks<std::int8_t, std::int8_t>> sources;
    for (std::size_t worker = 0; worker < parts.team; ++worker) {
        sources.emplace_back(memory, selection, parts.rows, nullptr);
    }

    for (std::size_t first = 0; first < queries.rows; first += parts.group) {
        const std::size_t in_group = std::min(parts.group, queries.rows - first);
        const std::int8_t* group = queries.data + first * width;
        kernels.pack_queries(group, in_group, width, packed_queries.data());
        for (std::size_t query = 0; query < in_group; ++query) {
            const std::int8_t* row = group + query * width;
            offsets[query] = -kernels.bias * std::accumulate(row, row + width, std::int32_t{0});
        }
        heaps.clear();
        std::atomic<std::size_t> next_part{0};
        run_on(parts.team, [&](std::size_t worker) {
            Int8Block block{};
            block.queries = packed_queries.data();
            block.plain_queries = group;
            block.offsets = offsets.data();
            block.query_count = in_group;
            block.width = width;
            block.packed = packed_memory.data() + worker * parts.rows * padded_width;
            heaps.lend(worker, block);
            Blocks<std::int8_t, std::int8_t>& source = sources[worker];
            for (source.restart(); source.advance(next_part);) {
                show(source, block);
                kernels.topk_block(block);
            }
        });
        heaps.write(in_group, indices + first * k, similarities + first * k);
    }
}

}  // namespace procmem
