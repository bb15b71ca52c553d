#include "windows.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "blocks.hpp"

namespace procmem {
namespace {

constexpr std::size_t word_bytes = 8;
constexpr std::size_t part_words = 1 << 15;  // that a worker claims
constexpr double work_per_word = 10;         // in multiply-adds, as `usable_threads` counts
constexpr std::size_t least_slots = 64;
constexpr std::size_t filter_bits_per_word = 16;
constexpr std::uint64_t first_multiplier = 0x9e3779b97f4a7c15u;   // 2**64 / golden ratio
constexpr std::uint64_t second_multiplier = 0xc2b2ae3d27d4eb4fu;  // odd, as random as the first

// Words are compared only with words that were loaded alike, so their byte order does not matter.
inline std::uint64_t load(const unsigned char* at) {
    std::uint64_t word;
    std::memcpy(&word, at, sizeof word);
    return word;
}

// The high bits depend on all bits of the word, and choose the slot; the low ones are weaker.
inline std::uint64_t mix(std::uint64_t word) {
    word *= first_multiplier;
    word ^= word >> 32;
    return word * second_multiplier;
}

inline std::uint64_t mix_window(const unsigned char* at) {
    return mix(mix(load(at)) ^ load(at + word_bytes));
}

// A slot of a table whose size is a power of two.
inline std::size_t slot_of(std::uint64_t mixed, std::size_t slots) {
    return static_cast<std::size_t>(mixed >> 20) & (slots - 1);
}

inline std::uint64_t filter_bits(std::uint64_t mixed) {
    return std::uint64_t{1} << (mixed >> 58) | std::uint64_t{1} << (mixed >> 52 & 63);
}

// Whether a word is one byte, repeated.
inline bool is_run(std::uint64_t word) {
    return word == (word & 0xff) * std::uint64_t{0x0101010101010101};
}

// The slot of a window in a table of indices of windows: where it stands, or where it is to stand.
inline std::size_t place_of(const unsigned char* window, const unsigned char* windows,
                            const std::vector<std::int64_t>& slots) {
    std::size_t slot = slot_of(mix_window(window), slots.size());
    while (slots[slot] >= 0) {
        const auto index = static_cast<std::size_t>(slots[slot]);
        if (std::memcmp(windows + index * window_bytes, window, window_bytes) == 0) {
            break;
        }
        slot = (slot + 1) & (slots.size() - 1);
    }
    return slot;
}

std::size_t power_of_two(std::size_t least) {
    std::size_t size = least_slots;
    while (size < least) {
        size *= 2;
    }
    return size;
}

}  // namespace

std::vector<unsigned char> distinct_windows(const std::vector<Bytes>& values) {
    std::size_t most = 0;
    for (const Bytes value : values) {
        most += value.size < window_bytes ? 0 : value.size - window_bytes + 1;
    }
    std::vector<unsigned char> windows;
    windows.reserve(most * window_bytes);
    std::vector<std::int64_t> slots(power_of_two(2 * most), -1);
    for (const Bytes value : values) {
        for (std::size_t at = 0; at + window_bytes <= value.size; ++at) {
            const unsigned char* window = value.data + at;
            if (load(window) == load(window + word_bytes) && is_run(load(window))) {
                continue;
            }
            const std::size_t slot = place_of(window, windows.data(), slots);
            if (slots[slot] < 0) {
                slots[slot] = static_cast<std::int64_t>(windows.size() / window_bytes);
                windows.insert(windows.end(), window, window + window_bytes);
            }
        }
    }
    return windows;
}

WindowFinder::WindowFinder(const unsigned char* windows, std::size_t count)
    // Windows that overlap share all but one of their words: most often there is a word for each.
    : windows_(windows),
      count_(count),
      window_slots_(power_of_two(2 * count), -1),
      word_slots_(power_of_two(3 * count), 0) {
    constexpr std::size_t last_word = window_bytes - word_bytes;
    for (std::size_t i = 0; i < count; ++i) {
        const unsigned char* window = windows + i * window_bytes;
        window_slots_[place_of(window, windows, window_slots_)] = static_cast<std::int64_t>(i);
        // One that stood a byte further on than the one before has only its last word to itself.
        const bool goes_on =
            i > 0 && std::memcmp(window - window_bytes + 1, window, window_bytes - 1) == 0;
        for (std::size_t start = goes_on ? last_word : 0; start <= last_word; ++start) {
            add_word(load(window + start));
        }
    }
    make_filter();
}

void WindowFinder::add_word(std::uint64_t word) {
    const std::uint64_t mixed = mix(word);
    if (is_word(word, mixed)) {
        return;
    }
    ++words_;
    if (word == 0) {
        has_zero_word_ = true;
        return;
    }
    const auto insert = [](std::vector<std::uint64_t>& slots, std::uint64_t value) {
        std::size_t slot = slot_of(mix(value), slots.size());
        while (slots[slot] != 0) {
            slot = (slot + 1) & (slots.size() - 1);
        }
        slots[slot] = value;
    };
    if (2 * words_ > word_slots_.size()) {
        std::vector<std::uint64_t> larger(2 * word_slots_.size(), 0);
        for (const std::uint64_t held : word_slots_) {
            if (held != 0) {
                insert(larger, held);
            }
        }
        word_slots_.swap(larger);
    }
    insert(word_slots_, word);
}

void WindowFinder::make_filter() {
    filter_.assign(power_of_two(words_ * filter_bits_per_word / 64), 0);
    const auto add = [&](std::uint64_t word) {
        const std::uint64_t mixed = mix(word);
        filter_[slot_of(mixed, filter_.size())] |= filter_bits(mixed);
    };
    std::for_each(word_slots_.begin(), word_slots_.end(), [&](std::uint64_t word) {
        if (word != 0) {
            add(word);
        }
    });
    if (has_zero_word_) {
        add(0);
    }
}

bool WindowFinder::may_be_word(std::uint64_t mixed) const {
    const std::uint64_t bits = filter_bits(mixed);
    return (filter_[slot_of(mixed, filter_.size())] & bits) == bits;
}

bool WindowFinder::is_word(std::uint64_t word, std::uint64_t mixed) const {
    if (word == 0) {
        return has_zero_word_;
    }
    std::size_t slot = slot_of(mixed, word_slots_.size());
    while (word_slots_[slot] != 0) {
        if (word_slots_[slot] == word) {
            return true;
        }
        slot = (slot + 1) & (word_slots_.size() - 1);
    }
    return false;
}

// The windows that cover the whole of a word, and no word before it.
void WindowFinder::look_around(const unsigned char* data, std::size_t size, std::size_t word,
                               std::vector<Hit>& hits) const {
    const std::size_t at = word * word_bytes;
    const std::uint64_t value = load(data + at);
    // Amid a run of one byte every window is of that byte, and none of those is wanted.
    if (word > 0 && at + 2 * word_bytes <= size && load(data + at - word_bytes) == value &&
        load(data + at + word_bytes) == value && is_run(value)) {
        return;
    }
    const std::size_t first = at >= word_bytes - 1 ? at - (word_bytes - 1) : 0;
    for (std::size_t offset = first; offset <= at && offset + window_bytes <= size; ++offset) {
        const unsigned char* window = data + offset;
        const std::int64_t index = window_slots_[place_of(window, windows_, window_slots_)];
        if (index >= 0) {
            hits.push_back({index, static_cast<std::int64_t>(offset)});
        }
    }
}

std::vector<Hit> WindowFinder::find(const unsigned char* data, std::size_t size,
                                    std::size_t threads) const {
    const std::size_t words = size / word_bytes;
    if (words_ == 0 || size < window_bytes) {
        return {};
    }
    const std::size_t parts = (words + part_words - 1) / part_words;
    std::vector<std::vector<Hit>> found(parts);
    std::atomic<std::size_t> next_part{0};
    std::atomic<bool> out_of_memory{false};
    run_on(usable_threads(threads, parts, work_per_word * static_cast<double>(words)),
           [&](std::size_t) {
               try {
                   for (std::size_t part; (part = next_part.fetch_add(1)) < parts;) {
                       const std::size_t end = std::min(words, (part + 1) * part_words);
                       for (std::size_t word = part * part_words; word < end; ++word) {
                           const std::uint64_t value = load(data + word * word_bytes);
                           const std::uint64_t mixed = mix(value);
                           if (may_be_word(mixed) && is_word(value, mixed)) {
                               look_around(data, size, word, found[part]);
                           }
                       }
                   }
               } catch (const std::bad_alloc&) {
                   out_of_memory = true;
               }
           });
    if (out_of_memory) {
        throw std::bad_alloc();
    }
    std::vector<Hit> hits;
    for (const std::vector<Hit>& part : found) {
        hits.insert(hits.end(), part.begin(), part.end());
    }
    return hits;
}

}  // namespace procmem
