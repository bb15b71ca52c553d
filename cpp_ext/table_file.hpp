// Reads the rows of a table from the bytes of an SQLite file (https://sqlite.org/fileformat2.html).
//
// For whoever must look at every row of a file that nobody changes meanwhile: SQLite's way to
// Python makes objects of each value, with the interpreter locked. What is not as in a sound file
// of the kind that procmem writes is refused, not interpreted: SQLite is then asked, and has the
// last word.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "ledger_items.hpp"

namespace procmem {

// The file, or a row of it, is not what is read here; the message says what it is.
class UnsoundFile : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// An open file, and what its first bytes say of it.
struct TableFile {
    // `descriptor` must stay open, and its offset is nobody's; `bytes` is the size of the file.
    TableFile(int descriptor, std::uint64_t bytes);

    int descriptor;
    std::size_t page_bytes;
    std::size_t usable_bytes;  // of a page
    std::uint32_t pages;       // numbered from 1
};

// Pages of a file; neighbors are read together.
class PageWindow {
  public:
    explicit PageWindow(const TableFile& file);

    // The bytes of a page, until the next call. The first page belongs to no table of ours.
    const unsigned char* page(std::uint32_t number);

  private:
    const TableFile* file_;
    std::vector<unsigned char> block_;
    std::uint64_t held_;  // which block
};

// The rows of one table, ascending by id in a sound file.
class TableReader {
  public:
    // `file` must stay where it is; `root` is the table's first page.
    TableReader(const TableFile& file, std::uint32_t root);

    // Goes to the next row. False after the last.
    bool next();

    std::int64_t id() const { return id_; }

    // The columns of the row as one record, until `next`.
    Bytes record() const { return record_; }

  private:
    bool next_leaf();
    void take_cell(std::size_t at);
    void join(const unsigned char* local, std::size_t count, std::size_t size);

    const TableFile* file_;
    PageWindow tree_;
    PageWindow overflow_;
    std::vector<std::uint32_t> pending_;  // pages still to be visited, the next one last
    std::uint64_t visited_ = 0;
    std::uint64_t overflow_visited_ = 0;
    const unsigned char* leaf_ = nullptr;
    std::size_t cells_ = 0;  // of the leaf
    std::size_t cell_ = 0;   // that comes next
    std::int64_t id_ = 0;
    Bytes record_{nullptr, 0};
    std::vector<unsigned char> joined_;  // a record that goes over several pages
};

// The columns of a record, from the first one on.
class RecordReader {
  public:
    explicit RecordReader(Bytes record);

    // Each takes one column; UnsoundFile if that is of another type.
    void id();  // which stands beside the record, and is NULL in it
    std::int64_t number();
    Bytes blob();
    Bytes text();  // or NULL

    // UnsoundFile unless all columns were taken.
    void end() const;

  private:
    std::uint64_t next_type();
    Bytes take(std::uint64_t size);

    Bytes head_;
    Bytes body_;
};

}  // namespace procmem
