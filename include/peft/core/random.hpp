#pragma once
#include <peft/core/scalar.hpp>

#include <cstdint>
#include <string_view>

PEFT_BEGIN

/// What a stream of random numbers is for: streams of other purposes never share numbers.
enum class Purpose : std::uint32_t { parameters = 1, dropout = 2, basis = 3, data = 4, selection = 5 };

/// Names one stream of the counter-based generator: number i of a stream depends on the key and i alone, so any part
/// of it can be made again at any time, on any platform, by any number of threads.
struct StreamKey {
    std::uint64_t seed = 0;
    std::uint64_t stream = 0;   ///< which layer (a hash of its name, or chosen by the caller)
    Purpose purpose = Purpose::parameters;
    std::uint64_t step = 0;     ///< training step, or index of the tensor within the method
    friend bool operator==(const StreamKey&, const StreamKey&) = default;
};

PEFT_END

PEFT_ISA_DETAIL_BEGIN

/// Finaliser of splitmix64 (Steele, Lea, Flood 2014): every bit of the input changes each output bit with p ~ 1/2.
PEFT_INLINE std::uint64_t mix64(std::uint64_t x) noexcept {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

PEFT_ISA_DETAIL_END

PEFT_ISA_BEGIN

/// FNV-1a over the text: the stream of a module is the hash of its name.
inline std::uint64_t stream_of(std::string_view name) noexcept {
    std::uint64_t hash = 0xcbf29ce484222325ull;
    for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
    return hash;
}

/// The generator "peft-counter-v1": 32 random bits from a counter by integer arithmetic only, so the bits are the same
/// on every platform and at every vector width.
/// The mixing rounds are the three-multiplication hash "triple32" (C. Wellons, hash-prospector; bias 0.0208), with the
/// two halves of the key entering before the first and the second round, so that streams are no shifts of each other.
class CounterRandom {
public:
    explicit CounterRandom(const StreamKey& key) noexcept {
        std::uint64_t h = detail::mix64(key.seed + 0x9e3779b97f4a7c15ull);
        h = detail::mix64(h ^ (key.stream + 0x9e3779b97f4a7c15ull));
        h = detail::mix64(h ^ (static_cast<std::uint64_t>(key.purpose) * 0xd6e8feb86659fd93ull));
        key_ = detail::mix64(h ^ (key.step + 0x632be59bd9b4e019ull));
    }

    /// Number `index` of the stream.
    PEFT_INLINE std::uint32_t bits(std::uint64_t index) const noexcept {
        const std::uint64_t k = page_key(index >> 32);
        return hash(static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(k), static_cast<std::uint32_t>(k >> 32));
    }
    /// The key of 2^32 consecutive numbers; a kernel that stays within one page hashes with its two halves itself.
    PEFT_INLINE std::uint64_t page_key(std::uint64_t page) const noexcept {
        return page == 0 ? key_ : detail::mix64(key_ ^ (page * 0x9e3779b97f4a7c15ull));
    }
    PEFT_INLINE static std::uint32_t hash(std::uint32_t x, std::uint32_t low, std::uint32_t high) noexcept {
        x ^= low;
        x = (x ^ (x >> 17)) * 0xed5ad4bbu;
        x ^= high;
        x = (x ^ (x >> 11)) * 0xac4c1b51u;
        x = (x ^ (x >> 15)) * 0x31848babu;
        return x ^ (x >> 14);
    }

    /// Uniform in [0, 1) with 24 bits: exact in float.
    PEFT_INLINE double uniform(std::uint64_t index) const noexcept { return static_cast<double>(bits(index) >> 8) * 0x1p-24; }

    /// Standard normal: 256 fair bits, counted, and the difference of two uniforms to fill the gaps between counts;
    /// one multiplication at the end is the only rounding. Variance 64 + 1/6 before it; excess kurtosis -0.008.
    /// Uses numbers 10 index .. 10 index + 9 of the stream.
    PEFT_INLINE double normal(std::uint64_t index) const noexcept {
        std::int64_t count = -128;
        for (std::uint64_t k = 0; k < 8; ++k) count += std::popcount(bits(10 * index + k));
        const auto spread = static_cast<std::int64_t>(bits(10 * index + 8)) - static_cast<std::int64_t>(bits(10 * index + 9));
        constexpr double deviation = 8.010409893798611;   // sqrt(64 + 1/6)
        return static_cast<double>(count * (std::int64_t{1} << 32) + spread) * (0x1p-32 / deviation);
    }

private:
    std::uint64_t key_;
};

PEFT_ISA_END
