#include <peft/kernels/elementwise.hpp>

#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/reference.hpp"

#include <bit>
#include <limits>
#include <type_traits>
#include <vector>

using namespace peft;
using namespace peft::test;

namespace {

template <class T> std::vector<std::size_t> widths() {
    const std::size_t v = (simd_level() == SimdLevel::avx512 ? 64 : simd_level() == SimdLevel::avx2 ? 32 : 16) / sizeof(T);
    return {0, 1, 3, v - 1, v, v + 1, 3 * v + 2, 4 * v, 5 * v + 1};
}
const Placement placements[] = {{0, 0}, {1, 3}, {3, 1}};

/// op(dst) on guarded memory against term(i, j, old dst) with `terms` roundings.
template <class T, class Op, class Terms> void check(const Op& op, const Terms& terms) {
    for (const std::size_t rows : {std::size_t{0}, std::size_t{1}, std::size_t{5}}) {
        for (const std::size_t cols : widths<T>()) {
            for (const Placement placement : placements) {
                INFO("rows " << rows << ", cols " << cols << ", offset " << placement.offset << ", gap " << placement.gap);
                Guarded<T> dst(rows, cols, placement), a(rows, cols, placement), b(rows, cols, placement);
                Guarded<T> g(1, cols, {placement.offset, 0}), h(1, cols);
                dst.randomize(1);
                a.randomize(2);
                b.randomize(3);
                g.randomize(4);
                h.randomize(5);
                Expected expected(rows, cols);
                expected.terms = 2;
                for (std::size_t i = 0; i < rows; ++i) {
                    for (std::size_t j = 0; j < cols; ++j) {
                        for (const long double term : terms(exact(dst.read()(i, j)), exact(a.read()(i, j)), exact(b.read()(i, j)),
                                                            exact(g.read()(0, j)), exact(h.read()(0, j)))) {
                            expected.add(i, j, term);
                        }
                    }
                }
                op(dst.view(), a.read(), b.read(), g.read_span(), h.read_span());
                CHECK(difference(dst.read(), expected) == "");
                CHECK(dst.intact());
            }
        }
    }
}
using Terms = std::vector<long double>;
using L = long double;

template <class S> S from_bits(std::uint64_t bits) {
    return std::bit_cast<S>(static_cast<detail::bits_t<S>>(bits));
}

}  // namespace

TEMPLATE_TEST_CASE("copy, add, axpy, scale and multiply_into do to each element what they say", "", float, double) {
    using T = TestType;
    check<T>([](auto y, auto a, auto, auto, auto) { copy(a, y); }, [](L, L a, L, L, L) { return Terms{a}; });
    check<T>([](auto y, auto a, auto, auto, auto) { add(a, y); }, [](L y, L a, L, L, L) { return Terms{y, a}; });
    check<T>([](auto y, auto a, auto, auto, auto) { axpy(T{-0.75}, a, y); }, [](L y, L a, L, L, L) { return Terms{y, -0.75L * a}; });
    check<T>([](auto y, auto, auto, auto, auto) { scale(T{0.625}, y); }, [](L y, L, L, L, L) { return Terms{0.625L * y}; });
    check<T>([](auto y, auto a, auto b, auto, auto) { multiply_into(a, b, y); }, [](L, L a, L b, L, L) { return Terms{a * b}; });
}

TEMPLATE_TEST_CASE("column scales and shifts act on every row", "", float, double) {
    using T = TestType;
    check<T>([](auto y, auto, auto, auto g, auto) { scale_columns(g, y); }, [](L y, L, L, L g, L) { return Terms{y * g}; });
    check<T>([](auto y, auto, auto, auto g, auto h) { scale_shift_columns(g, h, y); }, [](L y, L, L, L g, L h) { return Terms{y * g, h}; });
    check<T>([](auto y, auto, auto, auto g, auto) { add_rows(g, y); }, [](L y, L, L, L g, L) { return Terms{y, g}; });
}

TEMPLATE_TEST_CASE("spans and large matrices shared out in pieces give the same as one row", "", float, double) {
    using T = TestType;
    const std::size_t rows = 300, cols = 1001;
    Guarded<T> a(rows, cols), y(rows, cols), z(rows, cols);
    a.randomize(1);
    y.randomize(2);
    z.randomize(2);
    add(a.read(), y.view());
    axpy(T{2}, a.read(), y.view());
    for (std::size_t i = 0; i < rows; ++i) {
        add(a.read().row_span(i), z.view().row_span(i));
        axpy(T{2}, a.read().row_span(i), z.view().row_span(i));
    }
    CHECK(same_bits<T>(y.view(), z.view()));
    CHECK(y.intact());
    copy(a.read_span(), y.span());
    scale(T{3}, y.span());
    multiply_into(y.read_span(), a.read_span(), z.span());
    CHECK(z.read()(299, 1000) == y.read()(299, 1000) * a.read()(299, 1000));
    CHECK(y.read()(150, 7) == T{3} * a.read()(150, 7));
}

TEMPLATE_TEST_CASE("fills follow the counter generator element by element", "", float, double) {
    using T = TestType;
    const StreamKey key{.seed = 11, .stream = 3};
    const CounterRandom random(key);
    std::vector<T> u(1000), n(1000);
    fill_uniform(key, 0.3, std::span<T>(u));
    fill_normal(key, 0.5, 2.0, std::span<T>(n));
    bool right = true;
    for (std::size_t i = 0; i < u.size(); ++i) {
        const double deviation = 2.0 * random.normal(i);   // a power of two: exact, so an FMA gives the same
        right = right && u[i] == static_cast<T>(0.3 * (2 * random.uniform(i) - 1)) && n[i] == static_cast<T>(0.5 + deviation);
        right = right && u[i] >= T{-0.3f} * T{1.0001f} && u[i] < T{0.3f} * T{1.0001f};
    }
    CHECK(right);
}

TEMPLATE_TEST_CASE("every 16-bit pattern widens to the bits of the scalar conversion", "", bfloat16, float16) {
    using S = TestType;
    std::vector<S> all(65536);
    for (std::size_t i = 0; i < all.size(); ++i) all[i].bits = static_cast<std::uint16_t>(i);
    std::vector<float> single(all.size());
    std::vector<double> twice(all.size());
    widen(std::span<const S>(all), std::span<float>(single));
    widen(std::span<const S>(all), std::span<double>(twice));
    bool right = true;
    for (std::size_t i = 0; i < all.size(); ++i) {
        const float wanted = widen(all[i]);
        right = right && std::bit_cast<std::uint32_t>(single[i]) == std::bit_cast<std::uint32_t>(wanted);
        right = right && (is_finite(wanted) ? twice[i] == static_cast<double>(wanted) : !is_finite(twice[i]));
    }
    CHECK(right);
}

TEMPLATE_TEST_CASE("rounding to 16 bits gives the bits of the scalar conversion", "", bfloat16, float16) {
    using S = TestType;
    std::vector<float> values;
    for (std::uint32_t i = 0; i < 65536; ++i) {   // every upper half with the lower halves at which rounding turns, and near float16's
        for (const std::uint32_t low : {0x0000u, 0x0001u, 0x0fffu, 0x1000u, 0x1001u, 0x2fffu, 0x3000u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
            values.push_back(std::bit_cast<float>(i << 16 | low));
        }
    }
    std::vector<S> rounded(values.size());
    round_to_storage(std::span<const float>(values), std::span<S>(rounded));
    std::size_t wrong = 0;
    std::uint32_t first = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (rounded[i] == round_to<S>(values[i])) continue;
        if (wrong++ == 0) first = std::bit_cast<std::uint32_t>(values[i]);
    }
    INFO("first wrong value has the bits " << first);
    CHECK(wrong == 0);
    std::vector<double> doubles{1.0 + 0x1p-8 + 0x1p-40, 65519.999, 0x1p-25, -3.5};
    std::vector<S> from_double(doubles.size());
    round_to_storage(std::span<const double>(doubles), std::span<S>(from_double));
    for (std::size_t i = 0; i < doubles.size(); ++i) CHECK(from_double[i] == round_to<S>(doubles[i]));
    Guarded<S> guarded(1, 37, {1, 0});
    round_to_storage(std::span<const float>(values).first(37), guarded.span());
    CHECK(guarded.intact());
}

TEMPLATE_TEST_CASE("transpose gathers from and scatters into any strides", "", float, double, bfloat16) {
    using T = TestType;
    for (const std::size_t rows : {std::size_t{0}, std::size_t{1}, std::size_t{15}, std::size_t{16}, std::size_t{50}, std::size_t{400}}) {
        for (const std::size_t cols : {std::size_t{1}, std::size_t{17}, std::size_t{401}}) {
            INFO("rows " << rows << ", cols " << cols);
            Guarded<T> source(cols, rows, {1, 2}), dense(rows, cols, {3, 1}), back(cols, rows, {0, 5});
            source.randomize(7);
            transpose(StridedView<const T>(source.read()).transposed(), dense.view());
            bool right = true;
            for (std::size_t i = 0; i < rows; ++i)
                for (std::size_t j = 0; j < cols; ++j) right = right && dense.read()(i, j) == source.read()(j, i);
            CHECK(right);
            transpose(dense.read(), StridedView<T>(back.view()).transposed());
            CHECK(same_bits<T>(back.view(), source.view()));
            CHECK(dense.intact());
            CHECK(back.intact());
        }
    }
}

TEMPLATE_TEST_CASE("all_finite finds one infinity or NaN wherever it stands", "", float, double, bfloat16, float16) {
    using S = TestType;
    constexpr bool f16 = std::is_same_v<S, float16>;
    const std::uint64_t infinity = sizeof(S) == 8 ? 0x7ff0000000000000ull : sizeof(S) == 4 ? 0x7f800000ull : f16 ? 0x7c00ull : 0x7f80ull;
    const std::uint64_t sign = std::uint64_t{1} << (8 * sizeof(S) - 1);
    for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{16}, std::size_t{33}, std::size_t{20001}}) {
        std::vector<S> values(count, from_bits<S>(infinity - 1));   // the largest finite number
        CHECK(all_finite(std::span<const S>(values)));
        for (const std::uint64_t bad : {infinity, infinity | sign, infinity | 1, infinity | sign | 3}) {
            for (std::size_t at = 0; at < count; at += count > 100 ? 997 : 1) {
                values[at] = from_bits<S>(bad);
                CHECK(!all_finite(std::span<const S>(values)));
                values[at] = S{};
            }
        }
    }
}
