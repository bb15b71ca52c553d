#include "ledger_pass.hpp"

#include "commitments.hpp"

namespace procmem {
namespace {

constexpr std::size_t bytes_at_once = 4 << 20;

ItemRow item_row(std::int64_t id, Bytes bytes) {
    RecordReader record(bytes);
    ItemRow row{};
    row.id = id;
    record.id();
    row.vector = record.blob();
    row.label = record.text();
    row.source = record.text();
    row.added_seconds = record.number();
    row.checksum = record.number();
    record.end();
    return row;
}

}  // namespace

LedgerPass::LedgerPass(TableFile file, std::uint32_t items, std::uint32_t dense,
                       const WindowFinder* finder, std::optional<Hmac> code)
    : file_(file), items_(file_, items), dense_(file_, dense), finder_(finder), code_(code) {
    if (finder_ != nullptr) {
        found_.resize(finder_->count());
    }
    next_mask();
}

bool LedgerPass::step() {
    for (std::size_t taken = 0; taken < bytes_at_once;) {
        if (!items_.next()) {
            look_for_windows();
            while (has_mask_) {
                next_mask();
            }
            return false;
        }
        taken += items_.record().size;
        take_item();
        taken += has_mask_ && mask_id_ == last_id_ ? patches_.size + mask_.size : 0;
    }
    look_for_windows();
    return true;
}

void LedgerPass::take_item() {
    const ItemRow row = item_row(items_.id(), items_.record());
    if (row.id <= last_id_) {
        throw UnsoundFile("an item stands out of order");
    }
    last_id_ = row.id;
    if (!is_right(row)) {
        throw UnsoundFile("an item does not match its checksum");
    }
    items_checksum_ += static_cast<std::uint64_t>(row.checksum);
    while (has_mask_ && mask_id_ < row.id) {  // of no item at the latest from the second one on
        next_mask();
    }
    if (code_) {
        const bool masked = has_mask_ && mask_id_ == row.id;
        const Bytes none{nullptr, 0};
        const StoredItem item{row.id,
                              row.vector,
                              row.label,
                              row.source,
                              row.added_seconds,
                              masked ? patches_ : none,
                              masked ? mask_ : none};
        ids_.push_back(row.id);
        codes_.resize(codes_.size() + hash_bytes);
        commit(item, *code_, codes_.data() + codes_.size() - hash_bytes);
    }
    if (finder_ != nullptr) {
        for (const Bytes text : {row.label, row.source}) {
            if (text.size >= window_bytes) {
                texts_.insert(texts_.end(), text.data, text.data + text.size);
                ends_.push_back(static_cast<std::int64_t>(texts_.size()));
            }
        }
    }
}

void LedgerPass::next_mask() {
    const std::int64_t before = mask_id_;
    has_mask_ = dense_.next();
    if (!has_mask_) {
        return;
    }
    mask_id_ = dense_.id();
    if (mask_id_ <= before) {
        throw UnsoundFile("a mask stands out of order");
    }
    RecordReader record(dense_.record());
    record.id();
    patches_ = record.blob();
    mask_ = record.blob();
    const std::int64_t checksum = record.number();
    record.end();
    if (!is_right_mask(mask_id_, patches_, mask_, checksum)) {
        throw UnsoundFile("patches or a mask do not match their checksum");
    }
    dense_checksum_ += static_cast<std::uint64_t>(checksum);
}

// Notes which windows stand in one of the texts that wait; one that crosses two texts is in none.
void LedgerPass::look_for_windows() {
    if (texts_.empty()) {
        return;
    }
    auto end = ends_.begin();
    for (const Hit& hit : finder_->find(texts_.data(), texts_.size(), 1)) {
        while (*end <= hit.offset) {
            ++end;
        }
        if (hit.offset + static_cast<std::int64_t>(window_bytes) <= *end) {
            found_[static_cast<std::size_t>(hit.window)] = true;
        }
    }
    texts_.clear();
    ends_.clear();
}

}  // namespace procmem
