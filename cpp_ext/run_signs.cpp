// Rows of like signs: workers claim blocks of panels and keep what may still be near enough. Where
// to begin is guessed from a sample; the limit that decides is found from the counts of all rows,
// so that neither the guess nor threads can show.

#include <numeric>

#include "blocks.hpp"

#if defined(_MSC_VER)
#include <intrin.h>
#endif

namespace procmem {
namespace {

constexpr std::size_t block_panels =
    64;  // few: what one block finds narrows what the next looks for
constexpr std::size_t sample_stride = 16;  // blocks: one of so many is looked at beforehand
constexpr std::size_t panels_in_word = 8;  // whose rows are 64 bits
constexpr double words_per_thread = 2e6;   // fewer are read before another thread has started

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

struct Candidate {
    std::int64_t row;
    std::uint16_t distance;
};

// What one worker has found: every row of its blocks within `limit`, and how many at each distance.
class Found {
  public:
    Found(std::size_t wanted, std::size_t largest, std::uint16_t limit)
        : wanted_(wanted), counts_(largest + 1, 0), limit_(limit) {}

    std::uint16_t limit() const { return limit_; }
    std::size_t within() const { return within_; }

    // Takes over the rows of a block that are within the limit.
    void take(const SignBlock& block, std::size_t first, std::size_t rows, const bool* keep) {
        const std::size_t start = candidates_.size();
        for (std::size_t panel = 0; panel < block.count; panel += panels_in_word) {
            std::uint64_t within = 0;
            for (std::size_t i = 0; i < panels_in_word; ++i) {
                within |= std::uint64_t{block.within[panel + i]} << (i * sign_rows);
            }
            for (; within != 0; within &= within - 1) {
                const std::size_t row = panel * sign_rows + lowest_bit(within);
                if (row < rows && (keep == nullptr || keep[first + row])) {
                    candidates_.push_back(
                        {static_cast<std::int64_t>(first + row), block.distances[row]});
                }
            }
        }
        for (std::size_t i = start; i < candidates_.size(); ++i) {
            ++counts_[candidates_[i].distance];
        }
        within_ += candidates_.size() - start;
        narrow();
    }

    // Takes over the counts of another worker.
    void join(const Found& other) {
        for (std::size_t distance = 0; distance < counts_.size(); ++distance) {
            counts_[distance] += other.counts_[distance];
        }
        limit_ = std::max(limit_, other.limit_);
        within_ = std::accumulate(counts_.begin(), counts_.begin() + limit_ + 1, std::size_t{0});
        narrow();
    }

    const std::vector<Candidate>& candidates() const { return candidates_; }

  private:
    // Lowers the limit to the smallest distance that enough rows do not exceed.
    void narrow() {
        while (limit_ > 0 && within_ - counts_[limit_] >= wanted_) {
            within_ -= counts_[limit_--];
        }
    }

    std::size_t wanted_;
    std::size_t within_ = 0;  // rows within the limit
    std::vector<std::size_t> counts_;
    std::vector<Candidate> candidates_;
    std::uint16_t limit_;
};

// One call: what is compared with what.
struct Search {
    const SignKernels& kernels;
    const SignPanels& memory;
    const std::uint64_t* signs;
    const std::uint64_t* mask;
    const bool* keep;
    std::size_t panels = (memory.rows + sign_rows - 1) / sign_rows;
    std::size_t largest = memory.words * 64;  // distance

    // Looks at every `stride`-th block for what is within a limit, in as many threads as in
    // `found`.
    void look(std::vector<Found>& found, std::size_t stride) const {
        const std::size_t panel_words = memory.words * sign_rows;
        std::vector<std::uint16_t> distances(found.size() * block_panels * sign_rows);
        std::vector<std::uint8_t> within(found.size() * block_panels);
        std::atomic<std::size_t> next_panel{0};
        run_on(found.size(), [&](std::size_t worker) {
            SignBlock block{};
            block.words = memory.words;
            block.signs = signs;
            block.mask = mask;
            block.distances = distances.data() + worker * block_panels * sign_rows;
            block.within = within.data() + worker * block_panels;
            for (;;) {
                const std::size_t panel = next_panel.fetch_add(stride * block_panels);
                if (panel >= panels) {
                    break;
                }
                const std::size_t first = panel * sign_rows;
                block.panels = memory.data + panel * panel_words;
                block.count = std::min(block_panels, panels - panel);
                block.limit = found[worker].limit();
                kernels.compare(block);
                found[worker].take(block, first, memory.rows - first, keep);
            }
        });
    }

    // All rows within the smallest distance that takes in enough of them, if it is within `limit`.
    Found all_within(std::uint16_t limit, std::size_t wanted, std::size_t team,
                     std::vector<Found>& found) const {
        found.assign(team, Found(wanted, largest, limit));
        look(found, 1);
        Found all(wanted, largest, 0);
        for (const Found& own : found) {
            all.join(own);
        }
        return all;
    }

    // A limit that likely takes in as many rows as are wanted and not many more.
    std::uint16_t guess(std::size_t wanted) const {
        const auto last = static_cast<std::uint16_t>(largest);
        if (panels < 2 * sample_stride * block_panels) {
            return last;
        }
        std::vector<Found> sample(1, Found(wanted / sample_stride * 5 / 4 + 16, largest, last));
        look(sample, sample_stride);
        return sample[0].limit();
    }
};

}  // namespace

std::vector<std::int64_t> like_signs(const SignKernels& kernels, const SignPanels& memory,
                                     const std::uint64_t* signs, const std::uint64_t* mask,
                                     const bool* keep, std::size_t wanted, std::size_t threads) {
    const Search search{kernels, memory, signs, mask, keep};
    const auto last = static_cast<std::uint16_t>(search.largest);
    const std::size_t team = usable_threads(
        threads, (search.panels + block_panels - 1) / block_panels,
        static_cast<double>(memory.rows * memory.words) / words_per_thread * work_per_thread);
    std::vector<Found> found;
    const std::uint16_t limit = search.guess(wanted);
    Found all = search.all_within(limit, wanted, team, found);
    if (limit < last && all.within() < wanted) {  // or fewer than wanted are kept
        all = search.all_within(last, wanted, team, found);
    }
    std::vector<std::int64_t> rows;
    rows.reserve(all.within());
    for (const Found& own : found) {
        for (const Candidate& candidate : own.candidates()) {
            if (candidate.distance <= all.limit()) {
                rows.push_back(candidate.row);
            }
        }
    }
    if (team > 1) {
        std::sort(rows.begin(), rows.end());
    }
    return rows;
}

}  // namespace procmem
