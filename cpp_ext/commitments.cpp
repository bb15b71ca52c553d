#include "commitments.hpp"

#include "big_endian.hpp"
#include "blocks.hpp"

namespace procmem {
namespace {

constexpr double work_per_hash = 400;       // in multiply-adds, as `usable_threads` counts
constexpr double work_per_hashed_byte = 4;  // without instructions for it three times that

void number(Hmac& code, std::uint64_t value) {
    unsigned char bytes[8];
    big_endian(value, sizeof bytes, bytes);
    code.update(bytes, sizeof bytes);
}

// `canonical_bytes` of record.py: the length, all ones for none, and the bytes.
void field(Hmac& code, Bytes value) {
    if (value.data == nullptr) {
        number(code, ~std::uint64_t{0});
        return;
    }
    number(code, value.size);
    code.update(value.data, value.size);
}

}  // namespace

void commit(const StoredItem& item, const Hmac& prepared, unsigned char* target) {
    Hmac code = prepared;
    number(code, static_cast<std::uint64_t>(item.id));
    field(code, item.vector);
    field(code, item.label);
    field(code, item.source);
    number(code, 8);
    number(code, static_cast<std::uint64_t>(item.added_seconds));
    field(code, item.patches);
    field(code, item.mask);
    code.finish(target);
}

void commit(const std::vector<StoredItem>& items, Bytes secret, bool portable, std::size_t threads,
            unsigned char* codes) {
    const Hmac prepared(choose_compress(portable), secret.data, secret.size);
    double work = 0;
    for (const StoredItem& item : items) {
        const std::size_t bytes = item.vector.size + item.label.size + item.source.size +
                                  item.patches.size + item.mask.size;
        work += 3 * work_per_hash + work_per_hashed_byte * static_cast<double>(bytes);
    }
    for_each(items.size(), threads, work,
             [&](std::size_t i) { commit(items[i], prepared, codes + i * hash_bytes); });
}

void hash_rows(const unsigned char* rows, std::size_t count, std::size_t size, bool portable,
               std::size_t threads, unsigned char* hashes) {
    const Compress compress = choose_compress(portable);
    const double each = work_per_hash + work_per_hashed_byte * static_cast<double>(size);
    for_each(count, threads, each * static_cast<double>(count), [&](std::size_t i) {
        Sha256 hash(compress);
        hash.update(rows + i * size, size);
        hash.finish(hashes + i * hash_bytes);
    });
}

}  // namespace procmem
