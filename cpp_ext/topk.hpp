// Bounded selection: a heap that keeps the k best entries, the worst of them at the root.
//
// In an unnamed namespace on purpose: each instruction set gets its own copy, which the linker may
// not swap for one that another processor cannot run.
#pragma once

#include "kernels.hpp"

namespace procmem {
namespace {

// The order of results: larger similarity first, then smaller index. Total for finite similarities.
inline bool comes_before(const Entry& a, const Entry& b) noexcept {
    return a.similarity > b.similarity || (a.similarity == b.similarity && a.index < b.index);
}

inline void sift_down(Entry* heap, std::size_t count, std::size_t hole, Entry entry) noexcept {
    for (;;) {
        std::size_t child = 2 * hole + 1;
        if (child >= count) {
            break;
        }
        if (child + 1 < count && comes_before(heap[child], heap[child + 1])) {
            ++child;  // the worse of the two
        }
        if (!comes_before(entry, heap[child])) {
            break;
        }
        heap[hole] = heap[child];
        hole = child;
    }
    heap[hole] = entry;
}

// Offers one entry to a heap of at most k.
inline void offer(Entry* heap, std::size_t& count, std::size_t k, Entry entry) noexcept {
    if (count < k) {
        std::size_t hole = count++;
        while (hole > 0) {
            const std::size_t parent = (hole - 1) / 2;
            if (!comes_before(heap[parent], entry)) {
                break;
            }
            heap[hole] = heap[parent];
            hole = parent;
        }
        heap[hole] = entry;
    } else if (comes_before(entry, heap[0])) {
        sift_down(heap, count, 0, entry);
    }
}

// Sorts a heap into the order of results.
inline void sort_heap_best_first(Entry* heap, std::size_t count) noexcept {
    while (count > 1) {
        --count;
        const Entry last = heap[count];
        heap[count] = heap[0];
        sift_down(heap, count, 0, last);
    }
}

}  // namespace
}  // namespace procmem
