#include "support/catch.hpp"

#include <peft/core/random.hpp>
#include <peft/layers/journal.hpp>

#include <bit>
#include <cstring>
#include <vector>

using peft::bfloat16;
using peft::float16;
using peft::detail::decode_row;
using peft::detail::encode_row;
using peft::detail::from_ordinal;
using peft::detail::ordinal;
using peft::detail::RowKind;

namespace {

template <class S> using Bits = peft::detail::bits_t<S>;

template <class S> S from_bits(std::uint64_t bits) { return std::bit_cast<S>(static_cast<Bits<S>>(bits)); }

/// Any bit pattern, with the ends of the order, infinities, NaN and zeros more often than chance.
template <class S> S any_number(const peft::CounterRandom& random, std::uint64_t& at) {
    constexpr auto sign = static_cast<Bits<S>>(Bits<S>{1} << (8 * sizeof(S) - 1));
    const std::uint64_t bits = (std::uint64_t{random.bits(at)} << 32) | random.bits(at + 1);
    const std::uint32_t kind = random.bits(at + 2) % 16;
    at += 3;
    switch (kind) {
    case 0: return from_bits<S>(0);
    case 1: return from_bits<S>(sign);
    case 2: return from_bits<S>(~std::uint64_t{0});                       // the last of the order: a negative NaN
    case 3: return from_bits<S>(static_cast<Bits<S>>(~sign));             // and the first
    case 4: return from_bits<S>(1);
    case 5: return from_bits<S>(static_cast<Bits<S>>(sign | 1));
    default: return from_bits<S>(bits);
    }
}

template <class S> bool round_trip(const std::vector<S>& original, const std::vector<S>& reverted, RowKind& kind, std::size_t& size) {
    std::vector<std::uint8_t> bytes(3, 0xab);                             // what other rows left
    kind = encode_row<S>(original, reverted, bytes);
    size = bytes.size() - 3;
    std::vector<S> row = reverted;
    bytes.insert(bytes.end(), 16, 0xcd);                                  // and what comes after
    const std::size_t read = decode_row<S>(kind, bytes.data() + 3, std::span<S>(row));
    return read == size && bytes[0] == 0xab && bytes[2] == 0xab && std::memcmp(row.data(), original.data(), row.size() * sizeof(S)) == 0;
}

}  // namespace

TEMPLATE_TEST_CASE("journal: ordinals go up with the value, one step from neighbour to neighbour, and back", "", float, double, bfloat16, float16) {
    using S = TestType;
    const peft::CounterRandom random({.seed = 1, .stream = 0, .purpose = peft::Purpose::data, .step = 0});
    constexpr auto sign = static_cast<Bits<S>>(Bits<S>{1} << (8 * sizeof(S) - 1));
    CHECK(ordinal(from_bits<S>(0)) == 0);
    CHECK(ordinal(from_bits<S>(sign)) == -1);
    CHECK(ordinal(from_bits<S>(1)) == 1);
    CHECK(ordinal(from_bits<S>(static_cast<Bits<S>>(sign | 1))) == -2);
    std::uint64_t at = 0;
    for (int i = 0; i < 20000; ++i) {
        const S a = any_number<S>(random, at);
        if (std::bit_cast<Bits<S>>(from_ordinal<S>(ordinal(a))) != std::bit_cast<Bits<S>>(a)) FAIL("not the same number");
        const S b = any_number<S>(random, at);
        const bool finite = peft::is_finite(a) && peft::is_finite(b);
        if (finite && static_cast<double>(peft::widen(a)) < static_cast<double>(peft::widen(b)) && ordinal(a) >= ordinal(b)) FAIL("not in order");
    }
}

TEMPLATE_TEST_CASE("journal: decoding gives back every row, and none is larger than its copy", "", float, double, bfloat16, float16) {
    using S = TestType;
    const peft::CounterRandom random({.seed = 2, .stream = 0, .purpose = peft::Purpose::data, .step = 0});
    std::uint64_t at = 0;
    std::size_t seen[4] = {};
    const std::size_t lengths[] = {1, 2, 7, 8, 9, 63, 64, 65, 128, 511, 512, 513, 1000};
    for (int round = 0; round < 60; ++round) {
        for (const std::size_t n : lengths) {
            // per mille of the row that differs, and how far
            for (const std::uint32_t share : {0u, 1u, 20u, 200u, 1000u}) {
                for (const std::uint32_t reach : {1u, 7u, 8u, 15u, 1000000u}) {
                    std::vector<S> original(n);
                    std::vector<S> reverted(n);
                    for (std::size_t i = 0; i < n; ++i) {
                        original[i] = any_number<S>(random, at);
                        reverted[i] = original[i];
                        if (random.bits(at++) % 1000 >= share) continue;
                        const std::int64_t step = static_cast<std::int64_t>(random.bits(at++) % (2 * reach + 1)) - static_cast<std::int64_t>(reach);
                        reverted[i] = reach > 1000 ? any_number<S>(random, at)
                                                   : from_ordinal<S>(static_cast<std::int64_t>(static_cast<std::uint64_t>(ordinal(original[i])) - static_cast<std::uint64_t>(step)));
                    }
                    RowKind kind{};
                    std::size_t size = 0;
                    if (!round_trip<S>(original, reverted, kind, size)) FAIL("row not restored: n = " << n << ", share " << share << ", reach " << reach << ", round " << round);
                    if (size > n * sizeof(S)) FAIL("larger than a copy: " << size << " bytes for " << n << " numbers");
                    ++seen[static_cast<int>(kind)];
                }
            }
        }
    }
    CHECK(seen[static_cast<int>(RowKind::exact)] > 0);
    CHECK(seen[static_cast<int>(RowKind::coded)] > 0);
    CHECK(seen[static_cast<int>(RowKind::copied)] > 0);
}

TEST_CASE("journal: the bytes of a row are what the format says") {
    // One weight in group 0 two steps up, one in group 2 far away: a flag byte, two maps, one byte of nibbles, one raw weight.
    std::vector<float> original(130, 1.0f);
    std::vector<float> reverted = original;
    reverted[5] = from_ordinal<float>(ordinal(1.0f) - 2);
    reverted[129] = -3.0f;
    std::vector<std::uint8_t> bytes;
    REQUIRE(encode_row<float>(original, reverted, bytes) == RowKind::coded);
    REQUIRE(bytes.size() == 1 + 8 + 8 + 1 + 4);
    CHECK(bytes[0] == 0b101);
    CHECK(bytes[1] == 1u << 5);
    CHECK(bytes[9] == 1u << 1);
    CHECK(bytes[17] == 10);       // 2 + 8 in the lower nibble, 0 in the upper
    float raw = 0;
    std::memcpy(&raw, bytes.data() + 18, 4);
    CHECK(raw == 1.0f);
}
