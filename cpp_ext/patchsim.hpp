// The whole C++ interface of procmem._patchsim: nearest rows and softmax-weighted sums of rows.
//
// Called by bindings.cpp, which has checked every argument. Nothing here knows Python.
//
// Layout      All matrices are float32, row-major, dense, aligned to 4 bytes. Outputs never overlap
//             inputs. Nobody may write to the inputs while a call runs.
// Similarity  The dot product q.m is one chain of multiply-adds in the order d = 0, 1, ..., D-1.
//             Its bits depend on the two rows and the path only: not on the position of a row, on
//             Q, N, block sizes or threads. It is symmetric. avx2 and avx512 give equal bits;
//             scalar rounds each product first, unless every processor of its kind has a fused
//             multiply-add (arm64). Error: at most D * 2^-23 * sum |q_d m_d|.
// Order       Larger similarity first; equal similarities by smaller index.
// Threads     Results have the same bits for every thread count.
// Memory      topk_f32: the results, one heap of k per query and thread for a bounded group of
//             queries, and one packed block of memory rows per thread. mix_f32: one row of V
//             doubles per query in flight. Never Q x N.
// Refused     Values that are not finite, or so large that a sum could overflow (see Status).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace procmem {

// A dense row-major float32 matrix that somebody else owns.
struct Matrix {
    const float* data;
    std::size_t rows;
    std::size_t columns;
};

enum class Problem {
    none,
    queries_not_finite,
    memory_not_finite,
    values_not_finite,
    similarity_overflow,  // D * max|q| * max|m| (* |scale|) is beyond half of float32's range
    sum_overflow,         // N * max|v| is beyond half of float32's range
};

// What stopped a call; `row` is the first offending row for the not_finite problems.
struct Status {
    Problem problem;
    std::size_t row;
};

struct Kernels;  // one compiled instruction set, see kernels.hpp

// The paths this processor can run, slowest first; "scalar" is always the first.
std::vector<std::string> available_isas();

// The path of this name; with an empty name the one in the environment variable PROCMEM_ISA, and
// without that the fastest available. Throws std::invalid_argument that says what is possible.
const Kernels& choose_kernels(const std::string& name);

std::string name_of(const Kernels& kernels);

// For each query the k memory rows of largest similarity.
//
// Requires 1 <= k <= memory.rows and queries.columns == memory.columns >= 1. threads = 0 means all
// that the process may use. Writes (Q, k) indices and similarities. Throws std::bad_alloc only.
Status topk_f32(const Kernels& kernels, Matrix queries, Matrix memory, std::size_t k,
                std::size_t threads, std::int64_t* indices, float* similarities);

// For each query the sum of the rows of `values`, weighted by softmax over n of scale * q.m_n.
//
// One pass over memory and values with a running maximum (online softmax); sums across blocks are
// kept in double. Requires memory.rows == values.rows >= 1, equal widths >= 1, and a finite scale.
// Writes (Q, V) float32. Throws std::bad_alloc only.
Status mix_f32(const Kernels& kernels, Matrix queries, Matrix memory, Matrix values, float scale,
               std::size_t threads, float* mixed);

}  // namespace procmem
