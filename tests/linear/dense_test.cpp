#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/reference.hpp"

#include <peft/core/concepts.hpp>
#include <peft/core/random.hpp>
#include <peft/linear/dense.hpp>
#include <peft/linear/dense_view.hpp>

#include <limits>
#include <type_traits>
#include <vector>

using peft::bfloat16;
using peft::DenseLinear;
using peft::DenseLinearView;
using peft::float16;
using peft::LayerShape;
using peft::Matrix;
using peft::MatrixView;
using peft::StridedView;
using peft::TransposedLinear;

static_assert(peft::WritableLinear<DenseLinear<float>> && peft::WritableLinear<DenseLinear<float, bfloat16>> && peft::WritableLinear<DenseLinear<double, float16>>);
static_assert(peft::WritableLinear<TransposedLinear<double>> && peft::WritableLinear<DenseLinearView<float, bfloat16>>);

namespace {

template <class S> using Compute = std::conditional_t<std::is_same_v<S, double>, double, float>;

template <class S> Matrix<S> numbers(std::size_t rows, std::size_t cols, std::uint64_t seed) {
    const peft::CounterRandom random({.seed = seed, .stream = 0, .purpose = peft::Purpose::data, .step = 0});
    Matrix<S> result(rows, cols);
    for (std::size_t i = 0; i < result.size(); ++i) result.data()[i] = peft::round_to<S>(2 * random.uniform(i) - 1);
    return result;
}

/// forward, product and backward_input of a layer against sums in long double; weight(o, i) gives its numbers.
template <class Layer, class Weight> void check_products(const Layer& layer, const Weight& weight, std::size_t n) {
    using T = typename Layer::value_type;
    const LayerShape shape = layer.shape();
    CAPTURE(shape.in, shape.out, n);
    const Matrix<T> x = numbers<T>(n, shape.in, 1);
    const Matrix<T> dy = numbers<T>(n, shape.out, 2);
    Matrix<T> y(n, shape.out);
    Matrix<T> dx(n, shape.in);
    for (T& value : y.flat()) value = std::numeric_limits<T>::quiet_NaN();   // must be overwritten
    for (T& value : dx.flat()) value = T(1);                                 // must be added to
    peft::test::Expected forward(n, shape.out), product(n, shape.out), backward(n, shape.in);
    forward.terms = shape.in + 1;
    product.terms = shape.in;
    backward.terms = shape.out + 1;
    for (std::size_t t = 0; t < n; ++t) {
        for (std::size_t o = 0; o < shape.out; ++o) {
            for (std::size_t i = 0; i < shape.in; ++i) {
                const auto w = static_cast<long double>(weight(o, i));
                forward.add(t, o, static_cast<long double>(x(t, i)) * w);
                product.add(t, o, static_cast<long double>(x(t, i)) * w);
                backward.add(t, i, static_cast<long double>(dy(t, o)) * w);
            }
            if (!layer.bias().empty()) forward.add(t, o, static_cast<long double>(layer.bias()[o]));
        }
        for (std::size_t i = 0; i < shape.in; ++i) backward.add(t, i, 1.0L);
    }
    layer.forward(x, y);
    CHECK(peft::test::difference<T>(y.view(), forward) == "");
    layer.product(x, y);
    CHECK(peft::test::difference<T>(y.view(), product) == "");
    layer.backward_input(dy, dx);
    CHECK(peft::test::difference<T>(dx.view(), backward) == "");
}

}  // namespace

TEMPLATE_TEST_CASE("linear: dense layers of every storage and layout multiply as their numbers say", "", float, double, bfloat16, float16) {
    using S = TestType;
    using T = Compute<S>;
    for (const LayerShape shape : {LayerShape{1, 1}, LayerShape{7, 1}, LayerShape{1, 7}, LayerShape{17, 33}, LayerShape{80, 48}}) {
        for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{3}, std::size_t{17}}) {
            const Matrix<S> w = numbers<S>(shape.out, shape.in, 3);
            const auto weight = [&](std::size_t o, std::size_t i) { return peft::widen(w(o, i)); };
            check_products(DenseLinear<T, S>(w, numbers<T>(1, shape.out, 4)), weight, n);
            check_products(DenseLinear<T, S>(w), weight, n);
            Matrix<S> turned(shape.in, shape.out);
            for (std::size_t o = 0; o < shape.out; ++o) {
                for (std::size_t i = 0; i < shape.in; ++i) turned(i, o) = w(o, i);
            }
            check_products(TransposedLinear<T, S>(turned, numbers<T>(1, shape.out, 4)), weight, n);
            Matrix<S> memory = w;
            std::vector<T> bias(shape.out, T(0.5));
            check_products(DenseLinearView<T, S>(memory, std::span<T>(bias)), weight, n);
            check_products(DenseLinearView<T, S>(StridedView<S>(turned.data(), shape.out, shape.in, 1, shape.out)), weight, n);
            peft::test::Guarded<S> padded(shape.out, shape.in, {.offset = 3, .gap = 5});
            padded.assign(w);
            check_products(DenseLinearView<T, S>(padded.view()), weight, n);
            CHECK(padded.intact());
        }
    }
}

TEMPLATE_TEST_CASE("linear: rows are read and written where they are, in every layout", "", float, double, bfloat16, float16) {
    using S = TestType;
    using T = Compute<S>;
    static constexpr LayerShape shape{13, 29};
    const auto check = [](auto& layer) {
        const Matrix<S> w = numbers<S>(shape.out, shape.in, 5);
        layer.write_stored(0, w);
        const Matrix<T> rows = numbers<T>(4, shape.in, 6);
        layer.write_rows(7, rows);
        Matrix<T> all(shape.out, shape.in);
        layer.read_rows(0, all);
        Matrix<S> stored(shape.out, shape.in);
        layer.read_stored(0, stored);
        bool right = true;
        for (std::size_t o = 0; o < shape.out; ++o) {
            for (std::size_t i = 0; i < shape.in; ++i) {
                const S expected = o >= 7 && o < 11 ? peft::round_to<S>(rows(o - 7, i)) : w(o, i);
                right = right && stored(o, i) == expected && layer.weight()(o, i) == expected && all(o, i) == static_cast<T>(peft::widen(expected));
            }
        }
        CHECK(right);
        Matrix<T> narrow(2, shape.in - 1), fitting(2, shape.in);
        CHECK_THROWS_AS(layer.read_rows(0, narrow), peft::ShapeError);
        CHECK_THROWS_AS(layer.read_rows(shape.out - 1, fitting), peft::ShapeError);
        CHECK_THROWS_AS(layer.write_rows(static_cast<std::size_t>(-1), fitting), peft::ShapeError);
        CHECK_NOTHROW(layer.write_rows(shape.out - 2, fitting));
        Matrix<T> x(3, shape.in), y(3, shape.out), wrong(2, shape.out);
        CHECK_THROWS_WITH(layer.forward(narrow, y), Catch::Matchers::ContainsSubstring("x") && Catch::Matchers::ContainsSubstring("in = 13"));
        CHECK_THROWS_AS(layer.forward(x, wrong), peft::ShapeError);
        CHECK_THROWS_AS(layer.backward_input(wrong, x), peft::ShapeError);
        CHECK_THROWS_AS(layer.backward_input(x, x), peft::ShapeError);
    };
    DenseLinear<T, S> dense(shape);
    check(dense);
    TransposedLinear<T, S> transposed(shape);
    CHECK(transposed.stored().rows() == shape.in);
    check(transposed);
    Matrix<S> memory(shape.out, shape.in), turned(shape.in, shape.out);
    DenseLinearView<T, S> view(memory);
    check(view);
    DenseLinearView<T, S> columns(StridedView<S>(turned.data(), shape.out, shape.in, 1, shape.out));
    check(columns);
    CHECK(turned(4, 9) == columns.weight()(9, 4));
}

TEST_CASE("linear: constructors check the bias and the layout") {
    CHECK_THROWS_AS((DenseLinear<float>(Matrix<float>(3, 4), Matrix<float>(1, 4))), peft::ShapeError);
    CHECK_THROWS_AS((DenseLinear<float>(Matrix<float>(3, 4), Matrix<float>(3, 1))), peft::ShapeError);
    CHECK_THROWS_AS((TransposedLinear<float>(Matrix<float>(3, 4), Matrix<float>(1, 3))), peft::ShapeError);
    Matrix<float> memory(3, 4);
    std::vector<float> bias(4);
    CHECK_THROWS_AS((DenseLinearView<float>(memory, std::span<float>(bias))), peft::ShapeError);
    StridedView<float> neither(memory.data(), 2, 2, 4, 2);
    CHECK_THROWS_WITH((DenseLinearView<float>(neither)), Catch::Matchers::ContainsSubstring("DenseLinearView"));
    CHECK(DenseLinear<float>(LayerShape{3, 2}).bias().size() == 2);
    CHECK(DenseLinear<float>(LayerShape{3, 2}, false).bias().empty());
    CHECK(TransposedLinear<float>(LayerShape{3, 2}).shape() == LayerShape{3, 2});

    // from numbers of the compute type: rounded once, ties to even
    Matrix<float> w(1, 2);
    w(0, 0) = 1 + 0x1p-8f;
    w(0, 1) = 1 + 0x1.8p-7f;
    const DenseLinear<float, bfloat16> rounded(w);
    CHECK(peft::widen(rounded.stored()(0, 0)) == 1);
    CHECK(peft::widen(rounded.stored()(0, 1)) == 1 + 0x1p-6f);

    DenseLinear<float> layer(LayerShape{3, 2}, false);
    layer.ensure_bias();
    layer.bias()[1] = 5;
    layer.ensure_bias();
    CHECK(layer.bias()[1] == 5);
    layer.drop_bias();
    CHECK(layer.bias().empty());
}
