// The whole C++ interface of procmem._patchsim: nearest rows and softmax-weighted sums of rows.
//
// Called by bindings.cpp, which has checked every argument. Nothing here knows Python.
//
// Layout      All matrices are row-major, dense and aligned to their elements. Outputs never share
//             memory with inputs. Nobody may write to the inputs while a call runs.
// Elements    Memory rows are float32, float16 or int8. float16 is widened block by block, which is
//             exact, so that it answers as float32 rows of the same values. topk of int8 takes int8
//             queries too and is exact integer arithmetic, the same on every path; mix widens int8.
// Similarity  The dot product q.m of floats is one chain of multiply-adds in the order d = 0, 1,
//             ..., D-1. Its bits depend on the two rows and the path only: not on the position of a
//             row, on Q, N, block sizes or threads. It is symmetric. avx2, avx512 and neon give
//             equal bits; scalar rounds each product first, unless every processor of its kind has
//             a fused multiply-add (arm64). Error: at most D * 2^-23 * sum |q_d m_d|.
// Selection   One flag per memory row, or a list of rows; the others are not read, and every answer
//             has the bits of a memory that never held them. nullptr selects all.
// Order       Larger similarity first; equal similarities by smaller index.
// Threads     Results have the same bits for every thread count.
// Memory      topk: the results, one heap of k per query and thread for a bounded group of queries,
//             and one packed block of memory rows per thread. mix: one row of V doubles per query
//             in flight. Never Q x N.
// Refused     Values that are not finite, or so large that a sum could overflow (see Status).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace procmem {

struct Half;  // an IEEE 754 binary16 number, see kernels.hpp

// A dense row-major matrix that somebody else owns.
template <class Element>
struct Rows {
    const Element* data;
    std::size_t rows;
    std::size_t columns;
};

constexpr std::size_t most_int8_columns = 65536;  // more could overflow the 32 bits of a sum

enum class Problem {
    none,
    queries_not_finite,
    memory_not_finite,
    values_not_finite,
    scales_not_finite,
    similarity_overflow,  // D * max|q| * max|m| (* |scale|) is beyond half of float32's range
    sum_overflow,         // N * max|v| is beyond half of float32's range
};

// What stopped a call; `row` is the first offending row for the not_finite problems.
struct Status {
    Problem problem;
    std::size_t row;
};

struct Kernels;  // one compiled instruction set, see kernels.hpp
struct Int8Kernels;
struct SignKernels;

// The paths this processor can run, slowest first; "scalar" is always the first.
std::vector<std::string> available_isas();

// The path of this name; with an empty name the one in the environment variable PROCMEM_ISA, and
// without that the fastest available. Throws std::invalid_argument that says what is possible.
const Kernels& choose_kernels(const std::string& name);

// The same for int8. Without AVX-512's VNNI "avx512" is "avx2" here, without the dot products of
// ARMv8.2 "neon" is "scalar"; none of it shows in the result.
const Int8Kernels& choose_int8_kernels(const std::string& name);

// The same for signs; without AVX-512's BW "avx512" is "avx2" here.
const SignKernels& choose_sign_kernels(const std::string& name);

std::string name_of(const Kernels& kernels);

// Which rows of a memory take part in a call: all, those with a flag, or those of a list.
struct Selection {
    Selection(const bool* keep) : flags(keep) {}
    Selection(const std::int64_t* listed, std::size_t count) : rows(listed), row_count(count) {}

    bool is_all() const { return flags == nullptr && rows == nullptr; }

    const bool* flags = nullptr;         // one per memory row
    const std::int64_t* rows = nullptr;  // ascending, each once
    std::size_t row_count = 0;
};

// For each query the k memory rows of largest similarity. Stored: float or Half; of Half each row
// is multiplied with its scale first, unless `scales` is nullptr, as it is for float.
//
// Requires 1 <= k <= the number of selected rows and queries.columns == memory.columns >= 1.
// threads = 0 means all that the process may use. Writes (Q, k) indices and similarities. Throws
// std::bad_alloc only.
template <class Stored>
Status topk(const Kernels& kernels, Rows<float> queries, Rows<Stored> memory, const float* scales,
            Selection selection, std::size_t k, std::size_t threads, std::int64_t* indices,
            float* similarities);

// The same of integers; at most most_int8_columns wide.
void topk(const Int8Kernels& kernels, Rows<std::int8_t> queries, Rows<std::int8_t> memory,
          Selection selection, std::size_t k, std::size_t threads, std::int64_t* indices,
          std::int32_t* similarities);

// Rows of one bit for each dimension, 64 by 64: data[row / 64][byte][row % 64].
struct SignPanels {
    const std::uint8_t* data;
    std::size_t rows;
    std::size_t bytes;
};

constexpr std::size_t most_sign_bytes = 2730;  // more could overflow the 16 bits of a distance

struct LikeRow {
    std::uint32_t row;
    std::uint16_t distance;  // what the signs count that differ
};

// The rows whose signs differ least from those of a query, ascending: all those within the smallest
// distance that takes in at least `wanted` of the kept rows, or all kept rows if there are fewer.
//
// A sign that differs counts 0 to 3, by the size of the query's element: twice that in units of the
// query's root mean square, rounded. Neither the order of rows nor threads can show. Requires a
// finite query of at most memory.bytes * 8 elements, wanted >= 1 and fewer than 2^32 rows. Throws
// std::bad_alloc only.
std::vector<LikeRow> like_signs(const SignKernels& kernels, const SignPanels& memory,
                                const float* query, std::size_t width, const bool* keep,
                                std::size_t wanted, std::size_t threads);

// What is known of a memory's rows, from the least to the most of it.
struct Looks {
    SignPanels signs;
    Rows<std::int8_t> codes;  // as round_rows makes them
    float unit;               // of the codes
    Rows<Half> rows;
    const float* scales;  // nullptr: none
};

struct Paths {
    const Kernels& floats;
    const Int8Kernels& int8;
    const SignKernels& signs;
};

// For each query the k nearest of the rows that like_signs finds for `likely`, without those that
// bytes put too far back: of 2k + 16, rounded up to a multiple of 32, that are nearest by them the
// products are as topk gives them. Bytes are looked at in the order of distance, all rows of one
// together, until those of the next would have to be nearer than their signs let expect by four
// deviations to be among them.
//
// Requires 1 <= k <= likely, k no more than there are kept rows, equal widths, and what like_signs,
// round_rows and topk require. Writes (Q, k) indices and similarities. Throws std::bad_alloc only.
Status nearest_by_signs(const Paths& paths, Rows<float> queries, const Looks& memory,
                        const bool* keep, std::size_t likely, std::size_t k, std::size_t threads,
                        std::int64_t* indices, float* similarities);

// For each query the sum of the rows of `values`, weighted by softmax over n of scale * q.m_n.
// Stored: float, Half or int8.
//
// One pass over memory and values with a running maximum (online softmax); sums across blocks are
// kept in double. Requires memory.rows == values.rows, at least one kept row, equal widths >= 1,
// and a finite scale. Writes (Q, V) float32. Throws std::bad_alloc only.
template <class Stored>
Status mix(const Kernels& kernels, Rows<float> queries, Rows<Stored> memory, Rows<float> values,
           const bool* keep, float scale, std::size_t threads, float* mixed);

// What makes each row 1 long: float(1 / sqrt(sum of squares)), the sum exact; 0 for a row of zeros.
// Requires finite elements below 1 in sum, as of vectors that were 1 long before they were rounded.
void unit_scales(const Kernels& kernels, Rows<Half> rows, std::size_t threads, float* scales);

constexpr float most_code = 127.0f;

// Rows multiplied with their scales in bytes: each element divided by `unit`, rounded to nearest
// (ties to even), within +-most_code. Writes codes (N, D); for each row at least how far it is from
// what they stand for, and at least its length. Requires finite elements, scales and unit > 0.
void round_rows(const Kernels& kernels, Rows<Half> rows, const float* scales, float unit,
                std::size_t threads, std::int8_t* codes, float* errors, float* lengths);

}  // namespace procmem
