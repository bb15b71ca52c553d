#include "ledger_items.hpp"

#include <algorithm>
#include <array>
#include <atomic>

#include "big_endian.hpp"
#include "blocks.hpp"

namespace procmem {
namespace {

constexpr std::size_t slices = 16;   // bytes of a text that are looked up at once
constexpr double work_per_byte = 8;  // in multiply-adds, as `usable_threads` counts
constexpr std::uint32_t polynomial = 0xedb88320u;
constexpr std::uint16_t exponent = 0x7c00;  // of infinity and NaN, in float16

using Table = std::array<std::array<std::uint32_t, 256>, slices>;

// table[s][b]: what a byte b does to the checksum when s more bytes follow it.
constexpr Table make_table() {
    Table table{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        std::uint32_t crc = byte;
        for (int bit = 0; bit < 8; ++bit) {
            crc = (crc >> 1) ^ ((crc & 1u) != 0 ? polynomial : 0u);
        }
        table[0][byte] = crc;
    }
    for (std::size_t slice = 1; slice < slices; ++slice) {
        for (std::size_t byte = 0; byte < 256; ++byte) {
            const std::uint32_t before = table[slice - 1][byte];
            table[slice][byte] = (before >> 8) ^ table[0][before & 0xff];
        }
    }
    return table;
}

constexpr Table table = make_table();

// What some bytes do to the checksum, the first of them when `following` more bytes follow it.
inline std::uint32_t look_up(const unsigned char* bytes, std::size_t count, std::size_t following) {
    std::uint32_t crc = 0;
    for (std::size_t i = 0; i < count; ++i) {
        crc ^= table[following - i][bytes[i]];
    }
    return crc;
}

// `_HEAD` of rows.py: id, time, and the lengths of both texts, -1 for none.
std::uint32_t add_head(std::uint32_t crc, const ItemRow& row) {
    const auto length = [](Bytes text) {
        return text.data == nullptr ? ~std::uint64_t{0} : static_cast<std::uint64_t>(text.size);
    };
    unsigned char head[24];
    big_endian(static_cast<std::uint64_t>(row.id), 8, head);
    big_endian(static_cast<std::uint64_t>(row.added_seconds), 8, head + 8);
    big_endian(length(row.label), 4, head + 16);
    big_endian(length(row.source), 4, head + 20);
    return crc32(crc, {head, sizeof head});
}

// Whether a vector is of `width` finite numbers; writes them to `target`.
bool take_vector(Bytes vector, std::size_t width, std::uint16_t* target) {
    if (vector.size != 2 * width) {
        return false;
    }
    std::uint16_t broken = 0;  // a number and not a bool, so that many are compared at once
    for (std::size_t d = 0; d < width; ++d) {
        const auto low = static_cast<unsigned>(vector.data[2 * d]);
        const auto high = static_cast<unsigned>(vector.data[2 * d + 1]);
        target[d] = static_cast<std::uint16_t>(low | high << 8);
        broken |= static_cast<std::uint16_t>((target[d] & exponent) == exponent);
    }
    return broken == 0;
}

// Whether `take(i)` holds for every row.
template <class Take>
bool all_of(const std::vector<ItemRow>& rows, std::size_t threads, const Take& take) {
    const std::size_t bytes = rows.empty() ? 0 : rows.size() * rows.front().vector.size;
    std::atomic<bool> right{true};
    for_each(rows.size(), threads, work_per_byte * static_cast<double>(bytes), [&](std::size_t i) {
        if (right && !take(i)) {
            right = false;
        }
    });
    return right;
}

}  // namespace

std::uint32_t crc32(std::uint32_t crc, Bytes bytes) {
    const unsigned char* at = bytes.data;
    std::size_t left = bytes.data == nullptr ? 0 : bytes.size;
    crc = ~crc;
    for (; left >= slices; left -= slices, at += slices) {
        unsigned char first[4];
        for (std::size_t i = 0; i < 4; ++i) {
            first[i] = static_cast<unsigned char>(at[i] ^ (crc >> (8 * i) & 0xff));
        }
        crc = look_up(first, 4, slices - 1) ^ look_up(at + 4, slices - 4, slices - 5);
    }
    for (; left > 0; --left, ++at) {
        crc = (crc >> 8) ^ table[0][(crc ^ *at) & 0xff];
    }
    return ~crc;
}

bool is_right(const ItemRow& row) {
    const std::uint32_t crc =
        add_head(crc32(crc32(crc32(0, row.vector), row.label), row.source), row);
    return row.checksum == static_cast<std::int64_t>(crc);
}

bool is_right_mask(std::int64_t id, Bytes patches, Bytes mask, std::int64_t checksum) {
    unsigned char head[8];
    big_endian(static_cast<std::uint64_t>(id), sizeof head, head);
    const std::uint32_t crc = crc32(crc32(crc32(0, patches), mask), {head, sizeof head});
    return checksum == static_cast<std::int64_t>(crc);
}

bool check_items(const std::vector<ItemRow>& rows, std::size_t threads) {
    return all_of(rows, threads, [&](std::size_t i) { return is_right(rows[i]); });
}

bool take_items(const std::vector<ItemRow>& rows, std::size_t width, std::size_t threads,
                std::uint16_t* vectors) {
    return all_of(rows, threads, [&](std::size_t i) {
        return take_vector(rows[i].vector, width, vectors + i * width) && is_right(rows[i]);
    });
}

}  // namespace procmem
