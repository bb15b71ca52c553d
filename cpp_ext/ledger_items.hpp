// The whole C++ interface of procmem._ledger: whether rows of a ledger are what was once stored.
//
// docs/formats.md has the rows, sdk/procmem/rows.py the same check in Python, row by row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace procmem {

// Bytes that somebody else holds; `data` is nullptr for none, which is another value than empty.
struct Bytes {
    const unsigned char* data;
    std::size_t size;
};

// A row of the table `items`.
struct ItemRow {
    std::int64_t id;
    Bytes vector;  // float16, little endian
    Bytes label;
    Bytes source;
    std::int64_t added_seconds;
    std::int64_t checksum;
};

// CRC-32 (ISO 3309, as in zlib) of `bytes`, going on from `crc`, which is 0 at the beginning.
std::uint32_t crc32(std::uint32_t crc, Bytes bytes);

// Whether a row matches its checksum.
bool is_right(const ItemRow& row);

// The same of a row of the table `dense`.
bool is_right_mask(std::int64_t id, Bytes patches, Bytes mask, std::int64_t checksum);

// Whether every row matches its checksum.
bool check_items(const std::vector<ItemRow>& rows, std::size_t threads);

// The same, and whether every vector is of `width` finite numbers; writes these to `vectors`, row
// after row. If not, some of `vectors` may have been written.
bool take_items(const std::vector<ItemRow>& rows, std::size_t width, std::size_t threads,
                std::uint16_t* vectors);

}  // namespace procmem
