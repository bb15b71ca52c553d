// One pass over all rows of a plain ledger's file: what a purge and a receipt need of it.
//
// sdk/procmem/checking.py has the same pass over rows as SQLite gives them, which every other
// ledger takes, and this one if it is not found sound here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "sha256.hpp"
#include "table_file.hpp"
#include "windows.hpp"

namespace procmem {

class LedgerPass {
  public:
    // The pages are those where the tables `items` and `dense` begin. If a finder is given, labels
    // and sources are searched for its windows; it must stay where it is. If a code is, all items
    // are committed to under its key (commitments.hpp).
    LedgerPass(TableFile file, std::uint32_t items, std::uint32_t dense, const WindowFinder* finder,
               std::optional<Hmac> code);
    LedgerPass(const LedgerPass&) = delete;
    LedgerPass& operator=(const LedgerPass&) = delete;

    // Takes the next rows, some megabytes; false after the last ones. UnsoundFile if one does not
    // match its checksum or stands out of order, or the file is not sound.
    bool step();

    // Of all rows so far.
    std::uint64_t items_checksum() const { return items_checksum_; }
    std::uint64_t dense_checksum() const { return dense_checksum_; }
    const std::vector<std::int64_t>& ids() const { return ids_; }
    const std::vector<unsigned char>& codes() const { return codes_; }  // 32 bytes for each id
    // Of every window whether some text has it; empty without a finder.
    const std::vector<bool>& found() const { return found_; }

  private:
    void take_item();
    void next_mask();
    void look_for_windows();

    TableFile file_;
    TableReader items_;
    TableReader dense_;
    const WindowFinder* finder_;
    std::optional<Hmac> code_;

    std::int64_t last_id_ = 0;
    bool has_mask_ = false;  // whether a row of `dense` is before us
    std::int64_t mask_id_ = 0;
    Bytes patches_{nullptr, 0};
    Bytes mask_{nullptr, 0};

    std::vector<unsigned char> texts_;  // one after the other, and where each ends
    std::vector<std::int64_t> ends_;

    std::uint64_t items_checksum_ = 0;
    std::uint64_t dense_checksum_ = 0;
    std::vector<std::int64_t> ids_;
    std::vector<unsigned char> codes_;
    std::vector<bool> found_;
};

}  // namespace procmem
