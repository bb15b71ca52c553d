// Rows of like signs: workers claim blocks of panels and keep what may still be near enough. Where
// to begin is guessed from a sample; the limit that decides is found from the counts of all rows,
// so that neither the guess nor threads can show.

#include <cmath>
#include <numeric>
#include <utility>

#include "blocks.hpp"

#if defined(_MSC_VER)
#include <intrin.h>
#endif

namespace procmem {
namespace {

constexpr std::size_t block_panels =
    8;  // few: what one block finds narrows what the next looks for
constexpr std::size_t sample_stride = 16;  // blocks: one of so many is looked at beforehand
constexpr double bytes_per_thread = 16e6;  // fewer are read before another thread has started
constexpr std::size_t signs_in_table = 4;

// For each of four signs, the entries of a table in which it is set.
constexpr std::uint8_t entries_with[signs_in_table][sign_entries] = {
    {0, 255, 0, 255, 0, 255, 0, 255, 0, 255, 0, 255, 0, 255, 0, 255},
    {0, 0, 255, 255, 0, 0, 255, 255, 0, 0, 255, 255, 0, 0, 255, 255},
    {0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 255, 255, 255, 255},
    {0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255}};

// The place of the lowest bit of a word that is not zero.
inline std::size_t lowest_bit(std::uint64_t word) {
#if defined(_MSC_VER)
    unsigned long at;
    _BitScanForward64(&at, word);
    return at;
#else
    return static_cast<std::size_t>(__builtin_ctzll(word));
#endif
}

// What rows are compared with: for every four signs, what each of the 16 that a row may have
// counts.
//
// A sign that differs from the query's counts 0 to 3, by the size of the query's element.
class Query {
  public:
    Query(const SignKernels& kernels, const float* elements, std::size_t width, std::size_t bytes)
        : fours_(bytes * 8 / signs_in_table * sign_entries, 0),
          tables_(kernels.prepare == nullptr ? 0 : kernels.table_bytes(bytes)) {
        double squares = 0;
        for (std::size_t d = 0; d < width; ++d) {
            squares += static_cast<double>(elements[d]) * static_cast<double>(elements[d]);
        }
        const double spread = std::sqrt(squares / static_cast<double>(width));
        const double scale = spread > 0 ? 2 / spread : 0;
        for (std::size_t d = 0; d < width; ++d) {
            const double size = std::fabs(static_cast<double>(elements[d])) * scale;
            const int counts = (size >= 0.5) + (size >= 1.5) + (size >= 2.5);
            const std::uint8_t flip = elements[d] > 0 ? 0xff : 0;
            const std::uint8_t* const is_set = entries_with[d % signs_in_table];
            std::uint8_t* const table = fours_.data() + d / signs_in_table * sign_entries;
            for (std::size_t entry = 0; entry < sign_entries; ++entry) {
                const int differs = is_set[entry] ^ flip;
                table[entry] = static_cast<std::uint8_t>(table[entry] + (differs & counts));
            }
        }
        if (kernels.prepare != nullptr) {
            kernels.prepare(fours_.data(), bytes, tables_.data());
        }
        used_ = kernels.prepare == nullptr ? fours_.data() : tables_.data();
    }

    const std::uint8_t* tables() const { return used_; }

  private:
    std::vector<std::uint8_t> fours_;
    Scratch<std::uint8_t> tables_;
    const std::uint8_t* used_;
};

// The smallest distance that enough rows do not exceed, as far as they are counted.
class Limit {
  public:
    // No distance exceeds `largest`; what exceeds `first` is not counted.
    Limit(std::size_t wanted, std::size_t largest, std::size_t first)
        : wanted_(wanted), counts_(largest + 1, 0), limit_(first) {}

    std::uint16_t distance() const { return static_cast<std::uint16_t>(limit_); }
    std::size_t within() const { return within_; }  // rows

    // Counts a row within the limit; `narrow` has to follow.
    void count(std::uint16_t distance, bool is_row) {
        counts_[distance] += is_row;
        within_ += is_row;
    }

    void narrow() {
        while (limit_ > 0 && within_ - counts_[limit_] >= wanted_) {
            within_ -= counts_[limit_--];
        }
    }

    // Takes over the counts of another one.
    void join(const Limit& other) {
        for (std::size_t distance = 0; distance < counts_.size(); ++distance) {
            counts_[distance] += other.counts_[distance];
        }
        limit_ = std::max(limit_, other.limit_);
        within_ = std::accumulate(counts_.begin(), counts_.begin() + limit_ + 1, std::size_t{0});
        narrow();
    }

  private:
    std::size_t wanted_;
    std::size_t within_ = 0;
    std::vector<std::uint32_t> counts_;
    std::size_t limit_;
};

// What one worker has found: every row of its blocks within the limit.
class Found {
  public:
    explicit Found(Limit limit) : limit_(std::move(limit)) {}

    const Limit& limit() const { return limit_; }
    const LikeRow* begin() const { return candidates_.data(); }
    const LikeRow* end() const { return candidates_.data() + count_; }

    // Takes over the rows of a block that are within the limit.
    void take(const SignBlock& block, std::size_t first, std::size_t rows, const bool* keep) {
        if (candidates_.size() < count_ + most_per_take) {
            candidates_.resize(2 * candidates_.size() + most_per_take);
        }
        LikeRow* const start = candidates_.data() + count_;
        LikeRow* end = start;
        for (std::size_t panel = 0; panel < block.count; ++panel) {
            std::uint64_t within = block.within[panel];
            // Some at once, whether there are so many or not: nobody foresees how many there are.
            while (within != 0) {
                for (std::size_t i = 0; i < at_once; ++i) {
                    const std::size_t row = panel * sign_rows + lowest_bit(within | last_bit);
                    *end = {static_cast<std::uint32_t>(row), block.distances[row]};
                    end += within != 0;
                    within &= within - 1;
                }
            }
        }
        LikeRow* kept = start;
        for (const LikeRow* one = start; one != end; ++one) {
            const std::size_t row = one->row;
            const bool is_kept = row < rows && (keep == nullptr || keep[first + row]);
            limit_.count(one->distance, is_kept);
            *kept = {static_cast<std::uint32_t>(first + row), one->distance};
            kept += is_kept;
        }
        count_ += static_cast<std::size_t>(kept - start);
        limit_.narrow();
    }

  private:
    static constexpr std::size_t at_once = 4;
    static constexpr std::size_t most_per_take = block_panels * sign_rows + at_once;
    static constexpr std::uint64_t last_bit = std::uint64_t{1} << 63;

    std::vector<LikeRow> candidates_;  // the first `count_`; the others are room
    std::size_t count_ = 0;
    Limit limit_;
};

// One call: what is compared with what.
struct Search {
    const SignKernels& kernels;
    const SignPanels& memory;
    const Query& query;
    const bool* keep;
    std::size_t panels = (memory.rows + sign_rows - 1) / sign_rows;
    std::size_t largest = memory.bytes * 8 / signs_in_table * most_per_entry;  // distance

    // Looks at every `stride`-th block for what is within a limit, in as many threads as in
    // `found`.
    void look(std::vector<Found>& found, std::size_t stride) const {
        const std::size_t panel_bytes = memory.bytes * sign_rows;
        std::vector<std::uint16_t> distances(found.size() * block_panels * sign_rows);
        std::vector<std::uint64_t> within(found.size() * block_panels);
        std::atomic<std::size_t> next_panel{0};
        run_on(found.size(), [&](std::size_t worker) {
            SignBlock block{};
            block.bytes = memory.bytes;
            block.tables = query.tables();
            block.distances = distances.data() + worker * block_panels * sign_rows;
            block.within = within.data() + worker * block_panels;
            for (;;) {
                const std::size_t panel = next_panel.fetch_add(stride * block_panels);
                if (panel >= panels) {
                    break;
                }
                const std::size_t first = panel * sign_rows;
                block.panels = memory.data + panel * panel_bytes;
                block.count = std::min(block_panels, panels - panel);
                block.limit = found[worker].limit().distance();
                kernels.compare(block);
                found[worker].take(block, first, memory.rows - first, keep);
            }
        });
    }

    // The smallest distance that takes in enough rows, if it is within `first`; they are in
    // `found`.
    Limit all_within(std::size_t first, std::size_t wanted, std::size_t team,
                     std::vector<Found>& found) const {
        Limit all(wanted, largest, 0);
        found.clear();
        for (std::size_t worker = 0; worker < team; ++worker) {
            found.emplace_back(Limit(wanted, largest, first));
        }
        look(found, 1);
        for (const Found& own : found) {
            all.join(own.limit());
        }
        return all;
    }

    // A distance that likely takes in as many rows as are wanted and not many more.
    std::size_t guess(std::size_t wanted) const {
        if (panels < 2 * sample_stride * block_panels) {
            return largest;
        }
        const std::size_t few = wanted / sample_stride * 5 / 4 + 16;
        std::vector<Found> sample;
        sample.emplace_back(Limit(few, largest, largest));
        look(sample, sample_stride);
        return sample[0].limit().distance();
    }
};

}  // namespace

std::vector<LikeRow> like_signs(const SignKernels& kernels, const SignPanels& memory,
                                const float* query, std::size_t width, const bool* keep,
                                std::size_t wanted, std::size_t threads) {
    const Query tables(kernels, query, width, memory.bytes);
    const Search search{kernels, memory, tables, keep};
    const std::size_t team = usable_threads(
        threads, (search.panels + block_panels - 1) / block_panels,
        static_cast<double>(memory.rows * memory.bytes) / bytes_per_thread * work_per_thread);
    std::vector<Found> found;
    const std::size_t first = search.guess(wanted);
    Limit limit = search.all_within(first, wanted, team, found);
    if (first < search.largest && limit.within() < wanted) {  // or fewer than wanted are kept
        limit = search.all_within(search.largest, wanted, team, found);
    }
    std::vector<LikeRow> rows(limit.within() + 1);  // and room for one that is not taken
    LikeRow* end = rows.data();
    for (const Found& own : found) {
        for (const LikeRow& candidate : own) {
            *end = candidate;
            end += candidate.distance <= limit.distance();
        }
    }
    rows.resize(limit.within());
    if (team > 1) {
        std::sort(rows.begin(), rows.end(),
                  [](const LikeRow& a, const LikeRow& b) { return a.row < b.row; });
    }
    return rows;
}

}  // namespace procmem
