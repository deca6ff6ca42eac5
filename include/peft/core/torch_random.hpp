#pragma once
#include <peft/config/abi.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

PEFT_ISA_BEGIN

/// The stream of PyTorch's CPU generator after manual_seed(seed): files that keep a seed instead of a random matrix can
/// be read. Uniform numbers only; normal ones depend on the instruction set there.
/// Source: Matsumoto and Nishimura 1998 (MT19937); how PyTorch draws from it was checked against its own tensors.
class TorchRandom {
public:
    explicit TorchRandom(std::uint64_t seed) noexcept {
        state_[0] = static_cast<std::uint32_t>(seed);   // PyTorch uses the low 32 bits
        for (std::uint32_t i = 1; i < size; ++i) state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
    }

    std::uint32_t bits() noexcept {
        if (next_ == size) renew();
        std::uint32_t y = state_[next_++];
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c5680u;
        y ^= (y << 15) & 0xefc60000u;
        return y ^ (y >> 18);
    }

    /// tensor.uniform_(-bound, bound) of a float tensor: u * (to - from) + from with 24 random bits in u and one rounding.
    /// The sum is exact in double (49 bits), so contraction cannot change it.
    void uniform(double bound, std::span<float> values) noexcept {
        const auto to = static_cast<float>(bound);
        const float from = -to;
        const float width = to - from;
        for (float& value : values) value = static_cast<float>((bits() & 0xffffffu) * 0x1p-24 * static_cast<double>(width) + static_cast<double>(from));
    }

private:
    void renew() noexcept {
        for (std::size_t i = 0; i < size; ++i) {
            const std::uint32_t y = (state_[i] & 0x80000000u) | (state_[(i + 1) % size] & 0x7fffffffu);
            state_[i] = state_[(i + 397) % size] ^ (y >> 1) ^ ((y & 1) != 0 ? 0x9908b0dfu : 0u);
        }
        next_ = 0;
    }

    static constexpr std::size_t size = 624;
    std::array<std::uint32_t, size> state_{};
    std::size_t next_ = size;
};

PEFT_ISA_END
