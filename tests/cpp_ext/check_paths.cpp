// Every path of this processor against plain loops, without Python: for processors that are only
// emulated. Prints one line per path; ends with 1 at the first difference.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "kernels.hpp"
#include "patchsim.hpp"

namespace {

using procmem::Half;
using procmem::Rows;

std::mt19937 random_bits(0);

int between(int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random_bits);
}

void require(bool holds, const char* what, std::size_t q, std::size_t n, std::size_t d) {
    if (!holds) {
        std::printf("%s differs: %zu queries, %zu rows, width %zu\n", what, q, n, d);
        std::exit(1);
    }
}

// Integers this small make float sums exact, so that the order of results is beyond doubt.
template <class Element>
std::vector<Element> integers(std::size_t count, int low, int high) {
    std::vector<Element> values(count);
    for (Element& value : values) {
        value = static_cast<Element>(between(low, high));
    }
    return values;
}

Half to_half(int value) {  // -8 .. 8
    int bits = value < 0 ? 0x8000 : 0;
    int magnitude = std::abs(value);
    if (magnitude > 0) {
        int exponent = 0;
        while ((magnitude >> (exponent + 1)) > 0) {
            ++exponent;
        }
        const int fraction = (magnitude - (1 << exponent)) << (10 - exponent);
        bits |= ((exponent + 15) << 10) | fraction;
    }
    return {static_cast<std::uint16_t>(bits)};
}

struct Nearest {
    std::vector<std::int64_t> indices;
    std::vector<long> similarities;
};

template <class Query, class Row>
Nearest nearest(const std::vector<Query>& queries, const std::vector<Row>& memory, const bool* keep,
                std::size_t q, std::size_t n, std::size_t d, std::size_t k) {
    Nearest found;
    for (std::size_t query = 0; query < q; ++query) {
        std::vector<std::pair<long, std::int64_t>> order;  // by similarity, negated, then index
        for (std::size_t row = 0; row < n; ++row) {
            if (keep[row]) {
                long sum = 0;
                for (std::size_t i = 0; i < d; ++i) {
                    sum += static_cast<long>(queries[query * d + i]) *
                           static_cast<long>(memory[row * d + i]);
                }
                order.emplace_back(-sum, static_cast<std::int64_t>(row));
            }
        }
        std::sort(order.begin(), order.end());
        for (std::size_t i = 0; i < k; ++i) {
            found.indices.push_back(order[i].second);
            found.similarities.push_back(-order[i].first);
        }
    }
    return found;
}

// How much the bits of a row count that differ from a query's signs, one by one.
std::size_t distance(const std::vector<float>& query, const std::vector<std::uint8_t>& row) {
    double squares = 0;
    for (const float one : query) {
        squares += static_cast<double>(one * one);
    }
    const double unit = std::sqrt(squares / static_cast<double>(query.size())) / 2;
    std::size_t sum = 0;
    for (std::size_t bit = 0; bit < query.size(); ++bit) {
        if (((row[bit / 8] >> (bit % 8)) & 1u) != (query[bit] > 0 ? 1u : 0u)) {
            const auto size = static_cast<double>(std::fabs(query[bit]));
            sum += static_cast<std::size_t>(std::min(std::floor(size / unit + 0.5), 3.0));
        }
    }
    return sum;
}

// Bits at random, where distances repeat often; compared one by one.
void check_signs(const std::string& isa, std::size_t n, std::size_t bytes, const bool* keep,
                 std::size_t wanted, std::size_t threads) {
    const std::size_t panels = (n + procmem::sign_rows - 1) / procmem::sign_rows;
    std::vector<std::uint8_t> memory(panels * bytes * procmem::sign_rows);
    std::vector<float> query(8 * bytes);
    for (std::uint8_t& byte : memory) {
        byte = static_cast<std::uint8_t>(between(0, 255));
    }
    for (float& element : query) {
        element = static_cast<float>(between(-9, 9));
    }
    std::vector<std::pair<std::size_t, std::int64_t>> order;
    for (std::size_t row = 0; row < n; ++row) {
        std::vector<std::uint8_t> own;
        for (std::size_t byte = 0; byte < bytes; ++byte) {
            const std::size_t at = (row / procmem::sign_rows * bytes + byte) * procmem::sign_rows;
            own.push_back(memory[at + row % procmem::sign_rows]);
        }
        if (keep[row]) {
            order.emplace_back(distance(query, own), static_cast<std::int64_t>(row));
        }
    }
    std::sort(order.begin(), order.end());
    std::vector<std::int64_t> expected;
    for (const auto& [one, row] : order) {
        if (expected.size() < wanted || one <= order[wanted - 1].first) {
            expected.push_back(row);
        }
    }
    std::sort(expected.begin(), expected.end());
    std::vector<std::int64_t> found;
    for (const procmem::LikeRow& one :
         procmem::like_signs(procmem::choose_sign_kernels(isa), {memory.data(), n, bytes},
                             query.data(), query.size(), keep, wanted, threads)) {
        found.push_back(one.row);
    }
    require(found == expected, "like_signs", 1, n, bytes);
}

// Rows of small numbers, which bytes hold exactly: all three looks at them find the nearest.
void check_nearest(const std::string& isa, const std::vector<float>& queries,
                   const std::vector<float>& memory, const bool* keep, const Nearest& wanted,
                   std::size_t q, std::size_t n, std::size_t d, std::size_t k,
                   std::size_t threads) {
    const float unit = 1.0f / 64;  // rows are about 1 long then
    std::vector<float> asked(q * d);
    std::vector<Half> halves(n * d);
    std::vector<std::int8_t> codes(n * d);
    std::vector<float> scales(n, unit);
    const std::size_t bytes = (d + 7) / 8;
    const std::size_t panels = (n + procmem::sign_rows - 1) / procmem::sign_rows;
    std::vector<std::uint8_t> signs(panels * bytes * procmem::sign_rows);
    for (std::size_t i = 0; i < q * d; ++i) {
        asked[i] = queries[i] * unit;
    }
    for (std::size_t i = 0; i < n * d; ++i) {
        halves[i] = to_half(static_cast<int>(memory[i]));
        codes[i] = static_cast<std::int8_t>(memory[i]);
        const std::size_t row = i / d;
        const std::size_t panel = row / procmem::sign_rows;
        const std::size_t at =
            (panel * bytes + i % d / 8) * procmem::sign_rows + row % procmem::sign_rows;
        const unsigned bit = memory[i] > 0 ? 1u << (i % d % 8) : 0u;
        signs[at] = static_cast<std::uint8_t>(signs[at] | bit);
    }
    std::vector<std::int64_t> indices(q * k);
    std::vector<float> similarities(q * k);
    const procmem::Status status =
        procmem::nearest_by_signs({procmem::choose_kernels(isa), procmem::choose_int8_kernels(isa),
                                   procmem::choose_sign_kernels(isa)},
                                  {asked.data(), q, d},
                                  {{signs.data(), n, bytes},
                                   {codes.data(), n, d},
                                   unit,
                                   {halves.data(), n, d},
                                   scales.data()},
                                  keep, n, k, threads, indices.data(), similarities.data());
    require(status.problem == procmem::Problem::none, "status of nearest_by_signs", q, n, d);
    require(indices == wanted.indices, "nearest_by_signs", q, n, d);
    for (std::size_t i = 0; i < q * k; ++i) {
        const float product = static_cast<float>(wanted.similarities[i]) * unit * unit;
        require(similarities[i] == product, "similarity by signs", q, n, d);
    }
}

void check(const std::string& isa, std::size_t q, std::size_t n, std::size_t d, double share) {
    const procmem::Kernels& kernels = procmem::choose_kernels(isa);
    std::vector<unsigned char> flags(n);
    for (unsigned char& flag : flags) {
        flag = between(0, 999) < static_cast<int>(1000 * share) ? 1 : 0;
    }
    flags[static_cast<std::size_t>(between(0, static_cast<int>(n) - 1))] = 1;
    const bool* keep = reinterpret_cast<const bool*>(flags.data());
    const auto kept = static_cast<std::size_t>(std::count(flags.begin(), flags.end(), 1));
    const std::size_t k = std::min<std::size_t>(kept, static_cast<std::size_t>(between(1, 30)));
    const std::size_t threads = static_cast<std::size_t>(between(1, 3));
    std::vector<std::int64_t> indices(q * k);

    {
        const auto queries = integers<std::int8_t>(q * d, -128, 127);
        const auto memory = integers<std::int8_t>(n * d, -128, 127);
        const Nearest wanted = nearest(queries, memory, keep, q, n, d, k);
        std::vector<std::int32_t> similarities(q * k);
        procmem::topk(procmem::choose_int8_kernels(isa), {queries.data(), q, d},
                      {memory.data(), n, d}, keep, k, threads, indices.data(), similarities.data());
        require(indices == wanted.indices, "topk of int8", q, n, d);
        require(std::equal(similarities.begin(), similarities.end(), wanted.similarities.begin()),
                "similarity of int8", q, n, d);
    }

    const auto queries = integers<float>(q * d, -8, 8);
    const auto memory = integers<float>(n * d, -8, 8);
    std::vector<Half> halves(n * d);
    std::transform(memory.begin(), memory.end(), halves.begin(),
                   [](float value) { return to_half(static_cast<int>(value)); });
    const Nearest wanted = nearest(queries, memory, keep, q, n, d, k);
    std::vector<float> similarities(q * k);
    for (int stored = 0; stored < 2; ++stored) {
        const procmem::Status status =
            stored == 0 ? procmem::topk(kernels, Rows<float>{queries.data(), q, d},
                                        Rows<float>{memory.data(), n, d}, nullptr, keep, k, threads,
                                        indices.data(), similarities.data())
                        : procmem::topk(kernels, Rows<float>{queries.data(), q, d},
                                        Rows<Half>{halves.data(), n, d}, nullptr, keep, k, threads,
                                        indices.data(), similarities.data());
        require(status.problem == procmem::Problem::none, "status", q, n, d);
        require(indices == wanted.indices, "topk", q, n, d);
        require(std::equal(similarities.begin(), similarities.end(), wanted.similarities.begin()),
                "similarity", q, n, d);
    }

    {
        // The same rows, by a list of them.
        std::vector<std::int64_t> listed;
        for (std::size_t row = 0; row < n; ++row) {
            if (keep[row]) {
                listed.push_back(static_cast<std::int64_t>(row));
            }
        }
        procmem::topk(kernels, Rows<float>{queries.data(), q, d}, Rows<Half>{halves.data(), n, d},
                      nullptr, {listed.data(), listed.size()}, k, threads, indices.data(),
                      similarities.data());
        require(indices == wanted.indices, "topk of listed rows", q, n, d);
    }
    check_nearest(isa, queries, memory, keep, wanted, q, n, d, k, threads);
    check_signs(isa, n, d, keep, static_cast<std::size_t>(between(1, 40)), threads);

    const auto v = static_cast<std::size_t>(between(1, 20));
    const auto values = integers<float>(n * v, 0, 100);
    const float scale = 0.01f;
    std::vector<float> mixed(q * v);
    procmem::mix(kernels, Rows<float>{queries.data(), q, d}, Rows<float>{memory.data(), n, d},
                 Rows<float>{values.data(), n, v}, keep, scale, threads, mixed.data());
    for (std::size_t query = 0; query < q; ++query) {
        std::vector<double> sums(v, 0.0);
        double total = 0;
        for (std::size_t row = 0; row < n; ++row) {
            double product = 0;
            for (std::size_t i = 0; i < d; ++i) {
                product += static_cast<double>(queries[query * d + i]) *
                           static_cast<double>(memory[row * d + i]);
            }
            const double weight = keep[row] ? std::exp(static_cast<double>(scale) * product) : 0.0;
            total += weight;
            for (std::size_t i = 0; i < v; ++i) {
                sums[i] += weight * static_cast<double>(values[row * v + i]);
            }
        }
        for (std::size_t i = 0; i < v; ++i) {
            const double difference = static_cast<double>(mixed[query * v + i]) - sums[i] / total;
            require(std::fabs(difference) < 0.02, "mix", q, n, d);
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 100;
    const std::size_t queries[] = {1, 2, 3, 4, 5, 8, 12, 13, 14, 29};
    const std::size_t widths[] = {1, 3, 4, 7, 16, 17, 31, 32, 63, 64, 129};
    const double shares[] = {0.02, 0.5, 0.95, 1.0};
    for (const std::string& isa : procmem::available_isas()) {
        for (int round = 0; round < rounds; ++round) {
            const auto n =
                static_cast<std::size_t>(round % 10 == 0 ? between(1000, 3000) : between(1, 140));
            check(isa, queries[round % 10], n, widths[round % 11], shares[between(0, 3)]);
        }
        std::printf("%s: %d rounds agree\n", isa.c_str(), rounds);
    }
}
