// What one compiled instruction set offers: work on one block of memory rows.
//
// Every function is noexcept, allocates nothing and calls no inline function of the standard
// library: the same template, compiled with other flags elsewhere, could be merged by the linker.
#pragma once

#include <cstddef>
#include <cstdint>

namespace procmem {

// An IEEE 754 binary16 number, as numpy's float16 stores it.
struct Half {
    std::uint16_t bits;
};

// So few use what they are compared with so seldom that to prepare it costs more than it saves.
constexpr std::size_t few_queries = 3;

template <class Similarity>
struct Entry {
    Similarity similarity;
    std::int64_t index;
};

template <class Element, class Similarity>
struct TopkBlock {
    const Element* queries;  // packed by pack_queries
    std::size_t query_count;
    std::size_t width;            // D
    const Element* memory;        // first row of the block
    std::size_t rows;             // in this block
    std::int64_t first;           // index of that first row, the others follow; or
    const std::int64_t* indices;  // one per row, ascending; blocks of one heap come in that order
    Element* packed;              // scratch, padded(rows) * padded(width) elements
    Entry<Similarity>* heaps;     // query_count * k
    std::size_t* counts;          // entries in each heap
    Similarity* thresholds;       // similarity to beat; the lowest there is until a heap is full
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
    void (*widen)(const Half* source, std::size_t count, float* target);
    // Both return the largest |element| of the block's rows as bits (>= 0x7f800000: not finite).
    std::uint32_t (*topk_block)(const TopkBlock<float, float>& block);
    std::uint32_t (*mix_block)(const MixBlock& block);
};

struct Int8Block : TopkBlock<std::int8_t, std::int32_t> {
    const std::int8_t* plain_queries;  // (query_count, width), row-major
    const std::int32_t* offsets;       // where each query's sums begin: -bias * sum of its elements
};

struct Int8Kernels {
    const char* name;
    std::int32_t bias;  // what the path adds to each element of a row
    std::size_t tile;
    std::size_t panel;
    // Interleaves queries tile by tile, four elements of each in turn; `packed` has room for count
    // rounded up to tile, times width rounded up to 4.
    void (*pack_queries)(const std::int8_t* queries, std::size_t count, std::size_t width,
                         std::int8_t* packed);
    void (*topk_block)(const Int8Block& block);
    // The product of two rows, if `offset` is what the query's sums begin at.
    std::int32_t (*dot)(const std::int8_t* query, const std::int8_t* row, std::size_t width,
                        std::int32_t offset);
};

constexpr std::size_t sign_rows = 64;       // rows of a panel of signs
constexpr std::size_t sign_entries = 16;    // of a table: one for all that four signs can be
constexpr std::size_t most_per_entry = 12;  // four signs that count three each

struct SignBlock {
    const std::uint8_t* panels;  // [panel][byte][row], eight signs of a row each
    std::size_t count;           // panels
    std::size_t bytes;           // of a row
    const std::uint8_t* tables;  // as SignKernels::prepare leaves them
    std::uint16_t limit;
    std::uint16_t* distances;  // of each row, the sum of what its signs count
    std::uint64_t* within;     // of each panel, one bit for each row within the limit
};

struct SignKernels {
    // What a path makes once for a query of [byte][half][entry], what the low four signs of a byte
    // count and the high four: its own tables, which take so many bytes. nullptr: it takes those.
    std::size_t (*table_bytes)(std::size_t bytes);
    void (*prepare)(const std::uint8_t* fours, std::size_t bytes, std::uint8_t* tables);
    void (*compare)(const SignBlock& block);
};

extern const Kernels kernels_scalar;
extern const Int8Kernels int8_scalar;
extern const SignKernels signs_scalar;
#ifdef PROCMEM_X86
extern const Kernels kernels_avx2;  // needs AVX2, FMA and F16C
extern const Int8Kernels int8_avx2;
extern const SignKernels signs_avx2;
extern const Kernels kernels_avx512;    // needs AVX-512 F besides
extern const Int8Kernels int8_avx512;   // needs AVX-512 F, BW and VNNI besides
extern const SignKernels signs_avx512;  // needs AVX-512 F and BW besides
extern const SignKernels signs_vbmi;    // needs AVX-512 F, BW and VBMI besides
#endif
#ifdef PROCMEM_ARM64
extern const Kernels kernels_neon;
extern const Int8Kernels int8_neon;  // needs the dot products of ARMv8.2
extern const SignKernels signs_neon;
#endif

}  // namespace procmem
