#include "table_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#ifdef _WIN32
#include <io.h>
#include <stdio.h>
#else
#include <unistd.h>
#endif

namespace procmem {
namespace {

constexpr char magic[] = "SQLite format 3";  // and its null character
constexpr std::size_t head_bytes = 100;
constexpr std::uint32_t first_of_tables = 2;
constexpr std::uint64_t no_block = std::numeric_limits<std::uint64_t>::max();
constexpr std::size_t block_bytes = 1 << 16;

constexpr unsigned char interior = 5;
constexpr unsigned char leaf = 13;
constexpr std::size_t interior_head = 12;
constexpr std::size_t leaf_head = 8;

std::uint64_t number_at(const unsigned char* bytes, std::size_t count) {
    std::uint64_t number = 0;
    for (std::size_t i = 0; i < count; ++i) {
        number = number << 8 | bytes[i];
    }
    return number;
}

std::uint32_t page_at(const unsigned char* bytes) {
    return static_cast<std::uint32_t>(number_at(bytes, 4));
}

std::size_t short_at(const unsigned char* bytes) {
    return static_cast<std::size_t>(number_at(bytes, 2));
}

// Takes a number of variable length from the beginning of `bytes`.
std::uint64_t take_varint(Bytes& bytes) {
    std::uint64_t number = 0;
    for (std::size_t i = 0; i < 9 && i < bytes.size; ++i) {
        const unsigned char byte = bytes.data[i];
        if (i < 8) {
            number = number << 7 | (byte & 0x7fu);
        } else {
            number = number << 8 | byte;
        }
        if (byte < 0x80 || i == 8) {
            bytes = {bytes.data + i + 1, bytes.size - i - 1};
            return number;
        }
    }
    throw UnsoundFile("a number goes over the end of what it stands in");
}

std::int64_t read_some(int descriptor, unsigned char* target, std::size_t size,
                       std::uint64_t offset) {
#ifdef _WIN32
    if (_lseeki64(descriptor, static_cast<std::int64_t>(offset), SEEK_SET) < 0) {
        return -1;
    }
    return _read(descriptor, target, static_cast<unsigned>(size));
#else
    return pread(descriptor, target, size, static_cast<off_t>(offset));
#endif
}

void read_all(int descriptor, unsigned char* target, std::size_t size, std::uint64_t offset) {
    while (size > 0) {
        const std::int64_t got = read_some(descriptor, target, size, offset);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            throw UnsoundFile("a page cannot be read");
        }
        target += got;
        size -= static_cast<std::size_t>(got);
        offset += static_cast<std::uint64_t>(got);
    }
}

// How much of a row of `size` bytes stands in the page of the tree.
std::size_t local_bytes(std::size_t size, std::size_t usable) {
    const std::size_t most = usable - 35;
    if (size <= most) {
        return size;
    }
    const std::size_t least = (usable - 12) * 32 / 255 - 23;
    const std::size_t wanted = least + (size - least) % (usable - 4);
    return wanted <= most ? wanted : least;
}

}  // namespace

TableFile::TableFile(int open, std::uint64_t bytes) : descriptor(open) {
    unsigned char head[head_bytes];
    if (bytes < head_bytes) {
        throw UnsoundFile("the file is too short for a head");
    }
    read_all(descriptor, head, head_bytes, 0);
    if (std::memcmp(head, magic, sizeof magic) != 0) {
        throw UnsoundFile("the file has another beginning");
    }
    page_bytes = short_at(head + 16);
    const bool size_is_one = page_bytes >= 512 && (page_bytes & (page_bytes - 1)) == 0;
    // Written with a rollback journal, text in UTF-8.
    if (!size_is_one || head[18] != 1 || head[19] != 1 || number_at(head + 56, 4) != 1) {
        throw UnsoundFile("the file is of another kind");
    }
    usable_bytes = page_bytes - head[20];
    if (usable_bytes < 480) {
        throw UnsoundFile("pages keep too many bytes for others");
    }
    const std::uint64_t count = bytes / page_bytes;
    if (count > std::numeric_limits<std::uint32_t>::max() - 1) {
        throw UnsoundFile("the file has too many pages");
    }
    pages = static_cast<std::uint32_t>(count);
}

PageWindow::PageWindow(const TableFile& file) : file_(&file), held_(no_block) {}

const unsigned char* PageWindow::page(std::uint32_t number) {
    if (number < first_of_tables || number > file_->pages) {
        throw UnsoundFile("a page is named that no table has");
    }
    const std::size_t size = file_->page_bytes;
    const std::uint64_t at_once = std::max<std::size_t>(block_bytes / size, 1);
    const std::uint64_t index = number - 1;
    const std::uint64_t block = index / at_once;
    if (block != held_) {
        held_ = no_block;
        const std::uint64_t first = block * at_once;
        const std::uint64_t count = std::min(at_once, file_->pages - first);
        block_.resize(static_cast<std::size_t>(count) * size);
        read_all(file_->descriptor, block_.data(), block_.size(), first * size);
        held_ = block;
    }
    return block_.data() + static_cast<std::size_t>(index % at_once) * size;
}

TableReader::TableReader(const TableFile& file, std::uint32_t root)
    : file_(&file), tree_(file), overflow_(file), pending_{root} {}

bool TableReader::next() {
    while (cell_ == cells_) {
        if (!next_leaf()) {
            record_ = {nullptr, 0};
            return false;
        }
    }
    const std::size_t pointer = leaf_head + 2 * cell_++;
    take_cell(short_at(leaf_ + pointer));
    return true;
}

bool TableReader::next_leaf() {
    cells_ = cell_ = 0;
    while (!pending_.empty()) {
        const unsigned char* page = tree_.page(pending_.back());
        pending_.pop_back();
        // In a sound tree no page is met twice.
        if (++visited_ + pending_.size() > file_->pages) {
            throw UnsoundFile("branches of a tree meet again");
        }
        const std::size_t cells = short_at(page + 3);
        const bool is_leaf = page[0] == leaf;
        if (!is_leaf && page[0] != interior) {
            throw UnsoundFile("a page is none of a table's");
        }
        const std::size_t pointers = is_leaf ? leaf_head : interior_head;
        if (pointers + 2 * cells > file_->usable_bytes) {
            throw UnsoundFile("a page has more cells than room");
        }
        if (is_leaf) {
            leaf_ = page;
            cells_ = cells;
            return true;
        }
        pending_.push_back(page_at(page + 8));
        for (std::size_t cell = cells; cell-- > 0;) {
            const std::size_t at = short_at(page + pointers + 2 * cell);
            if (at + 4 > file_->usable_bytes) {
                throw UnsoundFile("a cell goes over the end of its page");
            }
            pending_.push_back(page_at(page + at));
        }
    }
    return false;
}

void TableReader::take_cell(std::size_t at) {
    const std::size_t usable = file_->usable_bytes;
    if (at >= usable) {
        throw UnsoundFile("a cell stands behind its page");
    }
    Bytes cell{leaf_ + at, usable - at};
    const std::uint64_t size = take_varint(cell);
    id_ = static_cast<std::int64_t>(take_varint(cell));
    if (size > std::uint64_t{file_->pages} * file_->page_bytes) {
        throw UnsoundFile("a row is larger than the file");
    }
    const auto whole = static_cast<std::size_t>(size);
    const std::size_t local = local_bytes(whole, usable);
    if (local + (local < whole ? 4 : 0) > cell.size) {
        throw UnsoundFile("a cell goes over the end of its page");
    }
    if (local == whole) {
        record_ = {cell.data, whole};
    } else {
        join(cell.data, local, whole);
    }
}

// Puts a record together: `count` bytes and the number of the page that goes on, up to `size`.
void TableReader::join(const unsigned char* local, std::size_t count, std::size_t size) {
    joined_.assign(local, local + count);
    std::uint32_t following = page_at(local + count);
    while (joined_.size() < size) {
        if (++overflow_visited_ > file_->pages) {
            throw UnsoundFile("rows share pages");
        }
        const unsigned char* page = overflow_.page(following);
        following = page_at(page);
        const std::size_t part = std::min(size - joined_.size(), file_->usable_bytes - 4);
        joined_.insert(joined_.end(), page + 4, page + 4 + part);
    }
    record_ = {joined_.data(), size};
}

RecordReader::RecordReader(Bytes record) : head_(record), body_(record) {
    const std::uint64_t size = take_varint(head_);
    const std::size_t taken = record.size - head_.size;
    if (size < taken || size > record.size) {
        throw UnsoundFile("the head of a row is longer than the row");
    }
    head_.size = static_cast<std::size_t>(size) - taken;
    body_ = {record.data + size, record.size - static_cast<std::size_t>(size)};
}

void RecordReader::id() {
    if (next_type() != 0) {
        throw UnsoundFile("an id stands in its row");
    }
}

std::int64_t RecordReader::number() {
    const std::uint64_t type = next_type();
    if (type == 8 || type == 9) {
        return static_cast<std::int64_t>(type - 8);
    }
    if (type < 1 || type > 6) {
        throw UnsoundFile("a column is no whole number");
    }
    const Bytes bytes = take(type < 5 ? type : 2 * type - 4);  // 1, 2, 3, 4, 6, 8 bytes
    std::uint64_t number = number_at(bytes.data, bytes.size);
    if (bytes.size < 8 && (bytes.data[0] & 0x80) != 0) {
        number |= ~std::uint64_t{0} << (8 * bytes.size);
    }
    return static_cast<std::int64_t>(number);
}

Bytes RecordReader::blob() {
    const std::uint64_t type = next_type();
    if (type < 12 || type % 2 != 0) {
        throw UnsoundFile("a column is no bytes");
    }
    return take((type - 12) / 2);
}

Bytes RecordReader::text() {
    const std::uint64_t type = next_type();
    if (type == 0) {
        return {nullptr, 0};
    }
    if (type < 13 || type % 2 == 0) {
        throw UnsoundFile("a column is no text");
    }
    return take((type - 13) / 2);
}

void RecordReader::end() const {
    if (head_.size != 0 || body_.size != 0) {
        throw UnsoundFile("a row has further columns");
    }
}

std::uint64_t RecordReader::next_type() { return take_varint(head_); }

Bytes RecordReader::take(std::uint64_t size) {
    if (size > body_.size) {
        throw UnsoundFile("a column goes over the end of its row");
    }
    const Bytes taken{body_.data, static_cast<std::size_t>(size)};
    body_ = {body_.data + taken.size, body_.size - taken.size};
    return taken;
}

}  // namespace procmem
