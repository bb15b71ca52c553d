// procmem._patchsim: checks every argument, releases the interpreter lock, calls patchsim.hpp.
//
// Converts nothing and computes nothing. A check that fails says what came and what was wanted.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "patchsim.hpp"

namespace py = pybind11;

namespace {

std::string shape_of(const py::array& array) {
    return py::cast<std::string>(py::str(array.attr("shape")));
}

std::string type_name(const py::handle& object) {
    return py::cast<std::string>(py::type::of(object).attr("__name__"));
}

// The array behind `object`, which must already be exactly what the kernels read.
procmem::Matrix checked(const py::object& object, const std::string& name) {
    if (!py::isinstance<py::array>(object)) {
        throw py::type_error(name + " is a " + type_name(object) +
                             ", wanted a 2-D float32 numpy.ndarray");
    }
    const auto array = py::reinterpret_borrow<py::array>(object);
    if (!py::isinstance<py::array_t<float>>(array)) {
        throw py::type_error(name + " has dtype " + py::cast<std::string>(py::str(array.dtype())) +
                             ", wanted float32 in native byte order; convert it with "
                             "numpy.ascontiguousarray(" +
                             name + ", numpy.float32)");
    }
    if (array.ndim() != 2) {
        throw py::value_error(name + " has shape " + shape_of(array) + ", wanted 2 dimensions");
    }
    if ((array.flags() & py::array::c_style) == 0) {
        throw py::value_error(name + " with shape " + shape_of(array) +
                              " is not C-contiguous; pass numpy.ascontiguousarray(" + name + ")");
    }
    if (reinterpret_cast<std::uintptr_t>(array.data()) % alignof(float) != 0) {
        throw py::value_error(name + " is not aligned to 4 bytes; pass a copy, " + name +
                              ".copy()");
    }
    return {static_cast<const float*>(array.data()), static_cast<std::size_t>(array.shape(0)),
            static_cast<std::size_t>(array.shape(1))};
}

std::string shape_text(procmem::Matrix matrix) {
    return "(" + std::to_string(matrix.rows) + ", " + std::to_string(matrix.columns) + ")";
}

void check_widths(procmem::Matrix queries, procmem::Matrix memory) {
    if (queries.columns != memory.columns) {
        throw py::value_error("queries have shape " + shape_text(queries) + " and memory " +
                              shape_text(memory) + "; wanted the same width (second number)");
    }
    if (queries.columns == 0) {
        throw py::value_error("queries have shape " + shape_text(queries) +
                              "; wanted a width of at least 1");
    }
}

std::size_t checked_threads(py::ssize_t threads) {
    if (threads < 0) {
        throw py::value_error("threads is " + std::to_string(threads) +
                              ", wanted 0 (all cores) or more");
    }
    return static_cast<std::size_t>(threads);
}

void raise_unless_fine(const procmem::Status& status, double scale) {
    const auto not_finite = [&](const std::string& name) {
        return py::value_error(name + " has a value in row " + std::to_string(status.row) +
                               " that is not finite (NaN or infinity); wanted finite float32, "
                               "remove or recompute that row");
    };
    switch (status.problem) {
        case procmem::Problem::none:
            return;
        case procmem::Problem::queries_not_finite:
            throw not_finite("queries");
        case procmem::Problem::memory_not_finite:
            throw not_finite("memory");
        case procmem::Problem::values_not_finite:
            throw not_finite("values");
        case procmem::Problem::similarity_overflow:
            throw py::value_error("queries and memory are so large (at scale " +
                                  std::to_string(scale) +
                                  ") that their dot products can exceed float32's range of 3.4e38; "
                                  "normalize the rows");
        case procmem::Problem::sum_overflow:
            throw py::value_error(
                "values are so large that their sum can exceed float32's range of 3.4e38; wanted "
                "rows * max|values| below 1.7e38, scale them down");
    }
}

py::tuple topk_f32(const py::object& queries_object, const py::object& memory_object, py::ssize_t k,
                   py::ssize_t threads, const std::string& isa) {
    const procmem::Matrix queries = checked(queries_object, "queries");
    const procmem::Matrix memory = checked(memory_object, "memory");
    check_widths(queries, memory);
    if (k < 1) {
        throw py::value_error("k is " + std::to_string(k) + ", wanted at least 1");
    }
    const std::size_t thread_count = checked_threads(threads);
    const procmem::Kernels& kernels = procmem::choose_kernels(isa);
    const std::size_t kept = std::min(static_cast<std::size_t>(k), memory.rows);

    const std::vector<py::ssize_t> shape{static_cast<py::ssize_t>(queries.rows),
                                         static_cast<py::ssize_t>(kept)};
    py::array_t<std::int64_t> indices(shape);
    py::array_t<float> similarities(shape);
    if (queries.rows > 0 && kept > 0) {
        std::int64_t* index_data = indices.mutable_data();
        float* similarity_data = similarities.mutable_data();
        procmem::Status status{};
        {
            py::gil_scoped_release release;
            status = procmem::topk_f32(kernels, queries, memory, kept, thread_count, index_data,
                                       similarity_data);
        }
        raise_unless_fine(status, 1.0);
    }
    return py::make_tuple(indices, similarities);
}

py::array_t<float> mix_f32(const py::object& queries_object, const py::object& memory_object,
                           const py::object& values_object, double scale, py::ssize_t threads,
                           const std::string& isa) {
    const procmem::Matrix queries = checked(queries_object, "queries");
    const procmem::Matrix memory = checked(memory_object, "memory");
    const procmem::Matrix values = checked(values_object, "values");
    check_widths(queries, memory);
    if (values.rows != memory.rows) {
        throw py::value_error("values have shape " + shape_text(values) + " and memory " +
                              shape_text(memory) + "; wanted one row of values per row of memory");
    }
    if (memory.rows == 0) {
        throw py::value_error("memory has shape " + shape_text(memory) +
                              "; wanted at least 1 row, there is nothing to mix");
    }
    const float narrow_scale = static_cast<float>(scale);
    if (!std::isfinite(narrow_scale)) {
        throw py::value_error("scale is " + std::to_string(scale) + ", wanted a finite float32");
    }
    const std::size_t thread_count = checked_threads(threads);
    const procmem::Kernels& kernels = procmem::choose_kernels(isa);

    py::array_t<float> mixed(std::vector<py::ssize_t>{static_cast<py::ssize_t>(queries.rows),
                                                      static_cast<py::ssize_t>(values.columns)});
    if (queries.rows > 0 && values.columns > 0) {
        float* mixed_data = mixed.mutable_data();
        procmem::Status status{};
        {
            py::gil_scoped_release release;
            status = procmem::mix_f32(kernels, queries, memory, values, narrow_scale, thread_count,
                                      mixed_data);
        }
        raise_unless_fine(status, scale);
    }
    return mixed;
}

}  // namespace

PYBIND11_MODULE(_patchsim, module) {
    module.doc() = "Patch similarity on the CPU; procmem.patchsim is the way to call it.";
    module.def("topk_f32", &topk_f32, py::arg("queries"), py::arg("memory"), py::arg("k"),
               py::arg("threads") = 0, py::kw_only(), py::arg("isa") = "",
               "Indices (Q, K) int64 and similarities (Q, K) float32 of the K = min(k, N) nearest "
               "memory rows of each query: larger dot product first, ties by smaller index.");
    module.def("mix_f32", &mix_f32, py::arg("queries"), py::arg("memory"), py::arg("values"),
               py::arg("scale"), py::arg("threads") = 0, py::kw_only(), py::arg("isa") = "",
               "(Q, V) float32: rows of values weighted by softmax(scale * queries . memory).");
    module.def(
        "isa", [] { return procmem::name_of(procmem::choose_kernels("")); },
        "The path that calls use now.");
    module.def("available_isas", &procmem::available_isas,
               "The paths that this processor can run, slowest first.");
}
