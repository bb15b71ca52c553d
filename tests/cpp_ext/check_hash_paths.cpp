// The instructions for SHA-256 against the portable path and the examples of the standard, without
// Python: for processors that are only emulated. Prints one line; ends with 1 at a difference.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "sha256.hpp"

namespace {

std::string hash(procmem::Compress compress, const std::vector<unsigned char>& text,
                 std::size_t piece) {
    procmem::Sha256 running(compress);
    for (std::size_t at = 0; at < text.size(); at += piece) {
        running.update(text.data() + at, std::min(piece, text.size() - at));
    }
    unsigned char bytes[procmem::hash_bytes];
    running.finish(bytes);
    std::string digits;
    for (const unsigned char byte : bytes) {
        char pair[3];
        std::snprintf(pair, sizeof pair, "%02x", byte);
        digits += pair;
    }
    return digits;
}

struct Example {
    const char* text;
    const char* hash;
};

// FIPS 180-4's own examples, as NIST publishes them.
constexpr Example examples[] = {
    {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
};

}  // namespace

int main() {
    const procmem::Compress fast = procmem::choose_compress(false);
    const procmem::Compress portable = procmem::choose_compress(true);
    for (const procmem::Compress compress : {fast, portable}) {
        for (const Example& example : examples) {
            const std::vector<unsigned char> text(example.text,
                                                  example.text + std::strlen(example.text));
            if (hash(compress, text, 7) != example.hash) {
                std::printf("the hash of %s differs\n", example.text);
                return 1;
            }
        }
    }
    std::mt19937 random_bits(0);
    for (std::size_t size = 0; size < 600; ++size) {
        std::vector<unsigned char> text(size);
        for (unsigned char& byte : text) {
            byte = static_cast<unsigned char>(random_bits() & 0xff);
        }
        if (hash(fast, text, 1 + size % 150) != hash(portable, text, size + 1)) {
            std::printf("the hash of %zu bytes differs\n", size);
            return 1;
        }
    }
    std::printf("%s: 600 sizes agree\n", fast == portable ? "portable" : "instructions");
    return 0;
}
