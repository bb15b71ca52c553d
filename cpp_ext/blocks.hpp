// What every call needs around the kernels: scratch memory, threads, and a memory cut into blocks.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "kernels.hpp"
#include "patchsim.hpp"
#include "prefetch.hpp"

namespace procmem {

constexpr std::uint32_t infinity_bits = 0x7f800000u;
constexpr std::size_t block_bytes = 256 * 1024;  // of packed memory rows; fits a core's L2
constexpr std::size_t most_block_rows = 1024;
constexpr std::size_t rows_ahead = 8;    // that are asked for before they are copied
constexpr double work_per_thread = 2e6;  // multiply-adds; starting a thread costs ~20 us

// Uninitialized elements that start at a cache line.
template <class Element>
class Scratch {
  public:
    explicit Scratch(std::size_t count)
        : storage_(new Element[count + line / sizeof(Element)]), count_(count) {}
    Element* data() {
        void* start = storage_.get();
        std::size_t room = count_ * sizeof(Element) + line;
        return static_cast<Element*>(std::align(line, count_ * sizeof(Element), start, room));
    }

  private:
    static constexpr std::size_t line = 64;
    std::unique_ptr<Element[]> storage_;
    std::size_t count_;
};

inline std::size_t round_up(std::size_t value, std::size_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

inline std::size_t block_rows(std::size_t panel, std::size_t row_bytes,
                              std::size_t bytes = block_bytes) {
    const std::size_t fitting = bytes / row_bytes / panel;
    return std::clamp<std::size_t>(fitting, 1, most_block_rows / panel) * panel;
}

inline std::size_t usable_threads(std::size_t wanted, std::size_t parts, double work) {
    const double worthwhile = work / work_per_thread;
    if (wanted == 1 || parts < 2 || worthwhile < 2) {
        return 1;  // without asking the system, which takes longer than a short call
    }
    const std::size_t all = wanted > 0 ? wanted : std::thread::hardware_concurrency();
    const std::size_t threads = std::max<std::size_t>(1, std::min(all, parts));
    return static_cast<double>(threads) > worthwhile ? static_cast<std::size_t>(worthwhile)
                                                     : threads;
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
    } catch (const std::exception&) {
        // No more threads, or memory for them, to be had: those that run, and this one, claim the rest.
    }
    work(0);
    for (std::thread& other : others) {
        other.join();
    }
}

// Calls work(i), which must not throw, for every i below `count`; workers claim some at a time.
template <class Work>
void for_each(std::size_t count, std::size_t threads, double work_in_all, const Work& work) {
    constexpr std::size_t at_once = 64;
    std::atomic<std::size_t> next{0};
    run_on(usable_threads(threads, (count + at_once - 1) / at_once, work_in_all), [&](std::size_t) {
        for (std::size_t first; (first = next.fetch_add(at_once)) < count;) {
            const std::size_t end = std::min(first + at_once, count);
            for (std::size_t i = first; i < end; ++i) {
                work(i);
            }
        }
    });
}

inline void widen_rows(const Kernels& kernels, const Half* source, std::size_t count,
                       float* target) {
    kernels.widen(source, count, target);
}

inline void widen_rows(const Kernels&, const std::int8_t* source, std::size_t count,
                       float* target) {
    for (std::size_t i = 0; i < count; ++i) {
        target[i] = static_cast<float>(source[i]);
    }
}

// How many rows a worker may claim in all.
inline std::size_t selected(std::size_t rows, const Selection& selection) {
    return selection.rows == nullptr ? rows : selection.row_count;
}

// The selected rows of a memory in ascending order, in blocks that one worker claims.
//
// All blocks but the last of a worker are full, whatever is left out between their rows.
template <class Stored, class Element>
class Blocks {
  public:
    // `widener` is what turns Stored into Element; nobody asks it where the two are the same.
    // `scales` is what each row is multiplied with when it is widened; nullptr: nothing.
    Blocks(Rows<Stored> memory, Selection selection, std::size_t most_rows, const Kernels* widener,
           const float* scales = nullptr)
        : memory_(memory),
          scales_(scales),
          selection_(selection),
          most_(most_rows),
          widener_(widener),
          indices_(selection.is_all() ? 0 : most_rows),
          staged_(selection.is_all() && is_direct ? 0 : most_rows * memory.columns) {}

    // Forgets what is left of the part that was claimed last.
    void restart() { at_ = end_ = 0; }

    // Goes on to the next block; false after the last. Workers with one `next_part` share a memory.
    bool advance(std::atomic<std::size_t>& next_part) {
        rows_ = 0;
        if (selection_.is_all()) {
            first_ = next_part.fetch_add(most_);
            rows_ = first_ < memory_.rows ? std::min(most_, memory_.rows - first_) : 0;
        } else {
            if (selection_.rows != nullptr) {
                if (claim(next_part)) {
                    rows_ = end_ - at_;
                    std::copy(selection_.rows + at_, selection_.rows + end_, indices_.begin());
                }
            } else {
                take_flagged(next_part);
            }
            first_ = rows_ > 0 ? static_cast<std::size_t>(indices_[0]) : 0;
        }
        if (rows_ > 0) {
            data_ = stage();
        }
        return rows_ > 0;
    }

    const Element* data() const { return data_; }  // (rows(), D)
    std::size_t rows() const { return rows_; }
    std::size_t first() const { return first_; }  // index of the first row
    const std::int64_t* indices() const {         // nullptr: the others follow it
        return is_contiguous() ? nullptr : indices_.data();
    }

  private:
    static constexpr bool is_direct = std::is_same<Stored, Element>::value;

    bool claim(std::atomic<std::size_t>& next_part) {
        at_ = next_part.fetch_add(most_);
        end_ = std::min(at_ + most_, selected(memory_.rows, selection_));
        return at_ < end_;
    }

    void take_flagged(std::atomic<std::size_t>& next_part) {
        while (rows_ < most_ && (at_ < end_ || claim(next_part))) {
            if (selection_.flags[at_]) {
                indices_[rows_++] = static_cast<std::int64_t>(at_);
            }
            ++at_;
        }
    }

    bool is_contiguous() const {
        return selection_.is_all() ||
               static_cast<std::size_t>(indices_[rows_ - 1]) - first_ + 1 == rows_;
    }

    const Element* stage() {
        if (is_contiguous()) {
            const Stored* source = memory_.data + first_ * memory_.columns;
            if constexpr (is_direct) {
                return source;
            } else {
                copy(source, rows_ * memory_.columns, staged_.data());
                scale();
                return staged_.data();
            }
        }
        for (std::size_t row = 0; row < rows_; ++row) {
            // Rows far apart: the processor does not foresee the next one by itself.
            const Stored* ahead = stored(std::min(row + rows_ahead, rows_ - 1));
            for (std::size_t d = 0; d < memory_.columns; d += cache_line / sizeof(Stored)) {
                fetch(ahead + d, 0);
            }
            copy(stored(row), memory_.columns, staged_.data() + row * memory_.columns);
        }
        scale();
        return staged_.data();
    }

    const Stored* stored(std::size_t row) const {
        return memory_.data + static_cast<std::size_t>(indices_[row]) * memory_.columns;
    }

    void copy(const Stored* source, std::size_t count, Element* target) const {
        if constexpr (is_direct) {
            std::memcpy(target, source, count * sizeof(Element));
        } else {
            widen_rows(*widener_, source, count, target);
        }
    }

    void scale() {
        if constexpr (!is_direct) {
            if (scales_ == nullptr) {
                return;
            }
            for (std::size_t row = 0; row < rows_; ++row) {
                const std::size_t at =
                    is_contiguous() ? first_ + row : static_cast<std::size_t>(indices_[row]);
                Element* staged = staged_.data() + row * memory_.columns;
                for (std::size_t d = 0; d < memory_.columns; ++d) {
                    staged[d] *= scales_[at];
                }
            }
        }
    }

    Rows<Stored> memory_;
    const float* scales_;
    Selection selection_;
    std::size_t most_;
    const Kernels* widener_;
    std::vector<std::int64_t> indices_;
    Scratch<Element> staged_;
    const Element* data_ = nullptr;
    std::size_t rows_ = 0;
    std::size_t first_ = 0;
    std::size_t at_ = 0;  // what is left of the claimed part: rows at_ .. end_ - 1
    std::size_t end_ = 0;
};

// |largest element| as the bits of a float32; infinity_bits and beyond: not finite.

inline std::uint32_t magnitude_bits(const float* data, std::size_t count) {
    std::uint32_t largest = 0;
    for (std::size_t i = 0; i < count; ++i) {
        std::uint32_t bits;
        std::memcpy(&bits, data + i, sizeof bits);
        largest = std::max(largest, bits & 0x7fffffffu);
    }
    return largest;
}

inline bool is_finite(const float* row, std::size_t count) {
    return magnitude_bits(row, count) < infinity_bits;
}

inline bool is_finite(const Half* row, std::size_t count) {
    return std::all_of(row, row + count,
                       [](Half half) { return (half.bits & 0x7c00u) != 0x7c00u; });
}

inline bool is_finite(const std::int8_t*, std::size_t) { return true; }

template <class Stored>
std::size_t first_bad_row(Rows<Stored> matrix, Selection selection) {
    for (std::size_t i = 0; i < selected(matrix.rows, selection); ++i) {
        const std::size_t row =
            selection.rows == nullptr ? i : static_cast<std::size_t>(selection.rows[i]);
        if ((selection.flags == nullptr || selection.flags[row]) &&
            !is_finite(matrix.data + row * matrix.columns, matrix.columns)) {
            return row;
        }
    }
    return matrix.rows;
}

inline double as_double(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return static_cast<double>(value);
}

inline bool may_overflow(double bound) {
    return !(bound <= static_cast<double>(std::numeric_limits<float>::max()) / 2);
}

}  // namespace procmem
