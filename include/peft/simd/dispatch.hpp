#pragma once
#include <peft/config/abi.hpp>

#include <cstddef>
#include <cstdlib>
#include <span>
#include <string_view>

PEFT_BEGIN

/// Instruction sets that every kernel is compiled for, in rising order. Elsewhere than on x86-64 only baseline exists.
enum class SimdLevel : unsigned char {
    baseline,   ///< what the compiler was told: SSE2 or NEON when nothing was said; 16-byte vectors
    avx2,       ///< AVX2 and FMA, 32-byte vectors
    avx512,     ///< AVX-512 F, BW, DQ, VL and FMA, 64-byte vectors
};

PEFT_END

PEFT_ISA_DETAIL_BEGIN

/// What a kernel body is told about the level it is compiled for.
template <SimdLevel level> struct LevelTag {
    static constexpr SimdLevel id = level;
    static constexpr std::size_t bytes = level == SimdLevel::avx512 ? 64 : level == SimdLevel::avx2 ? 32 : 16;
    template <class T> static constexpr std::size_t lanes = bytes / sizeof(T);
};

inline SimdLevel best_level() noexcept {
#if defined(PEFT_X86_64) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl")) {
            return SimdLevel::avx512;
        }
        return SimdLevel::avx2;
    }
#endif
    return SimdLevel::baseline;
}

/// The level for a value of PEFT_SIMD (null: not set) on a CPU whose best level is `best`.
inline SimdLevel chosen_level(const char* wanted, SimdLevel best) noexcept {
    const std::string_view name = wanted == nullptr ? std::string_view{} : std::string_view{wanted};
    if (name == "baseline") return SimdLevel::baseline;
    if (name == "avx2" && best >= SimdLevel::avx2) return SimdLevel::avx2;
    return best;
}

PEFT_ISA_DETAIL_END

PEFT_ISA_BEGIN

/// "baseline", "avx2" or "avx512": the values of the environment variable PEFT_SIMD.
inline std::string_view to_string(SimdLevel level) noexcept {
    return level == SimdLevel::avx512 ? "avx512" : level == SimdLevel::avx2 ? "avx2" : "baseline";
}

/// The levels this CPU has, lowest first; never empty.
inline std::span<const SimdLevel> simd_levels() noexcept {
    static constexpr SimdLevel all[] = {SimdLevel::baseline, SimdLevel::avx2, SimdLevel::avx512};
    return {all, static_cast<std::size_t>(detail::best_level()) + 1};
}

/// The level all kernels run at. Chosen at the first call and fixed from then on: the one named by the environment
/// variable PEFT_SIMD (avx512, avx2 or baseline), or the best the CPU has when the variable is not set, names no level,
/// or names one that the CPU lacks.
inline SimdLevel simd_level() noexcept {
    static const SimdLevel level = detail::chosen_level(std::getenv("PEFT_SIMD"), detail::best_level());
    return level;
}

PEFT_ISA_END

PEFT_ISA_DETAIL_BEGIN

// A kernel is a struct with `template <class L> PEFT_INLINE static R run(args...)`, its body, written once for any
// vector width. The entries below are the only functions that carry a target; the body is inlined into each.
// No OpenMP below this line: an outlined parallel region would lose the target.

template <class Kernel, class... Args> PEFT_NOINLINE auto entry_baseline(Args... args) {
    return Kernel::template run<LevelTag<SimdLevel::baseline>>(args...);
}

#if defined(PEFT_X86_64) && defined(__GNUC__)
template <class Kernel, class... Args> [[gnu::target("avx2,fma"), gnu::noinline]] auto entry_avx2(Args... args) {
    return Kernel::template run<LevelTag<SimdLevel::avx2>>(args...);
}
template <class Kernel, class... Args>
[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,fma"), gnu::noinline]] auto entry_avx512(Args... args) {
    return Kernel::template run<LevelTag<SimdLevel::avx512>>(args...);
}
#endif

/// Runs a kernel at one level, which the CPU must have.
template <class Kernel, class... Args> auto run_kernel_at(SimdLevel level, Args... args) {
#if defined(PEFT_X86_64) && defined(__GNUC__)
    if (level == SimdLevel::avx512) return entry_avx512<Kernel, Args...>(args...);
    if (level == SimdLevel::avx2) return entry_avx2<Kernel, Args...>(args...);
#else
    static_cast<void>(level);
#endif
    return entry_baseline<Kernel, Args...>(args...);
}

/// Runs a kernel at simd_level().
template <class Kernel, class... Args> auto run_kernel(Args... args) {
    return run_kernel_at<Kernel, Args...>(simd_level(), args...);
}

PEFT_ISA_DETAIL_END
