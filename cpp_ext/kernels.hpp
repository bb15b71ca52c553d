// What one compiled instruction set offers to run.cpp: work on one block of memory rows.
//
// Every function is noexcept, allocates nothing and calls no inline function of the standard
// library: the same template, compiled with other flags elsewhere, could be merged by the linker.
#pragma once

#include <cstddef>
#include <cstdint>

namespace procmem {

struct Entry {
    float similarity;
    std::int64_t index;
};

struct TopkBlock {
    const float* queries;  // packed by pack_queries
    std::size_t query_count;
    std::size_t width;    // D
    const float* memory;  // first row of the block
    std::size_t rows;     // in this block
    std::int64_t first;   // index of that first row; blocks of one heap come in ascending order
    float* packed;        // scratch, padded(rows) * width floats
    Entry* heaps;         // query_count * k
    std::size_t* counts;  // entries in each heap
    float* thresholds;    // similarity to beat; -infinity until a heap is full
    std::size_t k;
};

struct MixBlock {
    const float* queries;
    std::size_t query_count;
    std::size_t width;  // D
    const float* memory;
    const float* values;
    std::size_t rows;
    std::size_t value_width;  // V
    float scale;
    float* packed;      // scratch, padded(rows) * width floats
    float* scores;      // scratch, tile * padded(rows) floats
    float* weights;     // scratch, tile * padded(rows) floats
    float* value_tail;  // scratch, panel * padded(rows) floats
    float* maxima;      // state per query: largest score so far, -infinity at first
    double* totals;     // state per query: sum of exp(score - maximum)
    double* sums;       // state, query_count * V: weighted sum of values
};

struct Kernels {
    const char* name;
    std::size_t tile;   // queries that are multiplied at once
    std::size_t panel;  // memory rows that are multiplied at once; blocks are padded to it
    // Interleaves queries tile by tile; `packed` has room for count rounded up to tile, times
    // width.
    void (*pack_queries)(const float* queries, std::size_t count, std::size_t width, float* packed);
    // Returns the largest |element| of the block's rows as bits (>= 0x7f800000: not finite).
    std::uint32_t (*topk_block)(const TopkBlock& block);
    void (*mix_block)(const MixBlock& block);
};

extern const Kernels kernels_scalar;
#ifdef PROCMEM_X86
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

}  // namespace procmem
