#pragma once
#include <peft/core/arena.hpp>
#include <peft/core/concepts.hpp>
#include <peft/core/matrix.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

PEFT_ISA_BEGIN

namespace sparse {

/// The numbers of W that count as small: those of magnitude below `bits`, and the first `ties` (row by row) that equal it.
/// Magnitudes are compared as bits, in which finite numbers of one sign, then infinity, then NaN rise.
template <Scalar T> struct SmallWeights {
    using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    Bits bits = 0;
    std::size_t ties = 0;

    static Bits magnitude(T value) noexcept { return std::bit_cast<Bits>(value) & (~Bits{0} >> 1); }
};

/// The positions of the small weights, rising, and the smallest magnitude in W (infinity if W is empty or all NaN).
template <Scalar T> struct Selection {
    Matrix<std::int32_t> indices;   ///< (1 x count)
    T smallest = std::numeric_limits<T>::infinity();
};

/// |w| < threshold, strictly and in double; never NaN. `threshold` is positive.
template <Scalar T> SmallWeights<T> below_threshold(double threshold) {
    using Small = SmallWeights<T>;
    const auto bits = [&]() -> typename Small::Bits {
        if (threshold > static_cast<double>(std::numeric_limits<T>::max())) return Small::magnitude(std::numeric_limits<T>::infinity());
        const T rounded = static_cast<T>(threshold);
        // the first number that is not below: the next one when rounding went down
        return Small::magnitude(rounded) + (static_cast<double>(rounded) < threshold ? 1u : 0u);
    };
    return {bits(), 0};
}

/// f(row number, row of W) from top to bottom, a few rows in memory at a time.
template <Scalar T, class F> void for_rows_of(const BaseView<T>& base, const F& f) {
    const LayerShape shape = base.shape();
    constexpr std::size_t block = 16;
    for (std::size_t first = 0; first < shape.out; first += block) {
        const std::size_t count = shape.out - first < block ? shape.out - first : block;
        ArenaScope scope;
        const auto rows = scope.template matrix<T>(count, shape.in);
        base.read_rows(first, rows);
        for (std::size_t i = 0; i < count; ++i) f(first + i, MatrixView<const T>(rows).row_span(i));
    }
}

/// Exactly `count` <= in * out weights, those of smallest magnitude; of equal ones the first, row by row. A radix selection: a pass over
/// W for each 16 bits of a number, with 2^16 counters and no copy of W.
template <Scalar T> SmallWeights<T> smallest_weights(const BaseView<T>& base, std::size_t count) {
    using Small = SmallWeights<T>;
    using Bits = typename Small::Bits;
    constexpr unsigned digit = 16;
    if (count == 0) return {0, 0};
    Bits prefix = 0;            // of the number sought: its digits found so far
    std::size_t left = count;   // its place, from 1, among the numbers with these digits
    std::vector<std::size_t> counters(std::size_t{1} << digit);
    for (unsigned shift = 8 * sizeof(T); shift != 0;) {
        const unsigned above = shift;
        shift -= digit;
        for (std::size_t& counter : counters) counter = 0;
        for_rows_of<T>(base, [&](std::size_t, std::span<const T> row) {
            for (const T value : row) {
                const Bits bits = Small::magnitude(value);
                const bool matches = above == 8 * sizeof(T) || (bits >> (above % (8 * sizeof(T)))) == prefix;
                if (matches) ++counters[static_cast<std::size_t>(bits >> shift) & 0xffffu];
            }
        });
        std::size_t found = 0;
        while (counters[found] < left) left -= counters[found++];
        prefix = static_cast<Bits>((above == 8 * sizeof(T) ? Bits{0} : static_cast<Bits>(prefix << digit)) | static_cast<Bits>(found));
    }
    return {prefix, left};
}

/// The positions of the small weights: one pass counts, one writes.
template <Scalar T> Selection<T> select(const BaseView<T>& base, SmallWeights<T> small) {
    using Small = SmallWeights<T>;
    Selection<T> result;
    const std::size_t in = base.shape().in;
    std::size_t count = 0;
    std::size_t equal = 0;
    auto smallest = Small::magnitude(result.smallest);
    for_rows_of<T>(base, [&](std::size_t, std::span<const T> row) {
        for (const T value : row) {
            const auto bits = Small::magnitude(value);
            count += bits < small.bits ? 1 : 0;
            equal += bits == small.bits ? 1 : 0;
            smallest = bits < smallest ? bits : smallest;
        }
    });
    result.smallest = std::bit_cast<T>(smallest);
    result.indices = Matrix<std::int32_t>(1, count + (equal < small.ties ? equal : small.ties));
    std::size_t ties = small.ties;
    std::int32_t* next = result.indices.data();
    for_rows_of<T>(base, [&](std::size_t o, std::span<const T> row) {
        for (std::size_t i = 0; i < row.size(); ++i) {
            const auto bits = Small::magnitude(row[i]);
            const bool tie = bits == small.bits && ties != 0;
            if (tie) --ties;
            if (bits < small.bits || tie) *next++ = static_cast<std::int32_t>(o * in + i);
        }
    });
    return result;
}

}  // namespace sparse

PEFT_ISA_END
