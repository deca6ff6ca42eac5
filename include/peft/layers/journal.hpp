#pragma once
#include <peft/core/scalar.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

PEFT_BEGIN

/// How a block of rows of a merged weight gets its old bytes back.
enum class BlockKind : std::uint8_t {
    untouched,   ///< nothing was written
    rows,        ///< two bits for each row say how (RowKind), then the rows' bytes
    copy,        ///< all rows as they were
};

/// How far an unmerge has come with a block.
enum class UnmergeProgress : std::uint8_t { none, restored, failed };

/// One block of rows in the record of a merge.
struct MergeBlock {
    BlockKind kind = BlockKind::untouched;
    UnmergeProgress progress = UnmergeProgress::none;
    std::vector<std::uint8_t> bytes;
    std::uint64_t before = 0;   ///< checksum of the block's stored bytes before the merge
    std::uint64_t after = 0;    ///< and after it
};

PEFT_END

PEFT_ISA_DETAIL_BEGIN

// The exact-undo journal. What unmerging computes, w~ = revert(W'), is nearly W; the journal holds how far off, in steps
// between neighbouring numbers of the storage type:
//   per row of n weights:  ceil(n / 64) bits "this group of 64 has a difference",
//                          8 bytes for each such group: which of its weights differ,
//                          a nibble for each of those: d + 8 for d = -7 .. 7, or 0: "see the raw weights",
//                          the raw weights.
// A row that would be larger than its copy is a copy.

enum class RowKind : std::uint8_t { untouched = 0, exact = 1, coded = 2, copied = 3 };

/// Position of a number among all numbers of its type, ordered by value: neighbours differ by one, -0 lies below +0.
template <StorageScalar S> PEFT_INLINE std::int64_t ordinal(S value) noexcept {
    using Bits = detail::bits_t<S>;
    constexpr Bits sign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
    const auto bits = std::bit_cast<Bits>(value);
    const auto magnitude = static_cast<std::int64_t>(static_cast<std::uint64_t>(static_cast<Bits>(bits & static_cast<Bits>(~sign))));
    return (bits & sign) != 0 ? -1 - magnitude : magnitude;
}

template <StorageScalar S> PEFT_INLINE S from_ordinal(std::int64_t position) noexcept {
    using Bits = detail::bits_t<S>;
    constexpr Bits sign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
    if (position >= 0) return std::bit_cast<S>(static_cast<Bits>(position));
    return std::bit_cast<S>(static_cast<Bits>(static_cast<Bits>(-1 - position) | sign));
}

/// Appends the journal of one row and says how it is to be read.
template <StorageScalar S>
RowKind encode_row(std::span<const S> original, std::span<const S> reverted, std::vector<std::uint8_t>& bytes) {
    const std::size_t n = original.size();
    if (std::memcmp(original.data(), reverted.data(), n * sizeof(S)) == 0) return RowKind::exact;
    const std::size_t start = bytes.size();
    const std::size_t limit = n * sizeof(S);
    const std::size_t groups = (n + 63) / 64;
    const std::size_t flag_bytes = (groups + 7) / 8;

    std::size_t differing = 0;
    std::size_t raw = 0;
    std::size_t marked = 0;
    bytes.resize(start + flag_bytes, 0);
    for (std::size_t g = 0; g < groups; ++g) {
        const std::size_t first = g * 64;
        const std::size_t count = n - first < 64 ? n - first : 64;
        if (std::memcmp(original.data() + first, reverted.data() + first, count * sizeof(S)) == 0) continue;
        std::uint64_t map = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const std::int64_t a = ordinal(original[first + i]);
            const std::int64_t b = ordinal(reverted[first + i]);
            if (a == b) continue;
            map |= std::uint64_t{1} << i;
            // a - b may overflow for doubles of opposite sign; the difference modulo 2^64 is small only when it is small
            const auto step = static_cast<std::int64_t>(static_cast<std::uint64_t>(a) - static_cast<std::uint64_t>(b));
            if (step < -7 || step > 7) ++raw;
        }
        differing += static_cast<std::size_t>(std::popcount(map));
        ++marked;
        bytes[start + g / 8] = static_cast<std::uint8_t>(bytes[start + g / 8] | (1u << (g % 8)));
        const std::size_t at = bytes.size();
        bytes.resize(at + 8);
        std::memcpy(bytes.data() + at, &map, 8);
        if (flag_bytes + 8 * marked + (differing + 1) / 2 + raw * sizeof(S) >= limit) {
            bytes.resize(start);
            const auto* source = reinterpret_cast<const std::uint8_t*>(original.data());
            bytes.insert(bytes.end(), source, source + limit);
            return RowKind::copied;
        }
    }
    const std::size_t nibbles = bytes.size();
    bytes.resize(nibbles + (differing + 1) / 2 + raw * sizeof(S), 0);
    std::size_t raw_at = nibbles + (differing + 1) / 2;
    std::size_t k = 0;
    std::size_t map_at = start + flag_bytes;
    for (std::size_t g = 0; g < groups; ++g) {
        if ((bytes[start + g / 8] >> (g % 8) & 1u) == 0) continue;
        std::uint64_t map = 0;
        std::memcpy(&map, bytes.data() + map_at, 8);
        map_at += 8;
        for (; map != 0; map &= map - 1, ++k) {
            const std::size_t i = g * 64 + static_cast<std::size_t>(std::countr_zero(map));
            const auto step = static_cast<std::int64_t>(static_cast<std::uint64_t>(ordinal(original[i])) - static_cast<std::uint64_t>(ordinal(reverted[i])));
            std::uint32_t code = 0;
            if (step >= -7 && step <= 7) {
                code = static_cast<std::uint32_t>(step + 8);
            } else {
                std::memcpy(bytes.data() + raw_at, &original[i], sizeof(S));
                raw_at += sizeof(S);
            }
            bytes[nibbles + k / 2] = static_cast<std::uint8_t>(bytes[nibbles + k / 2] | (code << (4 * (k % 2))));
        }
    }
    return RowKind::coded;
}

/// Turns a reverted row into the original one; returns how many bytes of the journal it read.
template <StorageScalar S> std::size_t decode_row(RowKind kind, const std::uint8_t* bytes, std::span<S> row) noexcept {
    const std::size_t n = row.size();
    if (kind == RowKind::copied) {
        std::memcpy(static_cast<void*>(row.data()), bytes, n * sizeof(S));
        return n * sizeof(S);
    }
    if (kind != RowKind::coded) return 0;
    const std::size_t groups = (n + 63) / 64;
    const std::size_t flag_bytes = (groups + 7) / 8;
    std::size_t marked = 0;
    for (std::size_t b = 0; b < flag_bytes; ++b) marked += static_cast<std::size_t>(std::popcount(bytes[b]));
    std::size_t differing = 0;
    for (std::size_t m = 0; m < marked; ++m) {
        std::uint64_t map = 0;
        std::memcpy(&map, bytes + flag_bytes + 8 * m, 8);
        differing += static_cast<std::size_t>(std::popcount(map));
    }
    const std::uint8_t* maps = bytes + flag_bytes;
    const std::uint8_t* nibbles = maps + 8 * marked;
    const std::uint8_t* raw = nibbles + (differing + 1) / 2;
    std::size_t k = 0;
    for (std::size_t g = 0; g < groups; ++g) {
        if ((bytes[g / 8] >> (g % 8) & 1u) == 0) continue;
        std::uint64_t map = 0;
        std::memcpy(&map, maps, 8);
        maps += 8;
        for (; map != 0; map &= map - 1, ++k) {
            const std::size_t i = g * 64 + static_cast<std::size_t>(std::countr_zero(map));
            const std::uint32_t code = (nibbles[k / 2] >> (4 * (k % 2))) & 15u;
            if (code == 0) {
                std::memcpy(static_cast<void*>(&row[i]), raw, sizeof(S));
                raw += sizeof(S);
            } else {
                const std::uint64_t position = static_cast<std::uint64_t>(ordinal(row[i])) + code - 8u;
                row[i] = from_ordinal<S>(static_cast<std::int64_t>(position));
            }
        }
    }
    return static_cast<std::size_t>(raw - bytes);
}

PEFT_ISA_DETAIL_END
