// procmem._patchsim: checks every argument, releases the interpreter lock, calls patchsim.hpp.
//
// Converts nothing and computes nothing. A check that fails says what came and what was wanted.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels.hpp"
#include "patchsim.hpp"

namespace py = pybind11;

namespace {

enum class Element { float32, float16, int8 };

struct Type {
    Element element;
    const char* name;
    char kind;  // as numpy's dtype.kind
    std::size_t bytes;
};

constexpr Type types[] = {{Element::float32, "float32", 'f', 4},
                          {Element::float16, "float16", 'f', 2},
                          {Element::int8, "int8", 'i', 1}};

// Whether an array has this kind of elements, in native byte order. To make a numpy.dtype of each
// name and compare it takes longer than some calls take in all.
bool holds(const py::array& array, char kind, std::size_t bytes) {
    const py::dtype type = array.dtype();
    return type.kind() == kind && static_cast<std::size_t>(type.itemsize()) == bytes &&
           (type.byteorder() == '=' || type.byteorder() == '|');
}

// A matrix as it came, with its checked type.
struct Matrix {
    const void* data;
    const Type* type;
    std::size_t rows;
    std::size_t columns;

    template <class T>
    procmem::Rows<T> as() const {
        return {static_cast<const T*>(data), rows, columns};
    }
};

std::string shape_of(const py::array& array) {
    return py::cast<std::string>(py::str(array.attr("shape")));
}

std::string type_name(const py::handle& object) {
    return py::cast<std::string>(py::type::of(object).attr("__name__"));
}

// The array behind `object`, which must already be exactly what the kernels read.
Matrix checked(const py::object& object, const std::string& name,
               std::initializer_list<Element> wanted) {
    const auto names = [&] {
        std::string all;
        for (const Type& type : types) {
            if (std::count(wanted.begin(), wanted.end(), type.element) > 0) {
                all += (all.empty() ? "" : " or ") + std::string(type.name);
            }
        }
        return all;
    };
    if (!py::isinstance<py::array>(object)) {
        throw py::type_error(name + " is a " + type_name(object) + ", wanted a 2-D " + names() +
                             " numpy.ndarray");
    }
    const auto array = py::reinterpret_borrow<py::array>(object);
    const Type* found = nullptr;
    for (const Type& type : types) {
        if (holds(array, type.kind, type.bytes) &&
            std::count(wanted.begin(), wanted.end(), type.element) > 0) {
            found = &type;
        }
    }
    if (found == nullptr) {
        throw py::type_error(name + " has dtype " + py::cast<std::string>(py::str(array.dtype())) +
                             ", wanted " + names() +
                             " in native byte order; convert it with "
                             "numpy.ascontiguousarray(" +
                             name + ", numpy." + types[static_cast<int>(*wanted.begin())].name +
                             ")");
    }
    if (array.ndim() != 2) {
        throw py::value_error(name + " has shape " + shape_of(array) + ", wanted 2 dimensions");
    }
    if ((array.flags() & py::array::c_style) == 0) {
        throw py::value_error(name + " with shape " + shape_of(array) +
                              " is not C-contiguous; pass numpy.ascontiguousarray(" + name + ")");
    }
    if (reinterpret_cast<std::uintptr_t>(array.data()) % found->bytes != 0) {
        throw py::value_error(name + " is not aligned to " + std::to_string(found->bytes) +
                              " bytes; pass a copy, " + name + ".copy()");
    }
    return {array.data(), found, static_cast<std::size_t>(array.shape(0)),
            static_cast<std::size_t>(array.shape(1))};
}

std::string shape_text(const Matrix& matrix) {
    return "(" + std::to_string(matrix.rows) + ", " + std::to_string(matrix.columns) + ")";
}

void check_widths(const Matrix& queries, const Matrix& memory, const std::string& name = "memory") {
    if (queries.columns != memory.columns) {
        throw py::value_error("queries have shape " + shape_text(queries) + " and " + name + " " +
                              shape_text(memory) + "; wanted the same width (second number)");
    }
    if (queries.columns == 0) {
        throw py::value_error("queries have shape " + shape_text(queries) +
                              "; wanted a width of at least 1");
    }
    if (queries.type->element == Element::int8 && queries.columns > procmem::most_int8_columns) {
        throw py::value_error("queries have shape " + shape_text(queries) +
                              "; wanted an int8 width of at most " +
                              std::to_string(procmem::most_int8_columns));
    }
}

// Which rows of the memory are asked.
struct Keep {
    const bool* flags;  // nullptr: all
    std::size_t count;
};

Keep checked_keep(const py::object& object, std::size_t rows) {
    if (object.is_none()) {
        return {nullptr, rows};
    }
    const std::string wanted =
        "bool of shape (" + std::to_string(rows) + ",), one flag per row of memory, C-contiguous";
    if (!py::isinstance<py::array>(object)) {
        throw py::type_error("keep is a " + type_name(object) + ", wanted None or " + wanted);
    }
    const auto array = py::reinterpret_borrow<py::array>(object);
    if (!holds(array, 'b', 1)) {
        throw py::type_error("keep has dtype " + py::cast<std::string>(py::str(array.dtype())) +
                             ", wanted " + wanted);
    }
    if (array.ndim() != 1 || static_cast<std::size_t>(array.shape(0)) != rows ||
        (array.flags() & py::array::c_style) == 0) {
        throw py::value_error("keep has shape " + shape_of(array) + ", wanted " + wanted);
    }
    // Read as bytes: only numpy's own operations are sure to leave nothing but 0 and 1 in a bool.
    const auto* bytes = static_cast<const unsigned char*>(array.data());
    const auto more = std::find_if(bytes, bytes + rows, [](unsigned char b) { return b > 1; });
    if (more != bytes + rows) {
        throw py::value_error("keep holds the byte " + std::to_string(*more) +
                              ", wanted 0 and 1 only; pass keep.view(numpy.uint8) != 0");
    }
    return {static_cast<const bool*>(array.data()),
            static_cast<std::size_t>(std::count(bytes, bytes + rows, 1))};
}

// A one-dimensional array of exactly this type, in C order.
template <class Value>
const Value* checked_line(const py::object& object, const std::string& name, const char* type,
                          std::size_t length, bool any_length = false) {
    const auto wanted = [&] {
        return type + std::string(" of shape (") + (any_length ? "R" : std::to_string(length)) +
               ",), C-contiguous";
    };
    if (!py::isinstance<py::array>(object)) {
        throw py::type_error(name + " is a " + type_name(object) + ", wanted " + wanted());
    }
    const auto array = py::reinterpret_borrow<py::array>(object);
    constexpr char kind = std::is_floating_point<Value>::value ? 'f'
                          : std::is_signed<Value>::value       ? 'i'
                                                               : 'u';
    if (!holds(array, kind, sizeof(Value))) {
        throw py::type_error(name + " has dtype " + py::cast<std::string>(py::str(array.dtype())) +
                             ", wanted " + wanted());
    }
    if (array.ndim() != 1 || (array.flags() & py::array::c_style) == 0 ||
        (!any_length && static_cast<std::size_t>(array.shape(0)) != length) ||
        reinterpret_cast<std::uintptr_t>(array.data()) % sizeof(Value) != 0) {
        throw py::value_error(name + " has shape " + shape_of(array) + ", wanted " + wanted());
    }
    return static_cast<const Value*>(array.data());
}

// The list of rows that are asked, or the flags: at most one of them is given.
std::pair<procmem::Selection, std::size_t> checked_selection(const py::object& keep_object,
                                                             const py::object& rows_object,
                                                             std::size_t rows) {
    const Keep keep = checked_keep(keep_object, rows);
    if (rows_object.is_none()) {
        return {procmem::Selection(keep.flags), keep.count};
    }
    if (!keep_object.is_none()) {
        throw py::value_error("keep and rows are both given, wanted at most one of them");
    }
    const auto* listed = checked_line<std::int64_t>(rows_object, "rows", "int64", 0, true);
    const auto count = static_cast<std::size_t>(py::len(rows_object));
    for (std::size_t i = 0; i < count; ++i) {
        const std::int64_t least = i == 0 ? 0 : listed[i - 1] + 1;
        if (listed[i] < least || listed[i] >= static_cast<std::int64_t>(rows)) {
            throw py::value_error("rows holds " + std::to_string(listed[i]) + " at " +
                                  std::to_string(i) + ", wanted ascending numbers below " +
                                  std::to_string(rows) + ", each once");
        }
    }
    return {procmem::Selection(listed, count), count};
}

std::size_t checked_threads(py::ssize_t threads) {
    if (threads < 0) {
        throw py::value_error("threads is " + std::to_string(threads) +
                              ", wanted 0 (all cores) or more");
    }
    return static_cast<std::size_t>(threads);
}

void raise_unless_fine(const procmem::Status& status, double scale,
                       const std::string& memory = "memory") {
    const auto not_finite = [&](const std::string& name) {
        return py::value_error(name + " has a value in row " + std::to_string(status.row) +
                               " that is not finite (NaN or infinity); wanted finite numbers, "
                               "remove or recompute that row");
    };
    switch (status.problem) {
        case procmem::Problem::none:
            return;
        case procmem::Problem::queries_not_finite:
            throw not_finite("queries");
        case procmem::Problem::memory_not_finite:
            throw not_finite(memory);
        case procmem::Problem::values_not_finite:
            throw not_finite("values");
        case procmem::Problem::scales_not_finite:
            throw not_finite("scales");
        case procmem::Problem::similarity_overflow:
            throw py::value_error("queries and " + memory + " are so large (at scale " +
                                  std::to_string(scale) +
                                  ") that their dot products can exceed float32's range of 3.4e38; "
                                  "normalize the rows");
        case procmem::Problem::sum_overflow:
            throw py::value_error(
                "values are so large that their sum can exceed float32's range of 3.4e38; wanted "
                "rows * max|values| below 1.7e38, scale them down");
    }
}

std::vector<py::ssize_t> shape(std::size_t rows, std::size_t columns) {
    return {static_cast<py::ssize_t>(rows), static_cast<py::ssize_t>(columns)};
}

// What each row of float16 is multiplied with; nullptr: nothing. Of listed rows only theirs is
// read.
const float* checked_scales(const py::object& object, const Matrix& memory,
                            const procmem::Selection& selection) {
    if (object.is_none()) {
        return nullptr;
    }
    if (memory.type->element != Element::float16) {
        throw py::type_error(std::string("scales are given for memory of ") + memory.type->name +
                             ", wanted them for float16 only");
    }
    const auto* scales = checked_line<float>(object, "scales", "float32", memory.rows);
    const bool listed = selection.rows != nullptr;
    for (std::size_t i = 0; i < (listed ? selection.row_count : memory.rows); ++i) {
        const std::size_t row = listed ? static_cast<std::size_t>(selection.rows[i]) : i;
        if (!std::isfinite(scales[row])) {
            throw py::value_error("scales holds " + std::to_string(scales[row]) + " at " +
                                  std::to_string(row) + ", wanted finite numbers");
        }
    }
    return scales;
}

py::tuple topk(const py::object& queries_object, const py::object& memory_object, py::ssize_t k,
               py::ssize_t threads, const py::object& keep_object, const py::object& rows_object,
               const py::object& scales_object, const std::string& isa) {
    const Matrix queries = checked(queries_object, "queries", {Element::float32, Element::int8});
    const bool is_int8 = queries.type->element == Element::int8;
    const Matrix memory =
        is_int8 ? checked(memory_object, "memory", {Element::int8})
                : checked(memory_object, "memory", {Element::float32, Element::float16});
    check_widths(queries, memory);
    if (k < 1) {
        throw py::value_error("k is " + std::to_string(k) + ", wanted at least 1");
    }
    const std::size_t thread_count = checked_threads(threads);
    const auto [selection, selected] = checked_selection(keep_object, rows_object, memory.rows);
    const float* scales = checked_scales(scales_object, memory, selection);
    const procmem::Kernels& kernels = procmem::choose_kernels(isa);
    const procmem::Int8Kernels& int8_kernels = procmem::choose_int8_kernels(isa);
    const std::size_t found = std::min(static_cast<std::size_t>(k), selected);

    py::array_t<std::int64_t> indices(shape(queries.rows, found));
    const py::array similarities(is_int8 ? py::dtype("int32") : py::dtype("float32"),
                                 shape(queries.rows, found));
    if (queries.rows > 0 && found > 0) {
        std::int64_t* index_data = indices.mutable_data();
        void* similarity_data = const_cast<void*>(similarities.data());
        procmem::Status status{};
        {
            py::gil_scoped_release release;
            if (is_int8) {
                procmem::topk(int8_kernels, queries.as<std::int8_t>(), memory.as<std::int8_t>(),
                              selection, found, thread_count, index_data,
                              static_cast<std::int32_t*>(similarity_data));
            } else if (memory.type->element == Element::float16) {
                status = procmem::topk(kernels, queries.as<float>(), memory.as<procmem::Half>(),
                                       scales, selection, found, thread_count, index_data,
                                       static_cast<float*>(similarity_data));
            } else {
                status = procmem::topk(kernels, queries.as<float>(), memory.as<float>(), nullptr,
                                       selection, found, thread_count, index_data,
                                       static_cast<float*>(similarity_data));
            }
        }
        raise_unless_fine(status, 1.0);
    }
    return py::make_tuple(indices, similarities);
}

py::array_t<float> mix(const py::object& queries_object, const py::object& memory_object,
                       const py::object& values_object, double scale, py::ssize_t threads,
                       const py::object& keep_object, const std::string& isa) {
    const Matrix queries = checked(queries_object, "queries", {Element::float32});
    const Matrix memory =
        checked(memory_object, "memory", {Element::float32, Element::float16, Element::int8});
    const Matrix values = checked(values_object, "values", {Element::float32});
    check_widths(queries, memory);
    if (values.rows != memory.rows) {
        throw py::value_error("values have shape " + shape_text(values) + " and memory " +
                              shape_text(memory) + "; wanted one row of values per row of memory");
    }
    const Keep keep = checked_keep(keep_object, memory.rows);
    if (keep.count == 0) {
        throw py::value_error("memory has shape " + shape_text(memory) + " and " +
                              std::to_string(keep.count) +
                              " kept rows; wanted at least 1 row, there is nothing to mix");
    }
    const float narrow_scale = static_cast<float>(scale);
    if (!std::isfinite(narrow_scale)) {
        throw py::value_error("scale is " + std::to_string(scale) + ", wanted a finite float32");
    }
    const std::size_t thread_count = checked_threads(threads);
    const procmem::Kernels& kernels = procmem::choose_kernels(isa);

    py::array_t<float> mixed(shape(queries.rows, values.columns));
    if (queries.rows > 0 && values.columns > 0) {
        float* mixed_data = mixed.mutable_data();
        procmem::Status status{};
        {
            py::gil_scoped_release release;
            const auto mix_stored = [&](auto stored) {
                return procmem::mix(kernels, queries.as<float>(), stored, values.as<float>(),
                                    keep.flags, narrow_scale, thread_count, mixed_data);
            };
            switch (memory.type->element) {
                case Element::float32:
                    status = mix_stored(memory.as<float>());
                    break;
                case Element::float16:
                    status = mix_stored(memory.as<procmem::Half>());
                    break;
                case Element::int8:
                    status = mix_stored(memory.as<std::int8_t>());
                    break;
            }
        }
        raise_unless_fine(status, scale);
    }
    return mixed;
}

procmem::SignPanels checked_panels(const py::object& object, const std::string& name,
                                   py::ssize_t count) {
    if (!py::isinstance<py::array>(object)) {
        throw py::type_error(name + " is a " + type_name(object) +
                             ", wanted a 3-D uint8 numpy.ndarray");
    }
    const auto memory = py::reinterpret_borrow<py::array>(object);
    if (!holds(memory, 'u', sizeof(std::uint8_t)) || memory.ndim() != 3 ||
        static_cast<std::size_t>(memory.shape(2)) != procmem::sign_rows ||
        (memory.flags() & py::array::c_style) == 0) {
        throw py::value_error(name + " is " + py::cast<std::string>(py::str(memory.dtype())) +
                              " of shape " + shape_of(memory) +
                              ", wanted uint8 of shape (panels, bytes, 64), C-contiguous");
    }
    const auto bytes = static_cast<std::size_t>(memory.shape(1));
    if (bytes < 1 || bytes > procmem::most_sign_bytes) {
        throw py::value_error(name + " has shape " + shape_of(memory) + ", wanted 1 to " +
                              std::to_string(procmem::most_sign_bytes) + " bytes");
    }
    if (count < 0 ||
        (static_cast<std::size_t>(count) + procmem::sign_rows - 1) / procmem::sign_rows !=
            static_cast<std::size_t>(memory.shape(0))) {
        throw py::value_error("there are " + std::to_string(count) + " rows and " + name +
                              " has shape " + shape_of(memory) +
                              "; wanted one panel for every 64 rows");
    }
    return {static_cast<const std::uint8_t*>(memory.data()), static_cast<std::size_t>(count),
            bytes};
}

py::array_t<std::int64_t> like_signs(const py::object& query_object,
                                     const py::object& memory_object, py::ssize_t count,
                                     py::ssize_t wanted, py::ssize_t threads,
                                     const py::object& keep_object, const std::string& isa) {
    const procmem::SignPanels memory = checked_panels(memory_object, "memory", count);
    const auto* query = checked_line<float>(query_object, "query", "float32", 0, true);
    const auto width = static_cast<std::size_t>(py::len(query_object));
    if ((width + 7) / 8 != memory.bytes) {
        throw py::value_error("query has shape (" + std::to_string(width) + ",), and rows have " +
                              std::to_string(memory.bytes) +
                              " bytes; wanted one for every 8 elements");
    }
    const float* const end = query + width;
    const float* bad = std::find_if(query, end, [](float one) { return !std::isfinite(one); });
    if (bad != end) {
        throw py::value_error("query holds " + std::to_string(*bad) + " at " +
                              std::to_string(bad - query) + ", wanted finite numbers");
    }
    if (wanted < 1) {
        throw py::value_error("wanted is " + std::to_string(wanted) + ", wanted at least 1");
    }
    const std::size_t thread_count = checked_threads(threads);
    const Keep keep = checked_keep(keep_object, memory.rows);
    const procmem::SignKernels& kernels = procmem::choose_sign_kernels(isa);
    std::vector<procmem::LikeRow> found;
    {
        py::gil_scoped_release release;
        found = procmem::like_signs(kernels, memory, query, width, keep.flags,
                                    static_cast<std::size_t>(wanted), thread_count);
    }
    py::array_t<std::int64_t> result(static_cast<py::ssize_t>(found.size()));
    std::transform(found.begin(), found.end(), result.mutable_data(),
                   [](const procmem::LikeRow& one) { return std::int64_t{one.row}; });
    return result;
}

void check_codes(const Matrix& codes, const Matrix& rows) {
    if (codes.rows != rows.rows || codes.columns != rows.columns) {
        throw py::value_error("codes have shape " + shape_text(codes) + " and rows " +
                              shape_text(rows) + "; wanted one byte for every element");
    }
}

void check_unit(double unit) {
    const auto narrow = static_cast<float>(unit);
    if (!(narrow > 0) || !std::isfinite(1 / narrow)) {
        throw py::value_error("unit is " + std::to_string(unit) + ", wanted a number above 0");
    }
}

py::tuple nearest_by_signs(const py::object& queries_object, const py::object& rows_object,
                           py::ssize_t k, const py::object& signs_object,
                           const py::object& codes_object, double unit, py::ssize_t likely,
                           py::ssize_t threads, const py::object& scales_object,
                           const py::object& keep_object, const std::string& isa) {
    const Matrix queries = checked(queries_object, "queries", {Element::float32});
    const Matrix rows = checked(rows_object, "rows", {Element::float16});
    check_widths(queries, rows, "rows");
    const procmem::SignPanels signs =
        checked_panels(signs_object, "signs", static_cast<py::ssize_t>(rows.rows));
    if ((rows.columns + 7) / 8 != signs.bytes) {
        throw py::value_error("rows have shape " + shape_text(rows) + ", and their signs " +
                              std::to_string(signs.bytes) +
                              " bytes; wanted one for every 8 elements");
    }
    const Matrix codes = checked(codes_object, "codes", {Element::int8});
    check_codes(codes, rows);
    check_unit(unit);
    if (k < 1 || likely < k) {
        throw py::value_error("k is " + std::to_string(k) + " and likely is " +
                              std::to_string(likely) + "; wanted 1 <= k <= likely");
    }
    const float* scales = scales_object.is_none()
                              ? nullptr
                              : checked_line<float>(scales_object, "scales", "float32", rows.rows);
    const std::size_t thread_count = checked_threads(threads);
    const Keep keep = checked_keep(keep_object, rows.rows);
    const procmem::Paths paths{procmem::choose_kernels(isa), procmem::choose_int8_kernels(isa),
                               procmem::choose_sign_kernels(isa)};
    const std::size_t found = std::min(static_cast<std::size_t>(k), keep.count);

    py::array_t<std::int64_t> indices(shape(queries.rows, found));
    py::array_t<float> similarities(shape(queries.rows, found));
    if (found > 0) {
        std::int64_t* index_data = indices.mutable_data();
        float* similarity_data = similarities.mutable_data();
        const procmem::Looks memory{signs, codes.as<std::int8_t>(), static_cast<float>(unit),
                                    rows.as<procmem::Half>(), scales};
        procmem::Status status{};
        {
            py::gil_scoped_release release;
            status = procmem::nearest_by_signs(paths, queries.as<float>(), memory, keep.flags,
                                               static_cast<std::size_t>(likely), found,
                                               thread_count, index_data, similarity_data);
        }
        raise_unless_fine(status, 1.0, "rows");
    }
    return py::make_tuple(indices, similarities);
}

py::array_t<float> unit_scales(const py::object& rows_object, py::ssize_t threads,
                               const std::string& isa) {
    const Matrix rows = checked(rows_object, "rows", {Element::float16});
    const std::size_t thread_count = checked_threads(threads);
    const procmem::Kernels& kernels = procmem::choose_kernels(isa);
    py::array_t<float> scales(static_cast<py::ssize_t>(rows.rows));
    float* target = scales.mutable_data();
    py::gil_scoped_release release;
    procmem::unit_scales(kernels, rows.as<procmem::Half>(), thread_count, target);
    return scales;
}

void check_writeable(const py::object& object, const std::string& name) {
    if (!py::reinterpret_borrow<py::array>(object).writeable()) {
        throw py::value_error(name + " is read-only, wanted an array that may be written to");
    }
}

void round_rows(const py::object& rows_object, const py::object& scales_object, double unit,
                const py::object& codes_object, const py::object& errors_object,
                const py::object& lengths_object, py::ssize_t threads, const std::string& isa) {
    const Matrix rows = checked(rows_object, "rows", {Element::float16});
    const auto* scales = checked_line<float>(scales_object, "scales", "float32", rows.rows);
    const Matrix codes = checked(codes_object, "codes", {Element::int8});
    const auto* errors = checked_line<float>(errors_object, "errors", "float32", rows.rows);
    const auto* lengths = checked_line<float>(lengths_object, "lengths", "float32", rows.rows);
    check_codes(codes, rows);
    check_writeable(codes_object, "codes");
    check_writeable(errors_object, "errors");
    check_writeable(lengths_object, "lengths");
    check_unit(unit);
    const std::size_t thread_count = checked_threads(threads);
    const procmem::Kernels& kernels = procmem::choose_kernels(isa);
    auto* target = const_cast<std::int8_t*>(codes.as<std::int8_t>().data);
    py::gil_scoped_release release;
    procmem::round_rows(kernels, rows.as<procmem::Half>(), scales, static_cast<float>(unit),
                        thread_count, target, const_cast<float*>(errors),
                        const_cast<float*>(lengths));
}

}  // namespace

PYBIND11_MODULE(_patchsim, module) {
    module.doc() = "Patch similarity on the CPU; procmem.patchsim is the way to call it.";
    module.def("topk", &topk, py::arg("queries"), py::arg("memory"), py::arg("k"),
               py::arg("threads") = 0, py::kw_only(), py::arg("keep") = py::none(),
               py::arg("rows") = py::none(), py::arg("scales") = py::none(), py::arg("isa") = "",
               "Indices (Q, K) int64 and similarities (Q, K) float32, int32 of int8, of the K = "
               "min(k, selected rows) nearest memory rows of each query: larger dot product first, "
               "ties by smaller index.");
    module.def("mix", &mix, py::arg("queries"), py::arg("memory"), py::arg("values"),
               py::arg("scale"), py::arg("threads") = 0, py::kw_only(),
               py::arg("keep") = py::none(), py::arg("isa") = "",
               "(Q, V) float32: rows of values weighted by softmax(scale * queries . memory).");
    module.def("like_signs", &like_signs, py::arg("query"), py::arg("memory"), py::arg("count"),
               py::arg("wanted"), py::arg("threads") = 0, py::kw_only(),
               py::arg("keep") = py::none(), py::arg("isa") = "",
               "Ascending int64: the rows whose signs differ least, at least `wanted`.");
    module.def("nearest_by_signs", &nearest_by_signs, py::arg("queries"), py::arg("rows"),
               py::arg("k"), py::arg("signs"), py::arg("codes"), py::arg("unit"), py::arg("likely"),
               py::arg("threads") = 0, py::kw_only(), py::arg("scales") = py::none(),
               py::arg("keep") = py::none(), py::arg("isa") = "",
               "Indices (Q, K) int64 and similarities (Q, K) float32 of the nearest rows among the "
               "`likely` whose signs differ least.");
    module.def("unit_scales", &unit_scales, py::arg("rows"), py::arg("threads") = 0, py::kw_only(),
               py::arg("isa") = "", "(N,) float32: what makes each row of float16 1 long.");
    module.def("round_rows", &round_rows, py::arg("rows"), py::arg("scales"), py::arg("unit"),
               py::arg("codes"), py::arg("errors"), py::arg("lengths"), py::arg("threads") = 0,
               py::kw_only(), py::arg("isa") = "",
               "Writes scaled rows of float16 as bytes, how far off these are, and lengths.");
    module.def(
        "isa", [] { return procmem::name_of(procmem::choose_kernels("")); },
        "The path that calls use now.");
    module.def("available_isas", &procmem::available_isas,
               "The paths that this processor can run, slowest first.");
}
