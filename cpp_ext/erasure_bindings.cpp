// procmem._erasure: what a deletion looks for and commits to, without the interpreter.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "commitments.hpp"
#include "ledger_pass.hpp"
#include "rows_from_python.hpp"
#include "windows.hpp"

namespace py = pybind11;

namespace {

using ByteRows = py::array_t<std::uint8_t, py::array::c_style>;

// A WindowFinder and the array that it looks into.
class Finder {
  public:
    explicit Finder(ByteRows windows)
        : windows_(std::move(windows)), finder_(made(checked(windows_), count(windows_))) {}

    py::array_t<std::int64_t> find(const py::buffer& data, std::size_t threads) const {
        const py::buffer_info info = data.request();
        if (info.ndim != 1 || info.itemsize != 1 || (info.size > 1 && info.strides[0] != 1)) {
            throw py::value_error("data is not a contiguous run of bytes");
        }
        std::vector<procmem::Hit> hits;
        {
            py::gil_scoped_release release;
            hits = finder_.find(static_cast<const unsigned char*>(info.ptr),
                                static_cast<std::size_t>(info.size), threads);
        }
        py::array_t<std::int64_t> found({static_cast<py::ssize_t>(hits.size()), py::ssize_t{2}});
        auto at = found.mutable_unchecked<2>();
        for (py::ssize_t i = 0; i < found.shape(0); ++i) {
            at(i, 0) = hits[static_cast<std::size_t>(i)].window;
            at(i, 1) = hits[static_cast<std::size_t>(i)].offset;
        }
        return found;
    }

    const procmem::WindowFinder& finder() const { return finder_; }

  private:
    static const unsigned char* checked(const ByteRows& windows) {
        if (windows.ndim() != 2 ||
            windows.shape(1) != static_cast<py::ssize_t>(procmem::window_bytes)) {
            throw py::value_error("windows have the shape " +
                                  py::cast<std::string>(py::str(windows.attr("shape"))) +
                                  ", wanted (M, 16)");
        }
        return windows.data();
    }

    static procmem::WindowFinder made(const unsigned char* windows, std::size_t count) {
        py::gil_scoped_release release;
        return {windows, count};
    }

    static std::size_t count(const ByteRows& windows) {
        return static_cast<std::size_t>(windows.shape(0));
    }

    ByteRows windows_;
    procmem::WindowFinder finder_;
};

ByteRows windows_of(const py::list& values) {
    const py::tuple kept(values);  // whatever becomes of the list
    std::vector<procmem::Bytes> bytes(kept.size());
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        if (!take_bytes(PyTuple_GET_ITEM(kept.ptr(), static_cast<py::ssize_t>(i)), bytes[i])) {
            throw py::value_error("the values are not bytes");
        }
    }
    std::vector<unsigned char> windows;
    {
        py::gil_scoped_release release;
        windows = procmem::distinct_windows(bytes);
    }
    ByteRows rows({static_cast<py::ssize_t>(windows.size() / procmem::window_bytes),
                   static_cast<py::ssize_t>(procmem::window_bytes)});
    std::copy(windows.begin(), windows.end(), rows.mutable_data());
    return rows;
}

ByteRows hashes_of(std::size_t count) {
    return ByteRows(
        {static_cast<py::ssize_t>(count), static_cast<py::ssize_t>(procmem::hash_bytes)});
}

// The stored values of an item and of its mask, as record.py names them.
procmem::StoredItem stored_item(PyObject* values, PyObject* dense) {
    procmem::StoredItem item{};
    std::int64_t owner = 0;
    bool right = PyTuple_CheckExact(values) && PyTuple_GET_SIZE(values) >= 5;
    const auto of_item = [&](py::ssize_t column) { return PyTuple_GET_ITEM(values, column); };
    right = right && take_number(of_item(0), item.id) && take_bytes(of_item(1), item.vector) &&
            take_text(of_item(2), item.label) && take_text(of_item(3), item.source) &&
            take_number(of_item(4), item.added_seconds);
    if (right && dense != Py_None) {
        const auto of_mask = [&](py::ssize_t column) { return PyTuple_GET_ITEM(dense, column); };
        right = PyTuple_CheckExact(dense) && PyTuple_GET_SIZE(dense) >= 3 &&
                take_number(of_mask(0), owner) && owner == item.id &&
                take_bytes(of_mask(1), item.patches) && take_bytes(of_mask(2), item.mask);
    }
    if (!right) {
        throw py::value_error("not the stored values of an item, or of its mask");
    }
    return item;
}

procmem::Bytes checked_secret(const py::bytes& secret) {
    procmem::Bytes key{};
    if (!take_bytes(secret.ptr(), key) || key.size > procmem::hash_block) {
        throw py::value_error("the secret is not bytes, 64 at most");
    }
    return key;
}

ByteRows commit(const py::list& values, const py::list& dense, const py::bytes& secret,
                bool portable, std::size_t threads) {
    const py::tuple kept_values(values);  // whatever becomes of the lists
    const py::tuple kept_dense(dense);
    const procmem::Bytes key = checked_secret(secret);
    if (kept_values.size() != kept_dense.size()) {
        throw py::value_error("wanted as many masks, or None, as items");
    }
    std::vector<procmem::StoredItem> items;
    items.reserve(kept_values.size());
    for (std::size_t i = 0; i < kept_values.size(); ++i) {
        const auto at = static_cast<py::ssize_t>(i);
        items.push_back(stored_item(PyTuple_GET_ITEM(kept_values.ptr(), at),
                                    PyTuple_GET_ITEM(kept_dense.ptr(), at)));
    }
    ByteRows codes = hashes_of(items.size());
    std::uint8_t* target = codes.mutable_data();
    {
        py::gil_scoped_release release;
        procmem::commit(items, key, portable, threads, target);
    }
    return codes;
}

ByteRows sha256_rows(const ByteRows& rows, bool portable, std::size_t threads) {
    if (rows.ndim() != 2) {
        throw py::value_error("rows are not (N, M) bytes");
    }
    const auto count = static_cast<std::size_t>(rows.shape(0));
    const auto size = static_cast<std::size_t>(rows.shape(1));
    ByteRows hashes = hashes_of(count);
    const std::uint8_t* source = rows.data();
    std::uint8_t* target = hashes.mutable_data();
    {
        py::gil_scoped_release release;
        procmem::hash_rows(source, count, size, portable, threads, target);
    }
    return hashes;
}

// A LedgerPass, and the finder that it has. What is not sound is a ValueError.
class Pass {
  public:
    Pass(int descriptor, std::uint64_t bytes, std::uint32_t items, std::uint32_t dense,
         const std::optional<py::bytes>& secret, const py::object& finder)
        : finder_(finder) {
        std::optional<procmem::Hmac> code;
        if (secret) {
            const procmem::Bytes key = checked_secret(*secret);
            code.emplace(procmem::choose_compress(false), key.data, key.size);
        }
        const procmem::WindowFinder* windows =
            finder.is_none() ? nullptr : &finder.cast<const Finder&>().finder();
        py::gil_scoped_release release;
        pass_ = std::make_unique<procmem::LedgerPass>(procmem::TableFile(descriptor, bytes), items,
                                                      dense, windows, code);
    }

    bool step() {
        py::gil_scoped_release release;
        return pass_->step();
    }

    py::tuple checksums() const {
        return py::make_tuple(pass_->items_checksum(), pass_->dense_checksum());
    }

    py::tuple codes() const {
        const auto& ids = pass_->ids();
        py::array_t<std::int64_t> of(static_cast<py::ssize_t>(ids.size()));
        std::copy(ids.begin(), ids.end(), of.mutable_data());
        ByteRows codes = hashes_of(ids.size());
        std::copy(pass_->codes().begin(), pass_->codes().end(), codes.mutable_data());
        return py::make_tuple(of, codes);
    }

    py::array_t<bool> found() const {
        const auto& windows = pass_->found();
        py::array_t<bool> found(static_cast<py::ssize_t>(windows.size()));
        std::copy(windows.begin(), windows.end(), found.mutable_data());
        return found;
    }

  private:
    py::object finder_;
    std::unique_ptr<procmem::LedgerPass> pass_;
};

}  // namespace

PYBIND11_MODULE(_erasure, module) {
    module.doc() = "The work of procmem.residue, procmem.merkle and procmem.receipt on many bytes.";
    py::class_<Finder>(module, "Finder", "Finds windows, (M, 16) uint8, distinct, in any data.")
        .def(py::init<ByteRows>(), py::arg("windows"))
        .def("find", &Finder::find, py::arg("data"), py::arg("threads") = 0,
             "(F, 2) int64: the index of a window and the offset where it stands in the bytes, "
             "of every such place, ascending by offset.");
    module.def("windows", &windows_of, py::arg("values"),
               "(M, 16) uint8: every window of every one of some bytes, in the order of their "
               "first places; each once, and none of one repeated byte.");
    py::register_exception_translator([](std::exception_ptr raised) {
        try {
            if (raised) {
                std::rethrow_exception(raised);
            }
        } catch (const procmem::UnsoundFile& error) {
            PyErr_SetString(PyExc_ValueError, error.what());
        }
    });
    py::class_<Pass>(module, "LedgerPass",
                     "Reads all rows of a plain ledger's file, which nobody may change meanwhile, "
                     "from an open descriptor; the pages are those where the tables `items` and "
                     "`dense` begin. Commits to all items under a secret of at most 64 bytes, and "
                     "searches labels and sources by a Finder. ValueError if something is not as "
                     "in a sound file.")
        .def(py::init<int, std::uint64_t, std::uint32_t, std::uint32_t,
                      const std::optional<py::bytes>&, const py::object&>(),
             py::arg("descriptor"), py::arg("bytes"), py::arg("items"), py::arg("dense"),
             py::arg("secret") = py::none(), py::arg("finder") = py::none())
        .def("step", &Pass::step, "Reads some megabytes more. False after the last.")
        .def("checksums", &Pass::checksums, "The sums of the checksums of items and of masks.")
        .def("codes", &Pass::codes,
             "The ids, (N,) int64 ascending, and (N, 32) uint8 as `commit` gives them.")
        .def("found", &Pass::found, "(M,) bool: whether each window stands in a text.");
    module.def("commit", &commit, py::arg("values"), py::arg("dense"), py::arg("secret"),
               py::arg("portable") = false, py::arg("threads") = 0,
               "(N, 32) uint8: HMAC-SHA256 under a secret of at most 64 bytes of the id and the "
               "canonical values of each item. `values` are ItemValues, `dense` the DenseValues of "
               "each or None.");
    module.def("sha256_rows", &sha256_rows, py::arg("rows"), py::arg("portable") = false,
               py::arg("threads") = 0, "(N, 32) uint8: the SHA-256 of each row of (N, M) uint8.");
}
