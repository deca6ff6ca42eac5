#pragma once
#include <peft/core/scalar.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

// Before every loop over an array of vectors that must stay in registers, the zeroing and the store included.
#if defined(PEFT_CLANG)
#define PEFT_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(PEFT_GCC)
#define PEFT_UNROLL _Pragma("GCC unroll 64")
#else
#define PEFT_UNROLL
#endif
// A lambda of a kernel body: [&](auto at) PEFT_INLINE_LAMBDA { ... }
#define PEFT_INLINE_LAMBDA __attribute__((always_inline))

PEFT_ISA_DETAIL_BEGIN

template <class T, std::size_t N> struct RawVector {
    typedef T type __attribute__((vector_size(N * sizeof(T))));
    typedef T unaligned __attribute__((vector_size(N * sizeof(T)), aligned(alignof(T)), may_alias));
};

/// N numbers in one vector register of whatever instruction set the entry has that this is inlined into. A struct,
/// because a bare vector in a signature has an ABI that depends on the target.
template <class T, std::size_t N> struct Vec {
    using Raw = typename RawVector<T, N>::type;
    static constexpr std::size_t lanes = N;
    Raw raw;

    PEFT_INLINE static Vec load(const T* from) noexcept {
        return {*reinterpret_cast<const typename RawVector<T, N>::unaligned*>(from)};
    }
    PEFT_INLINE void store(T* to) const noexcept { *reinterpret_cast<typename RawVector<T, N>::unaligned*>(to) = raw; }
    /// The first `count` < N elements, zeros behind; touches no byte beyond them.
    PEFT_INLINE static Vec load_first(const T* from, std::size_t count) noexcept {
        alignas(N * sizeof(T)) T buffer[N] = {};
        std::memcpy(buffer, from, count * sizeof(T));
        return load(buffer);
    }
    PEFT_INLINE void store_first(T* to, std::size_t count) const noexcept {
        alignas(N * sizeof(T)) T buffer[N];
        store(buffer);
        std::memcpy(to, buffer, count * sizeof(T));
    }
    PEFT_INLINE static Vec zero() noexcept { return {Raw{}}; }
    /// Written as value - 0: clang turns 0 + value into a shuffle chain under AVX2.
    PEFT_INLINE static Vec splat(T value) noexcept { return {value - Raw{}}; }

    PEFT_INLINE friend Vec operator+(const Vec& a, const Vec& b) noexcept { return {a.raw + b.raw}; }
    PEFT_INLINE friend Vec operator-(const Vec& a, const Vec& b) noexcept { return {a.raw - b.raw}; }
    PEFT_INLINE friend Vec operator*(const Vec& a, const Vec& b) noexcept { return {a.raw * b.raw}; }
    PEFT_INLINE friend Vec operator/(const Vec& a, const Vec& b) noexcept { return {a.raw / b.raw}; }
    PEFT_INLINE Vec& operator+=(const Vec& b) noexcept { raw += b.raw; return *this; }
    PEFT_INLINE Vec& operator*=(const Vec& b) noexcept { raw *= b.raw; return *this; }
    /// this += a * b: one FMA where the level has it. In one expression, as clang contracts no further than that.
    PEFT_INLINE void add_product(const Vec& a, const Vec& b) noexcept { raw += a.raw * b.raw; }
};

/// The same bits as numbers of another type of the same size.
template <class To, class T, std::size_t N> PEFT_INLINE Vec<To, N> bits_as(const Vec<T, N>& v) noexcept {
    static_assert(sizeof(To) == sizeof(T));
    return {reinterpret_cast<typename Vec<To, N>::Raw>(v.raw)};
}
/// Each number converted.
template <class To, class T, std::size_t N> PEFT_INLINE Vec<To, N> convert(const Vec<T, N>& v) noexcept {
    if constexpr (std::same_as<To, T>) return v;
    else return {__builtin_convertvector(v.raw, typename Vec<To, N>::Raw)};
}
/// mask ? a : b, lane by lane; the lanes of the mask are all ones or all zeros.
template <class T, class I, std::size_t N>
PEFT_INLINE Vec<T, N> select(const Vec<I, N>& mask, const Vec<T, N>& a, const Vec<T, N>& b) noexcept {
    return bits_as<T>(Vec<I, N>{(mask.raw & bits_as<I>(a).raw) | (~mask.raw & bits_as<I>(b).raw)});
}

/// Unsigned integer with as many bits as T.
template <class T> using UintOf = std::conditional_t<sizeof(T) == 2, std::uint16_t,
                                                     std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>>;

/// All ones where the condition holds; comparisons of vectors give signed lanes.
#define PEFT_MASK(T, N, condition) (Vec<UintOf<T>, N>{reinterpret_cast<typename Vec<UintOf<T>, N>::Raw>(condition)})

template <class T, std::size_t N, std::size_t... lane>
PEFT_INLINE Vec<T, N / 2> add_halves(const Vec<T, N>& v, std::index_sequence<lane...>) noexcept {
    return {__builtin_shufflevector(v.raw, v.raw, static_cast<int>(lane)...) +
            __builtin_shufflevector(v.raw, v.raw, static_cast<int>(lane + N / 2)...)};
}
/// Sum of the lanes, halves first: the order is fixed.
template <class T, std::size_t N> PEFT_INLINE T sum_lanes(const Vec<T, N>& v) noexcept {
    if constexpr (N == 2) return v.raw[0] + v.raw[1];
    else if constexpr (N == 4) return (v.raw[0] + v.raw[2]) + (v.raw[1] + v.raw[3]);
    else return sum_lanes(add_halves(v, std::make_index_sequence<N / 2>{}));
}

template <std::size_t H, class T, std::size_t N, std::size_t... lane>
PEFT_INLINE void exchange_blocks(Vec<T, N>& a, Vec<T, N>& b, std::index_sequence<lane...>) noexcept {
    const auto low = __builtin_shufflevector(a.raw, b.raw, static_cast<int>((lane & H) != 0 ? N + lane - H : lane)...);
    b.raw = __builtin_shufflevector(a.raw, b.raw, static_cast<int>((lane & H) != 0 ? N + lane : lane + H)...);
    a.raw = low;
}
/// Transposes the N x N matrix whose rows are given: the off-diagonal H x H blocks change places, H = 1, 2, 4, ...
template <std::size_t H = 1, class T, std::size_t N> PEFT_INLINE void transpose_lanes(Vec<T, N> (&rows)[N]) noexcept {
    if constexpr (H < N) {
        PEFT_UNROLL
        for (std::size_t i = 0; i < N; ++i) {
            if ((i & H) == 0) exchange_blocks<H>(rows[i], rows[i + H], std::make_index_sequence<N>{});
        }
        transpose_lanes<2 * H>(rows);
    }
}

/// widen(bfloat16) and widen(float16) on vectors: the same bits as the scalar functions.
template <StorageScalar S, std::size_t N> PEFT_INLINE Vec<float, N> widen_bits(const Vec<std::uint16_t, N>& half) noexcept {
    using U = Vec<std::uint32_t, N>;
    const U bits = convert<std::uint32_t>(half);
    if constexpr (std::same_as<S, bfloat16>) {
        return bits_as<float>(U{bits.raw << 16});
    } else {
        const U sign{(bits.raw & 0x8000u) << 16};
        const U magnitude{(bits.raw & 0x7fffu) << 13};
        const U special = PEFT_MASK(float, N, magnitude.raw >= 0xf800000u);     // infinity, NaN: the exponent becomes 255
        const U subnormal = PEFT_MASK(float, N, magnitude.raw < 0x800000u);
        const U normal{magnitude.raw + 0x38000000u + (special.raw & 0x38000000u)};
        // fraction * 2^-24 = (1 + fraction / 1024) 2^-14 - 2^-14, exactly and without a subnormal float
        const Vec<float, N> shifted = bits_as<float>(U{magnitude.raw + 0x38800000u}) - Vec<float, N>::splat(0x1p-14f);
        return bits_as<float>(U{select(subnormal, bits_as<std::uint32_t>(shifted), normal).raw | sign.raw});
    }
}

/// round_to<S>(float) on vectors: the same bits as the scalar function.
template <StorageScalar S, std::size_t N> PEFT_INLINE Vec<std::uint16_t, N> round_bits(const Vec<float, N>& value) noexcept {
    using U = Vec<std::uint32_t, N>;
    const U bits = bits_as<std::uint32_t>(value);
    const U magnitude{bits.raw & 0x7fffffffu};
    const U nan = PEFT_MASK(float, N, magnitude.raw > 0x7f800000u);
    constexpr unsigned drop = std::same_as<S, bfloat16> ? 16 : 13;
    const U payload{magnitude.raw >> drop};   // of a NaN: at least 1, so that it stays one
    const U no_payload = PEFT_MASK(float, N, (magnitude.raw & (0x7fffffu >> drop << drop)) == 0);
    const U half_less{((magnitude.raw >> drop) & 1u) + ((1u << (drop - 1)) - 1u)};   // ties to even
    const U sign{(bits.raw >> 16) & 0x8000u};
    if constexpr (std::same_as<S, bfloat16>) {
        const U rounded{(magnitude.raw + half_less.raw) >> 16};
        return convert<std::uint16_t>(U{select(nan, U{payload.raw | (no_payload.raw & 1u)}, rounded).raw | sign.raw});
    } else {
        // below 2^-14 the last place is 2^-24, which is the last place of 0.5: the addition rounds
        const U fixed = bits_as<std::uint32_t>(bits_as<float>(magnitude) + Vec<float, N>::splat(0.5f));
        const U subnormal = PEFT_MASK(float, N, magnitude.raw < 0x38800000u);
        const U large = PEFT_MASK(float, N, magnitude.raw >= 0x47800000u);   // 2^16 and infinity
        const U rounded{(magnitude.raw - 0x38000000u + half_less.raw) >> 13};
        const U kept{0x7c00u | (payload.raw & 0x3ffu) | (no_payload.raw & 1u)};
        U result = select(subnormal, U{fixed.raw - 0x3f000000u}, rounded);
        result = select(large, U{(large.raw & 0x7c00u)}, result);
        return convert<std::uint16_t>(U{select(nan, kept, result).raw | sign.raw});
    }
}

/// N stored numbers as N numbers of type T.
template <Scalar T, std::size_t N, StorageScalar S> PEFT_INLINE Vec<T, N> load_as(const S* from) noexcept {
    if constexpr (Scalar<S>) {
        return convert<T>(Vec<S, N>::load(from));
    } else {
        static_assert(sizeof(S) == 2);
        Vec<std::uint16_t, N> half;
        std::memcpy(&half.raw, from, sizeof half.raw);
        return convert<T>(widen_bits<S>(half));
    }
}
/// The first `count` < N of them, zeros behind.
template <Scalar T, std::size_t N, StorageScalar S> PEFT_INLINE Vec<T, N> load_as_first(const S* from, std::size_t count) noexcept {
    S buffer[N] = {};
    for (std::size_t i = 0; i < count; ++i) buffer[i] = from[i];
    return load_as<T, N>(static_cast<const S*>(buffer));
}

/// Square root of numbers >= 0, within 1 ulp, infinity and NaN kept: vector extensions have no square root, and a call
/// of std::sqrt per lane is not vectorised where it may set errno.
template <Scalar T, std::size_t N> PEFT_INLINE Vec<T, N> square_root(const Vec<T, N>& x) noexcept {
    using V = Vec<T, N>;
    using I = UintOf<T>;
    constexpr bool single = sizeof(T) == 4;
    // the start of 1 / sqrt(x) with a relative error below 3.5 %: Lomont 2003, "Fast inverse square root"
    constexpr I magic = single ? static_cast<I>(0x5f375a86u) : static_cast<I>(0x5fe6eb50c7b537a9ull);
    constexpr I infinity = single ? static_cast<I>(0x7f800000u) : static_cast<I>(0x7ff0000000000000ull);
    const Vec<I, N> bits = bits_as<I>(x);
    V y = bits_as<T>(Vec<I, N>{magic - (bits.raw >> 1)});
    const V half = x * V::splat(T{0.5});
    PEFT_UNROLL
    for (int step = 0; step < (single ? 2 : 3); ++step) y *= V::splat(T{1.5}) - half * y * y;   // error e -> 1.5 e^2
    const V root = x * y;
    const V rest{x.raw - root.raw * root.raw};
    const V refined{root.raw + rest.raw * (y.raw * T{0.5})};
    return select(PEFT_MASK(T, N, bits.raw >= infinity), x, refined);
}

PEFT_ISA_DETAIL_END
