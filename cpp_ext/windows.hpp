// Finds windows (runs of 16 bytes) of erased values in the bytes of files.
//
// sdk/procmem/residue.py says what counts as a window and what a find means.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ledger_items.hpp"

namespace procmem {

constexpr std::size_t window_bytes = 16;

// Every window of every value, one after the other in the order of their first places; each once,
// and none of one repeated byte.
std::vector<unsigned char> distinct_windows(const std::vector<Bytes>& values);

struct Hit {
    std::int64_t window;  // its index
    std::int64_t offset;  // where it begins in the data
};

// Looks for the same windows in any number of pieces of data.
//
// Every window covers a whole 8-byte word at a multiple of 8 of the data, wherever it begins. So
// only those words are looked up among the words of the windows, and only around one that is found
// are windows compared.
class WindowFinder {
  public:
    // `windows` is `count` distinct ones, one after the other, none of one repeated byte; soonest
    // done in the order of `distinct_windows`. The bytes must stay where they are.
    WindowFinder(const unsigned char* windows, std::size_t count);

    // How many windows it looks for.
    std::size_t count() const { return count_; }

    // Every place where one stands, ascending by offset.
    std::vector<Hit> find(const unsigned char* data, std::size_t size, std::size_t threads) const;

  private:
    void look_around(const unsigned char* data, std::size_t size, std::size_t word,
                     std::vector<Hit>& hits) const;
    bool may_be_word(std::uint64_t mixed) const;
    bool is_word(std::uint64_t word, std::uint64_t mixed) const;
    void add_word(std::uint64_t word);
    void make_filter();

    const unsigned char* windows_;
    std::size_t count_;
    std::vector<std::int64_t> window_slots_;  // index of a window, or -1; open addressing
    std::vector<std::uint64_t> word_slots_;   // words, 0 for none; open addressing
    bool has_zero_word_ = false;
    std::size_t words_ = 0;
    std::vector<std::uint64_t> filter_;  // two bits of one element for each word
};

}  // namespace procmem
