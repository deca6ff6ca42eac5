#pragma once
#include <peft/config/abi.hpp>

#include <bit>
#include <concepts>
#include <cstdint>
#include <type_traits>

PEFT_BEGIN

/// What the library computes in.
template <class T> concept Scalar = std::same_as<T, float> || std::same_as<T, double>;

/// Brain floating point: the upper half of a float. Storage only.
struct bfloat16 {
    std::uint16_t bits = 0;
    friend bool operator==(bfloat16, bfloat16) = default;   // of the bits
};

/// IEEE 754 binary16. Storage only.
struct float16 {
    std::uint16_t bits = 0;
    friend bool operator==(float16, float16) = default;     // of the bits
};

/// What weights may be stored in.
template <class S> concept StorageScalar = Scalar<S> || std::same_as<S, bfloat16> || std::same_as<S, float16>;

namespace detail {
template <class S> struct bits_of;
template <> struct bits_of<float> { using type = std::uint32_t; };
template <> struct bits_of<double> { using type = std::uint64_t; };
template <> struct bits_of<bfloat16> { using type = std::uint16_t; };
template <> struct bits_of<float16> { using type = std::uint16_t; };
/// The unsigned integer of the same size.
template <class S> using bits_t = typename bits_of<S>::type;
}  // namespace detail

PEFT_END

PEFT_ISA_BEGIN

// Conversions by integer arithmetic on the bits: exact, the same under every flag, NaN payloads and subnormals kept.

PEFT_INLINE float widen(bfloat16 value) noexcept { return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16); }

PEFT_INLINE float widen(float16 value) noexcept {
    const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
    const std::uint32_t exponent = (value.bits >> 10) & 0x1fu;
    std::uint32_t fraction = value.bits & 0x3ffu;
    if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
    if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (fraction << 13));
    if (fraction == 0) return std::bit_cast<float>(sign);
    // subnormal: normalise, since every binary16 subnormal is a normal float
    const auto shift = static_cast<std::uint32_t>(std::countl_zero(fraction)) - 21u;
    fraction = (fraction << shift) & 0x3ffu;
    return std::bit_cast<float>(sign | ((113u - shift) << 23) | (fraction << 13));
}

PEFT_INLINE float widen(float value) noexcept { return value; }
PEFT_INLINE double widen(double value) noexcept { return value; }

PEFT_ISA_END

PEFT_ISA_DETAIL_BEGIN

/// Rounds the bits of a double to a 16-bit format with `exponent_bits` and `fraction_bits`, to nearest, ties to even.
/// Overflow gives infinity; a NaN keeps its sign and upper payload and stays a NaN.
template <int exponent_bits, int fraction_bits> PEFT_INLINE std::uint16_t round_bits(std::uint64_t bits) noexcept {
    constexpr int drop = 52 - fraction_bits;
    constexpr std::int64_t bias = (1 << (exponent_bits - 1)) - 1;
    constexpr std::uint64_t infinity = ((1u << exponent_bits) - 1u) << fraction_bits;
    const auto sign = static_cast<std::uint64_t>((bits >> 63) << 15);
    const auto exponent = static_cast<std::int64_t>((bits >> 52) & 0x7ff);
    const std::uint64_t fraction = bits & 0xfffffffffffffull;
    if (exponent == 0x7ff) {
        std::uint64_t payload = fraction >> drop;
        if (fraction != 0 && payload == 0) payload = 1;
        return static_cast<std::uint16_t>(sign | infinity | payload);
    }
    const std::int64_t target = exponent - 1023 + bias;
    std::uint64_t significand = exponent == 0 ? fraction : fraction | 0x10000000000000ull;
    std::int64_t shift = drop;
    std::uint64_t base = 0;
    if (target > 0) {
        base = static_cast<std::uint64_t>(target - 1) << fraction_bits;   // the hidden bit adds the missing one
    } else {
        shift += 1 - target;
        if (shift > 62) return static_cast<std::uint16_t>(sign);          // below half of the smallest subnormal
    }
    const std::uint64_t half = std::uint64_t{1} << (shift - 1);
    const std::uint64_t rest = significand & ((half << 1) - 1);
    significand >>= shift;
    if (rest > half || (rest == half && (significand & 1) != 0)) ++significand;
    const std::uint64_t magnitude = base + significand;
    return static_cast<std::uint16_t>(sign | (magnitude < infinity ? magnitude : infinity));
}

PEFT_ISA_DETAIL_END

PEFT_ISA_BEGIN

/// Rounds to the storage type once, to nearest, ties to even; overflow gives infinity.
template <StorageScalar S> PEFT_INLINE S round_to(double value) noexcept {
    if constexpr (std::same_as<S, bfloat16>) return {detail::round_bits<8, 7>(std::bit_cast<std::uint64_t>(value))};
    else if constexpr (std::same_as<S, float16>) return {detail::round_bits<5, 10>(std::bit_cast<std::uint64_t>(value))};
    else return static_cast<S>(value);
}
template <StorageScalar S> PEFT_INLINE S round_to(float value) noexcept {
    if constexpr (std::same_as<S, bfloat16>) {
        const auto bits = std::bit_cast<std::uint32_t>(value);
        if ((bits & 0x7fffffffu) > 0x7f800000u) {                         // NaN: keep the upper payload, never become infinity
            const auto upper = static_cast<std::uint16_t>(bits >> 16);
            return {static_cast<std::uint16_t>((upper & 0x7fu) != 0 ? upper : upper | 1u)};
        }
        return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
    } else if constexpr (std::same_as<S, float16>) {
        const auto bits = std::bit_cast<std::uint32_t>(value);
        if ((bits & 0x7f800000u) == 0x7f800000u) {                        // a conversion to double would quieten a NaN
            const std::uint32_t payload = (bits & 0x7fffffu) >> 13;
            const std::uint32_t kept = (bits & 0x7fffffu) != 0 && payload == 0 ? 1u : payload;
            return {static_cast<std::uint16_t>(((bits >> 16) & 0x8000u) | 0x7c00u | kept)};
        }
        return round_to<S>(static_cast<double>(value));
    } else {
        return static_cast<S>(value);
    }
}

/// True for every value but infinities and NaN, by the exponent bits: also right under -ffast-math.
PEFT_INLINE bool is_finite(float value) noexcept { return (std::bit_cast<std::uint32_t>(value) & 0x7f800000u) != 0x7f800000u; }
PEFT_INLINE bool is_finite(double value) noexcept {
    return (std::bit_cast<std::uint64_t>(value) & 0x7ff0000000000000ull) != 0x7ff0000000000000ull;
}
/// False for zeros only, by the bits: NaN and subnormals are told from zero under -ffast-math too.
PEFT_INLINE bool is_nonzero(float value) noexcept { return (std::bit_cast<std::uint32_t>(value) << 1) != 0; }
PEFT_INLINE bool is_nonzero(double value) noexcept { return (std::bit_cast<std::uint64_t>(value) << 1) != 0; }
PEFT_INLINE bool is_finite(bfloat16 value) noexcept { return (value.bits & 0x7f80u) != 0x7f80u; }
PEFT_INLINE bool is_finite(float16 value) noexcept { return (value.bits & 0x7c00u) != 0x7c00u; }

PEFT_ISA_END
