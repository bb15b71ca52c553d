// Values of rows as sqlite3 gives them to Python. They borrow from their objects.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "ledger_items.hpp"

// Each is false if the object is of another type than a sound row has.

inline bool take_number(PyObject* object, std::int64_t& number) {
    if (!PyLong_CheckExact(object)) {
        return false;
    }
    int overflow = 0;
    number = PyLong_AsLongLongAndOverflow(object, &overflow);
    return overflow == 0;
}

inline bool take_bytes(PyObject* object, procmem::Bytes& bytes) {
    if (!PyBytes_CheckExact(object)) {
        return false;
    }
    bytes = {reinterpret_cast<const unsigned char*>(PyBytes_AS_STRING(object)),
             static_cast<std::size_t>(PyBytes_GET_SIZE(object))};
    return true;
}

inline bool take_text(PyObject* object, procmem::Bytes& bytes) {
    bytes = {nullptr, 0};
    return object == Py_None || take_bytes(object, bytes);
}
