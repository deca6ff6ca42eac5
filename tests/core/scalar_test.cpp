#include "support/catch.hpp"

#include <peft/core/random.hpp>
#include <peft/core/scalar.hpp>

#include <bit>
#include <cmath>
#include <limits>

using peft::bfloat16;
using peft::float16;
using peft::round_to;
using peft::widen;

namespace {

template <class S> struct Format;
template <> struct Format<bfloat16> { static constexpr int exponent_bits = 8, fraction_bits = 7; };
template <> struct Format<float16> { static constexpr int exponent_bits = 5, fraction_bits = 10; };

/// The value of a bit pattern by the definition of the format.
template <class S> double value_of(std::uint16_t bits) {
    constexpr int f = Format<S>::fraction_bits;
    constexpr int bias = (1 << (Format<S>::exponent_bits - 1)) - 1;
    const int exponent = (bits >> f) & ((1 << Format<S>::exponent_bits) - 1);
    const int fraction = bits & ((1 << f) - 1);
    const double magnitude = exponent == 0 ? std::ldexp(fraction, 1 - bias - f) : std::ldexp(fraction + (1 << f), exponent - bias - f);
    return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}
template <class S> constexpr std::uint16_t infinity_bits = static_cast<std::uint16_t>(((1 << Format<S>::exponent_bits) - 1) << Format<S>::fraction_bits);

/// The bits a number must round to, found by looking at its neighbours: nearest, ties to an even fraction.
template <class S> std::uint16_t nearest(double value) {
    const double magnitude = std::fabs(value);
    std::uint16_t low = 0;                                  // the largest finite number not above
    std::uint16_t high = infinity_bits<S>;
    while (high - low > 1) {
        const auto middle = static_cast<std::uint16_t>((low + high) / 2);
        if (value_of<S>(middle) <= magnitude) low = middle;
        else high = middle;
    }
    // the step beyond the largest finite number counts as if it were one more number
    const double above = high == infinity_bits<S> ? 2 * value_of<S>(low) - value_of<S>(static_cast<std::uint16_t>(low - 1)) : value_of<S>(high);
    const double down = magnitude - value_of<S>(low);
    const double up = above - magnitude;
    const bool take_high = up < down || (up == down && (low & 1) != 0);
    return static_cast<std::uint16_t>((take_high ? high : low) | (std::signbit(value) ? 0x8000 : 0));
}

}  // namespace

TEMPLATE_TEST_CASE("scalar: all 65536 numbers of the half formats widen exactly and round back to their bits", "", bfloat16, float16) {
    using S = TestType;
    std::size_t nans = 0;
    for (std::uint32_t b = 0; b < 0x10000; ++b) {
        const auto bits = static_cast<std::uint16_t>(b);
        const float wide = widen(S{bits});
        const bool infinite = (bits & 0x7fff) == infinity_bits<S>;
        const bool nan = (bits & 0x7fff) > infinity_bits<S>;
        CAPTURE(b);
        if (nan) {
            ++nans;
            if (!std::isnan(wide)) FAIL("a NaN became a number");
        } else if (infinite ? !std::isinf(wide) : static_cast<double>(wide) != value_of<S>(bits)) {
            FAIL("another value");
        }
        if (std::signbit(wide) != ((bits & 0x8000) != 0)) FAIL("another sign");
        if (round_to<S>(wide).bits != bits) FAIL("from float: other bits");     // payloads and signalling NaNs included
        if (!nan && round_to<S>(static_cast<double>(wide)).bits != bits) FAIL("from double: other bits");
        if (is_finite(S{bits}) != (!nan && !infinite)) FAIL("finite or not");
    }
    CHECK(nans == 2 * ((std::size_t{1} << Format<S>::fraction_bits) - 1));
}

TEMPLATE_TEST_CASE("scalar: rounding is to nearest, ties to even, from float and from double", "", bfloat16, float16) {
    using S = TestType;
    // every finite number, the midpoint to its neighbour, and what lies just beside both
    for (std::uint32_t b = 0; b < infinity_bits<S>; ++b) {
        const auto bits = static_cast<std::uint16_t>(b);
        const double here = value_of<S>(bits);
        const double step = b + 1 == infinity_bits<S> ? here - value_of<S>(static_cast<std::uint16_t>(b - 1)) : value_of<S>(static_cast<std::uint16_t>(b + 1)) - here;
        const double middle = here + step / 2;
        for (const double sign : {1.0, -1.0}) {
            for (const double value : {here, middle, std::nextafter(middle, 0.0), std::nextafter(middle, 1e300), std::nextafter(here, 1e300)}) {
                const double signed_value = sign * value;
                if (round_to<S>(signed_value).bits != nearest<S>(signed_value)) FAIL("from double " << signed_value);
            }
            const float wide = static_cast<float>(sign * middle);          // exact: one bit more than S
            for (const float value : {wide, std::nextafter(wide, 0.0f), std::nextafter(wide, 2 * wide)}) {
                if (round_to<S>(value).bits != nearest<S>(static_cast<double>(value))) FAIL("from float " << value);
            }
        }
    }
    const peft::CounterRandom random({.seed = 1, .stream = 0, .purpose = peft::Purpose::data, .step = 0});
    for (std::uint64_t i = 0; i < 100000; ++i) {
        const auto value = std::bit_cast<float>(random.bits(i));
        if (!peft::is_finite(value)) continue;
        if (round_to<S>(value).bits != nearest<S>(static_cast<double>(value))) FAIL("random float " << value);
        const auto wide = std::bit_cast<double>((std::uint64_t{random.bits(i)} << 32) | random.bits(i + 1));
        if (peft::is_finite(wide) && round_to<S>(wide).bits != nearest<S>(wide)) FAIL("random double " << wide);
    }
}

TEMPLATE_TEST_CASE("scalar: overflow gives infinity, NaN stays NaN, and doubles far below the range become signed zeros", "", bfloat16, float16) {
    using S = TestType;
    CHECK(round_to<S>(std::numeric_limits<float>::infinity()).bits == infinity_bits<S>);
    CHECK(round_to<S>(-std::numeric_limits<double>::infinity()).bits == (infinity_bits<S> | 0x8000));
    CHECK(round_to<S>(1e300).bits == infinity_bits<S>);
    CHECK(round_to<S>(-std::numeric_limits<float>::max()).bits == (infinity_bits<S> | 0x8000));
    CHECK(round_to<S>(-1e-300).bits == 0x8000);
    CHECK(round_to<S>(std::numeric_limits<double>::denorm_min()).bits == 0);
    for (const std::uint32_t bits : {0x7f800001u, 0xff800001u, 0x7fc00000u, 0xffffffffu, 0x7fa00000u}) {
        const std::uint16_t rounded = round_to<S>(std::bit_cast<float>(bits)).bits;
        CHECK((rounded & 0x7fff) > infinity_bits<S>);
        CHECK((rounded >> 15) == (bits >> 31));
    }
    for (const std::uint64_t bits : {0x7ff0000000000001ull, 0xfff0000000000001ull, 0x7ff8000000000000ull}) {
        const std::uint16_t rounded = round_to<S>(std::bit_cast<double>(bits)).bits;
        CHECK((rounded & 0x7fff) > infinity_bits<S>);
        CHECK((rounded >> 15) == (bits >> 63));
    }
}

TEST_CASE("scalar: finite and nonzero are told by the bits") {
    CHECK(peft::is_finite(std::numeric_limits<float>::max()));
    CHECK_FALSE(peft::is_finite(std::numeric_limits<float>::infinity()));
    CHECK_FALSE(peft::is_finite(std::numeric_limits<double>::quiet_NaN()));
    CHECK_FALSE(peft::is_nonzero(-0.0f));
    CHECK_FALSE(peft::is_nonzero(0.0));
    CHECK(peft::is_nonzero(std::numeric_limits<float>::denorm_min()));
    CHECK(peft::is_nonzero(std::numeric_limits<double>::quiet_NaN()));
}
