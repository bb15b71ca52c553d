// What a receipt commits to: a code for each item of a ledger, and the hashes of a tree over them.
//
// docs/formats.md has the bytes, sdk/procmem/receipt.py what they are for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ledger_items.hpp"
#include "sha256.hpp"

namespace procmem {

// The stored values of one item; `patches` and `mask` are none without a mask.
struct StoredItem {
    std::int64_t id;
    Bytes vector;
    Bytes label;
    Bytes source;
    std::int64_t added_seconds;
    Bytes patches;
    Bytes mask;
};

// Writes the HMAC-SHA256 of the id (8 bytes, big endian) and the canonical bytes
// (`canonical_values` of record.py) of an item to `target`, 32 bytes, under the key that `prepared`
// has.
void commit(const StoredItem& item, const Hmac& prepared, unsigned char* target);

// The same of each item under `secret` (at most 64 bytes), to `codes`.
void commit(const std::vector<StoredItem>& items, Bytes secret, bool portable, std::size_t threads,
            unsigned char* codes);

// Writes the SHA-256 of each of `count` texts of `size` bytes, which follow each other, to
// `hashes`, 32 bytes each.
void hash_rows(const unsigned char* rows, std::size_t count, std::size_t size, bool portable,
               std::size_t threads, unsigned char* hashes);

}  // namespace procmem
