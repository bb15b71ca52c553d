// How many multiply-adds a second the instructions of each path do at best, on all cores: nothing
// but registers. Prints "element path multiply-adds-per-second" lines. Built by bench_patchsim.py.

#include <immintrin.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

constexpr int chains = 12;  // independent sums, more than the latency of any of them needs
constexpr long rounds = 60'000'000;

volatile float sink;

// Variables by name, as compilers keep arrays in memory.
#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define BEGIN(i) auto sum##i = zero;
#define STEP(i)           \
    sum##i = add(sum##i); \
    asm volatile("" : "+x"(sum##i));
#define FINISH(i) total += static_cast<float>(lane(sum##i));

// A function of `chains` operations in every round.
#define PEAK(name, isa, ZERO, ONE, OPERATION, LANE)                                             \
    __attribute__((target(isa), noinline)) void name() {                                        \
        const auto zero = ZERO;                                                                 \
        const auto one = ONE;                                                                   \
        const auto add = [&](auto sum)                                                          \
                             __attribute__((target(isa), always_inline)) { return OPERATION; }; \
        const auto lane = [](auto sum)                                                          \
                              __attribute__((target(isa), always_inline)) { return LANE; };     \
        EACH(BEGIN)                                                                             \
        for (long round = 0; round < rounds; ++round) {                                         \
            EACH(STEP)                                                                          \
        }                                                                                       \
        float total = 0;                                                                        \
        EACH(FINISH)                                                                            \
        sink = total;                                                                           \
    }

PEAK(float_scalar, "sse2", _mm_setzero_ps(), _mm_set1_ps(1e-9f),
     _mm_add_ps(sum, _mm_mul_ps(one, sum)), _mm_cvtss_f32(sum))
PEAK(float_avx2, "avx2,fma", _mm256_setzero_ps(), _mm256_set1_ps(1e-9f),
     _mm256_fmadd_ps(one, one, sum), _mm256_cvtss_f32(sum))
PEAK(float_avx512, "avx512f", _mm512_setzero_ps(), _mm512_set1_ps(1e-9f),
     _mm512_fmadd_ps(one, one, sum), _mm512_cvtss_f32(sum))
PEAK(int8_avx2, "avx2", _mm256_setzero_si256(), _mm256_set1_epi16(1),
     _mm256_add_epi32(sum, _mm256_madd_epi16(one, sum)), _mm256_extract_epi32(sum, 0))
PEAK(int8_avx512, "avx512f,avx512vnni", _mm512_setzero_si512(), _mm512_set1_epi8(1),
     _mm512_dpbusd_epi32(sum, one, one), _mm_cvtsi128_si32(_mm512_castsi512_si128(sum)))

// The best of three runs on all threads.
void report(const char* element, const char* path, void (*body)(), int lanes, int threads) {
    double best = 0;
    for (int repeat = 0; repeat < 3; ++repeat) {
        const auto start = std::chrono::steady_clock::now();
        std::vector<std::thread> team;
        for (int i = 0; i < threads; ++i) {
            team.emplace_back(body);
        }
        for (std::thread& one : team) {
            one.join();
        }
        const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
        const double rate = static_cast<double>(rounds) * chains * lanes * threads / time.count();
        best = rate > best ? rate : best;
    }
    std::printf("%s %s %.6g\n", element, path, best);
}

}  // namespace

int main(int argc, char** argv) {
    const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
    report("float32", "scalar", float_scalar, 4, threads);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        report("float32", "avx2", float_avx2, 8, threads);
        report("int8", "avx2", int8_avx2, 16, threads);
    }
    if (__builtin_cpu_supports("avx512f")) {
        report("float32", "avx512", float_avx512, 16, threads);
    }
    if (__builtin_cpu_supports("avx512vnni")) {
        report("int8", "avx512", int8_avx512, 64, threads);
    }
}
