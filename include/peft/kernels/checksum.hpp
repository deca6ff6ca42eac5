#pragma once
#include <peft/core/random.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

PEFT_ISA_BEGIN

/// 64-bit checksum of memory in four independent lanes. A change of a single word always changes it, since each step is
/// a bijection of its lane; other changes escape with p = 2^-64. Not cryptographic.
inline std::uint64_t checksum(const void* data, std::size_t bytes, std::uint64_t seed = 0) noexcept {
    constexpr std::uint64_t prime = 0x9e3779b97f4a7c15ull;
    std::uint64_t lane[4] = {seed ^ 0x243f6a8885a308d3ull, seed ^ 0x13198a2e03707344ull, seed ^ 0xa4093822299f31d0ull, seed ^ 0x082efa98ec4e6c89ull};
    const auto* p = static_cast<const unsigned char*>(data);
    std::size_t left = bytes;
    for (; left >= 32; left -= 32, p += 32) {
        std::uint64_t word[4];
        std::memcpy(word, p, 32);
        for (int k = 0; k < 4; ++k) {
            lane[k] = (lane[k] ^ word[k]) * prime;
            lane[k] ^= lane[k] >> 29;   // the upper half of a word would otherwise never reach the lower half of the lane
        }
    }
    for (int k = 0; left != 0; ++k) {
        std::uint64_t word = 0;
        const std::size_t part = left < 8 ? left : 8;
        std::memcpy(&word, p, part);
        lane[k] = (lane[k] ^ word) * prime;
        lane[k] ^= lane[k] >> 29;
        p += part;
        left -= part;
    }
    std::uint64_t result = bytes;
    for (const std::uint64_t value : lane) result = detail::mix64(result ^ value) + prime;
    return result;
}

PEFT_ISA_END
