// Which instruction sets this processor runs, and which one a call uses.

#include <cstdlib>
#include <stdexcept>

#include "kernels.hpp"
#include "patchsim.hpp"

#if defined(PROCMEM_X86) && defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#elif defined(PROCMEM_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(PROCMEM_ARM64) && defined(_MSC_VER)
#include <windows.h>
#endif

namespace procmem {
namespace {

#if defined(PROCMEM_X86) && defined(_MSC_VER)

struct Features {
    bool avx2;
    bool avx512;
    bool bw;
    bool vnni;
    bool vbmi;
};

// The instruction must exist and the operating system must save its registers.
Features detect() {
    int info[4];
    __cpuid(info, 0);
    if (info[0] < 7) {
        return {false, false, false, false, false};
    }
    __cpuid(info, 1);
    const bool fma = (info[2] & (1 << 12)) != 0;
    const bool f16c = (info[2] & (1 << 29)) != 0;
    const bool saves_state = (info[2] & (1 << 27)) != 0;
    __cpuidex(info, 7, 0);
    const bool avx2 = (info[1] & (1 << 5)) != 0;
    const bool avx512f = (info[1] & (1 << 16)) != 0;
    const bool bw = (info[1] & (1 << 30)) != 0;
    const bool vnni = (info[2] & (1 << 11)) != 0;
    const bool vbmi = (info[2] & (1 << 1)) != 0;
    const unsigned long long saved = saves_state ? _xgetbv(0) : 0;
    const bool usable = fma && f16c && avx2 && (saved & 0x6) == 0x6;
    const bool wide = usable && avx512f && (saved & 0xe6) == 0xe6;
    return {usable, wide, wide && bw, wide && bw && vnni, wide && bw && vbmi};
}

bool runs_avx2() { return detect().avx2; }
bool runs_avx512() { return detect().avx512; }
bool runs_bw() { return detect().bw; }
bool runs_vnni() { return detect().vnni; }
bool runs_vbmi() { return detect().vbmi; }

#elif defined(PROCMEM_X86)

// __builtin_cpu_supports("f16c") is newer than the compilers that are supported; whatever runs
// AVX2 and FMA has it.
bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool runs_avx512() { return runs_avx2() && __builtin_cpu_supports("avx512f"); }
bool runs_bw() { return runs_avx512() && __builtin_cpu_supports("avx512bw"); }
bool runs_vnni() { return runs_bw() && __builtin_cpu_supports("avx512vnni"); }
bool runs_vbmi() { return runs_bw() && __builtin_cpu_supports("avx512vbmi"); }

#elif defined(PROCMEM_ARM64)

bool runs_dot_products() {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(_MSC_VER)
    return IsProcessorFeaturePresent(PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE) != 0;
#elif defined(__APPLE__)
    return true;  // since the M1
#else
    return false;
#endif
}

#endif

std::vector<const Kernels*> available() {
    std::vector<const Kernels*> found{&kernels_scalar};
#ifdef PROCMEM_ARM64
    found.push_back(&kernels_neon);  // every arm64 processor has it
#endif
#ifdef PROCMEM_X86
    if (runs_avx2()) {
        found.push_back(&kernels_avx2);
    }
    if (runs_avx512()) {
        found.push_back(&kernels_avx512);
    }
#endif
    return found;
}

}  // namespace

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Kernels* kernels : available()) {
        names.emplace_back(kernels->name);
    }
    return names;
}

const Kernels& choose_kernels(const std::string& name) {
    std::string wanted = name;
    std::string origin = "isa";
    if (wanted.empty()) {
        const char* forced = std::getenv("PROCMEM_ISA");
        wanted = forced == nullptr ? "" : forced;
        origin = "the environment variable PROCMEM_ISA";
    }
    const std::vector<const Kernels*> possible = available();
    if (wanted.empty()) {
        return *possible.back();
    }
    std::string names;
    for (const Kernels* kernels : possible) {
        if (wanted == kernels->name) {
            return *kernels;
        }
        names += (names.empty() ? "" : ", ") + std::string(kernels->name);
    }
    throw std::invalid_argument(origin + " is '" + wanted + "', this processor can run: " + names +
                                "; choose one of these, or leave it unset for the fastest");
}

const Int8Kernels& choose_int8_kernels(const std::string& name) {
    const std::string wanted = choose_kernels(name).name;
#ifdef PROCMEM_X86
    if (wanted == "avx512" && runs_vnni()) {
        return int8_avx512;
    }
    if (wanted != "scalar") {
        return int8_avx2;
    }
#endif
#ifdef PROCMEM_ARM64
    if (wanted == "neon" && runs_dot_products()) {
        return int8_neon;
    }
#endif
    return int8_scalar;
}

const SignKernels& choose_sign_kernels(const std::string& name) {
    const std::string wanted = choose_kernels(name).name;
#ifdef PROCMEM_X86
    if (wanted == "avx512" && runs_vbmi()) {
        return signs_vbmi;
    }
    if (wanted == "avx512" && runs_bw()) {
        return signs_avx512;
    }
    if (wanted != "scalar") {
        return signs_avx2;
    }
#endif
#ifdef PROCMEM_ARM64
    if (wanted == "neon") {
        return signs_neon;
    }
#endif
    return signs_scalar;
}

std::string name_of(const Kernels& kernels) { return kernels.name; }

}  // namespace procmem
