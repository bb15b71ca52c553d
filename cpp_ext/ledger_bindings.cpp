// procmem._ledger: takes rows as sqlite3 gives them, calls ledger_items.hpp without the
// interpreter.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "ledger_items.hpp"
#include "rows_from_python.hpp"

namespace py = pybind11;

namespace {

constexpr py::ssize_t columns = 6;  // id, vector, label, source, added_seconds, checksum

// False if a value is of another type than a sound row has. `row` borrows from `object`.
bool take_row(PyObject* object, procmem::ItemRow& row) {
    if (!PyTuple_CheckExact(object) || PyTuple_GET_SIZE(object) != columns) {
        return false;
    }
    const auto at = [object](py::ssize_t column) { return PyTuple_GET_ITEM(object, column); };
    return take_number(at(0), row.id) && take_bytes(at(1), row.vector) &&
           take_text(at(2), row.label) && take_text(at(3), row.source) &&
           take_number(at(4), row.added_seconds) && take_number(at(5), row.checksum);
}

py::array_t<std::uint16_t> checked_target(const py::array& vectors, std::size_t rows) {
    if (!vectors.dtype().equal(py::dtype("float16")) || vectors.ndim() != 2 ||
        static_cast<std::size_t>(vectors.shape(0)) != rows || !vectors.writeable() ||
        (vectors.flags() & py::array::c_style) == 0) {
        throw py::value_error("vectors are " + py::cast<std::string>(py::str(vectors.dtype())) +
                              " of shape " + py::cast<std::string>(py::str(vectors.attr("shape"))) +
                              ", wanted writable C-contiguous float16, one row for each of " +
                              std::to_string(rows));
    }
    return py::reinterpret_borrow<py::array_t<std::uint16_t>>(vectors.attr("view")("uint16"));
}

// The rows of a list, and what keeps them alive. Not `sound` if a value has another type.
struct Held {
    explicit Held(const py::list& list) : kept(list), rows(kept.size()) {
        for (std::size_t i = 0; i < rows.size() && sound; ++i) {
            sound = take_row(at(i), rows[i]);
        }
    }

    PyObject* at(std::size_t row) const {
        return PyTuple_GET_ITEM(kept.ptr(), static_cast<py::ssize_t>(row));
    }

    py::tuple kept;  // whatever becomes of the list
    std::vector<procmem::ItemRow> rows;
    bool sound = true;
};

std::uint64_t sum_of_checksums(const std::vector<procmem::ItemRow>& rows) {
    std::uint64_t sum = 0;
    for (const procmem::ItemRow& row : rows) {
        sum += static_cast<std::uint64_t>(row.checksum);
    }
    return sum;
}

py::object check_items(const py::list& rows, std::size_t threads) {
    const Held held(rows);
    bool right = held.sound;
    if (right) {
        py::gil_scoped_release release;
        right = procmem::check_items(held.rows, threads);
    }
    if (!right) {
        return py::none();
    }
    return py::int_(sum_of_checksums(held.rows));
}

py::object take_items(const py::list& rows_object, const py::array& vectors_object,
                      std::size_t threads) {
    const Held held(rows_object);
    const auto& rows = held.rows;
    auto vectors = checked_target(vectors_object, rows.size());
    bool right = held.sound;
    if (right) {
        std::uint16_t* target = vectors.mutable_data();
        const auto width = static_cast<std::size_t>(vectors.shape(1));
        py::gil_scoped_release release;
        right = procmem::take_items(rows, width, threads, target);
    }
    if (!right) {
        return py::none();
    }
    py::array_t<std::int64_t> ids(static_cast<py::ssize_t>(rows.size()));
    py::array_t<std::int64_t> seconds(static_cast<py::ssize_t>(rows.size()));
    py::list labels(rows.size());
    py::list sources(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
        ids.mutable_data()[i] = rows[i].id;
        seconds.mutable_data()[i] = rows[i].added_seconds;
        labels[i] = py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(held.at(i), 2));
        sources[i] = py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(held.at(i), 3));
    }
    return py::make_tuple(ids, labels, sources, seconds, sum_of_checksums(rows));
}

}  // namespace

PYBIND11_MODULE(_ledger, module) {
    module.doc() = "Rows of a ledger, many at once; procmem.rows is the way to read them.";
    module.def("check_items", &check_items, py::arg("rows"), py::arg("threads") = 0,
               "The sum of the checksums of rows of PlainRows.select_items. None if a row has "
               "another type or does not match its checksum.");
    module.def("take_items", &take_items, py::arg("rows"), py::arg("vectors"),
               py::arg("threads") = 0,
               "ids (N,) int64, labels, sources, added_seconds (N,) int64 and the sum of the "
               "checksums of rows of PlainRows.select_items; writes their vectors to (N, D) "
               "float16. None if a row has another type, does not match its checksum, or its "
               "vector has another size or is not finite.");
}
