#pragma once
#include <peft/core/random.hpp>
#include <peft/simd/vector.hpp>

#include <cstddef>
#include <cstdint>

PEFT_ISA_DETAIL_BEGIN

/// first, first + 1, ...: one counter a lane.
template <std::size_t N> PEFT_INLINE Vec<std::uint32_t, N> counters_from(std::uint32_t first) noexcept {
    std::uint32_t ramp[N];
    for (std::size_t i = 0; i < N; ++i) ramp[i] = first + static_cast<std::uint32_t>(i);
    return Vec<std::uint32_t, N>::load(ramp);
}

/// CounterRandom::hash lane by lane: the same bits.
template <std::size_t N>
PEFT_INLINE Vec<std::uint32_t, N> hash_counters(const Vec<std::uint32_t, N>& counter, std::uint32_t low, std::uint32_t high) noexcept {
    Vec<std::uint32_t, N> x{counter.raw ^ low};
    x.raw = (x.raw ^ (x.raw >> 17)) * 0xed5ad4bbu;
    x.raw ^= high;
    x.raw = (x.raw ^ (x.raw >> 11)) * 0xac4c1b51u;
    x.raw = (x.raw ^ (x.raw >> 15)) * 0x31848babu;
    x.raw ^= x.raw >> 14;
    return x;
}

/// (2 u - 1) 2^23 with the u of CounterRandom::uniform: whole numbers in [-2^23, 2^23), exact in T.
template <class T, std::size_t N> PEFT_INLINE Vec<T, N> whole_numbers(const Vec<std::uint32_t, N>& bits) noexcept {
    const Vec<std::int32_t, N> high = bits_as<std::int32_t>(Vec<std::uint32_t, N>{bits.raw ^ 0x80000000u});
    return convert<T>(Vec<std::int32_t, N>{high.raw >> 8});
}

PEFT_ISA_DETAIL_END
