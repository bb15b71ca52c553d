// Bounded selection: a heap that keeps the k best entries, the worst of them at the root.
//
// In an unnamed namespace on purpose: each instruction set gets its own copy, which the linker may
// not swap for one that another processor cannot run.
#pragma once

#include "kernels.hpp"
#include "prefetch.hpp"

namespace procmem {
namespace {

// The order of results: larger similarity first, then smaller index. Total for finite similarities.
template <class Similarity>
inline bool comes_before(const Entry<Similarity>& a, const Entry<Similarity>& b) noexcept {
    return a.similarity > b.similarity || (a.similarity == b.similarity && a.index < b.index);
}

template <class Similarity>
inline void sift_down(Entry<Similarity>* heap, std::size_t count, std::size_t hole,
                      Entry<Similarity> entry) noexcept {
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
template <class Similarity>
inline void offer(Entry<Similarity>* heap, std::size_t& count, std::size_t k,
                  Entry<Similarity> entry) noexcept {
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

// Offers one query's products with `count` rows of the block, from `row` on, to its heap.
template <class Element, class Similarity>
inline void offer_products(const TopkBlock<Element, Similarity>& block, std::size_t query,
                           std::size_t row, std::size_t count,
                           const Similarity* products) noexcept {
    Similarity threshold = block.thresholds[query];
    Entry<Similarity>* heap = block.heaps + query * block.k;
    std::size_t& held = block.counts[query];
    for (std::size_t c = 0; c < count; ++c) {
        // A later row that only equals the worst kept one has a larger index and loses.
        if (products[c] > threshold) {
            const std::int64_t index = block.indices != nullptr
                                           ? block.indices[row + c]
                                           : block.first + static_cast<std::int64_t>(row + c);
            offer(heap, held, block.k, Entry<Similarity>{products[c], index});
            if (held == block.k) {
                threshold = heap[0].similarity;
            }
        }
    }
    block.thresholds[query] = threshold;
}

// Sorts a heap into the order of results.
template <class Similarity>
inline void sort_heap_best_first(Entry<Similarity>* heap, std::size_t count) noexcept {
    while (count > 1) {
        --count;
        const Entry<Similarity> worst = heap[0];
        sift_down(heap, count, 0, heap[count]);
        heap[count] = worst;
    }
}

}  // namespace
}  // namespace procmem
