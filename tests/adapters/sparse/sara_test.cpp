#include "contract/contract.hpp"

#include <peft/adapters/sparse/sara.hpp>
#include <peft/kernels/matmul.hpp>
#include <peft/layers/any_adapter.hpp>

using namespace peft_test;
using peft::SaRA;

namespace {

const auto sara_formula = [](const Tensors& t, const auto&, Dense& dense) {
    const auto& values = t["sara_values"];
    for (std::size_t k = 0; k < values.size(); ++k) {
        const auto index = static_cast<std::size_t>(t["sara_indices"](0, k));
        dense.add(index / dense.in(), index % dense.in(), values(0, k));
    }
    dense.roundings += 2;
};
/// Of the base that the contract counts with.
const auto sara_count = [](LayerShape shape, const auto& options, bool) {
    const auto size = static_cast<double>(shape.in * shape.out);
    if (options.share > 0) return static_cast<std::size_t>(std::round(options.share * size));
    const auto w = random_matrix<double>(shape.out, shape.in, 100);
    return static_cast<std::size_t>(std::count_if(w.flat().begin(), w.flat().end(), [&](double v) { return std::fabs(v) < options.threshold; }));
};
constexpr Exceptions from_the_base{.starts_random = false};

/// A base with zeros of both signs among its weights.
template <class T> peft::DenseLinear<T> signed_base(LayerShape shape) {
    Matrix<T> w = random_matrix<T>(shape.out, shape.in, 1);
    for (std::size_t i = 0; i < w.size(); i += 5) w.data()[i] = T(-0.0);
    return peft::DenseLinear<T>(std::move(w));
}

/// The bits of W outside the mask and inside, apart.
template <class T> std::pair<std::vector<T>, std::vector<T>> parted(const Matrix<T>& w, std::span<const std::int32_t> mask) {
    std::pair<std::vector<T>, std::vector<T>> result;
    std::size_t k = 0;
    for (std::size_t i = 0; i < w.size(); ++i) {
        const bool inside = k < mask.size() && static_cast<std::size_t>(mask[k]) == i;
        k += inside ? 1 : 0;
        (inside ? result.second : result.first).push_back(w.data()[i]);
    }
    return result;
}

template <class T> Matrix<T> base_output(const peft::DenseLinear<T>& base, const Matrix<T>& x) {
    Matrix<T> y(x.rows(), base.shape().out);
    base.forward(x, y);
    return y;
}

}  // namespace

TEMPLATE_TEST_CASE("sara: keeps the contract with a threshold", "", float, double) {
    contract<SaRA, TestType>({.threshold = 0.25}, sara_formula, sara_count, from_the_base);
}
TEMPLATE_TEST_CASE("sara: keeps the contract with a share", "", float, double) {
    contract<SaRA, TestType>({.share = 0.3}, sara_formula, sara_count, from_the_base);
}
TEMPLATE_TEST_CASE("sara: keeps the contract with every weight selected", "", float, double) {
    contract<SaRA, TestType>({.share = 1}, sara_formula, sara_count, from_the_base);
}

TEMPLATE_TEST_CASE("sara: the gradient is the dense one at the positions, and weights outside them keep their bits", "", float, double) {
    using T = TestType;
    constexpr LayerShape shape{40, 30};
    auto base = signed_base<T>(shape);
    const Matrix<T> before = base.stored();
    auto layer = peft::adapt(base, SaRA<T>(shape, {.threshold = 0.3}));
    const std::size_t count = layer.method().selection().selected;
    REQUIRE(count > 100);
    REQUIRE(count < 900);
    const Matrix<T> x = random_matrix<T>(21, shape.in, 2), dy = random_matrix<T>(21, shape.out, 3);
    Matrix<T> y(21, shape.out), dx(21, shape.in), dense(shape.out, shape.in), size(shape.out, shape.in);
    auto tape = layer.make_tape();
    layer.forward(x, y, tape);
    layer.backward(dy, dx, tape);
    peft::multiply_tn<T>(dy, x, dense);
    for (std::size_t t = 0; t < 21; ++t)
        for (std::size_t i = 0; i < dense.size(); ++i) size.data()[i] += std::fabs(dy(t, i / shape.in) * x(t, i % shape.in));
    const auto gradient = layer.parameters()[0].grad();
    std::size_t wrong = 0;
    for (std::size_t k = 0; k < count; ++k) {
        const auto at = static_cast<std::size_t>(layer.method().positions()[k]);
        const Real bound = 2 * gamma<T>(21) * static_cast<Real>(size.data()[at]);
        wrong += std::fabs(static_cast<Real>(gradient[k]) - static_cast<Real>(dense.data()[at])) <= bound ? 0 : 1;
    }
    CHECK(wrong == 0);

    const auto parameter = layer.parameters()[0];
    for (std::size_t k = 0; k < count; ++k) parameter.value()[k] -= gradient[k];
    parameter.touch();
    layer.prepare();
    layer.merge();
    const auto old_parts = parted<T>(before, layer.method().positions());
    const auto new_parts = parted<T>(base.stored(), layer.method().positions());
    CHECK(same_bytes<T>(std::span<const T>(old_parts.first), std::span<const T>(new_parts.first)));
    CHECK_FALSE(same_bytes<T>(std::span<const T>(old_parts.second), std::span<const T>(new_parts.second)));
    layer.unmerge();
    CHECK(same_bytes(base.stored(), before));
}

TEST_CASE("sara: a layer with nothing selected is legal and changes nothing; a model without any selection is refused") {
    using Catch::Matchers::ContainsSubstring;
    constexpr LayerShape shape{9, 6};
    peft::DenseLinear<float> base(random_matrix<float>(shape.out, shape.in, 4));
    const Matrix<float> before = base.stored();
    auto none = peft::adapt(base, SaRA<float>(shape, {.threshold = 1e-9}));
    auto some = peft::adapt(base, SaRA<float>(shape, {.threshold = 0.5}));
    auto all = peft::adapt(base, SaRA<float>(shape, {.share = 1}));
    CHECK(none.method().selection().selected == 0);
    CHECK(all.method().selection().selected == 54);
    const Matrix<float> x = random_matrix<float>(5, shape.in, 5);
    Matrix<float> y(5, shape.out), dx(5, shape.in), dx_base(5, shape.in);
    auto tape = none.make_tape();
    none.forward(x, y, tape);
    CHECK(same_bytes(y, base_output(base, x)));
    none.backward(y, dx, tape);
    base.backward_input(y, dx_base);
    CHECK(same_bytes(dx, dx_base));
    none.merge();
    CHECK(same_bytes(base.stored(), before));
    none.unmerge();

    const peft::SelectionReport report = peft::expect_selection(none, some, all);
    CHECK(report.total == 3 * 54);
    CHECK(report.selected == 54 + some.method().selection().selected);
    float smallest = 1;
    for (const float w : before.flat()) smallest = std::min(smallest, std::fabs(w));
    CHECK(report.smallest == static_cast<double>(smallest));
    CHECK_THROWS_AS(peft::expect_selection(none, none), peft::OptionError);
    CHECK_THROWS_WITH(peft::expect_selection(none), ContainsSubstring("1e-09") && ContainsSubstring(peft::detail::to_text(smallest)));
}

TEST_CASE("sara: options out of range and layers too large are refused by name") {
    using Catch::Matchers::ContainsSubstring;
    constexpr LayerShape shape{3, 4};
    const double nan = std::numeric_limits<double>::quiet_NaN();
    for (const double theta : {0.0, -1.0, nan, std::numeric_limits<double>::infinity()}) CHECK_THROWS_WITH(SaRA<float>(shape, {.threshold = theta}), ContainsSubstring("sara: threshold"));
    for (const double share : {-0.1, 1.1, nan}) CHECK_THROWS_WITH(SaRA<float>(shape, {.share = share}), ContainsSubstring("sara: share"));
    CHECK_THROWS_AS(SaRA<float>(LayerShape{std::size_t{1} << 16, std::size_t{1} << 15}), peft::ShapeError);
    CHECK_THROWS_AS(SaRA<float>(LayerShape{std::size_t{1} << 40, std::size_t{1} << 40}), peft::ShapeError);
    CHECK_NOTHROW(SaRA<float>(LayerShape{(std::size_t{1} << 31) - 1, 1}));
}

TEST_CASE("sara: positions that were assigned are kept, and those that do not fit are refused before use") {
    constexpr LayerShape shape{5, 4};
    peft::DenseLinear<double> base(random_matrix<double>(shape.out, shape.in, 1));
    const auto with = [&](std::initializer_list<std::int32_t> positions) {
        SaRA<double> method(shape);
        method.resize(positions.size());
        SaRA<double>::each_tensor(method, [&]<class P>(std::string_view, P& tensor, peft::Role, peft::TensorShape) {
            if constexpr (std::is_same_v<typename P::value_type, std::int32_t>) {
                std::copy(positions.begin(), positions.end(), tensor.value().data());
                tensor.touch();
            }
        });
        return method;
    };
    auto layer = peft::adapt(base, with({0, 7, 19}));
    CHECK(layer.method().selection().selected == 3);
    CHECK(layer.method().positions()[1] == 7);
    for (const auto& wrong : {with({0, 7, 7}), with({3, 2}), with({20}), with({-1, 4})}) CHECK_THROWS_AS(peft::adapt(base, wrong), peft::StateError);

    layer.method().values().value()(0, 1) = 2;
    layer.method().values().touch();
    const Matrix<double> x = random_matrix<double>(2, shape.in, 2);
    CHECK_THROWS_AS(layer.forward(x), peft::StateError);
    layer.prepare();
    const Matrix<double> y = layer.forward(x), y_base = base_output(base, x);
    CHECK(y(0, 1) == y_base(0, 1) + 2 * x(0, 2));
    CHECK(y(1, 0) == y_base(1, 0));
}

TEMPLATE_TEST_CASE("sara: in place, the base is trained itself and gets its bits back", "", float, peft::bfloat16) {
    using S = TestType;
    constexpr LayerShape shape{40, 30};
    const peft::DenseLinear<float, S> original(random_matrix<float>(shape.out, shape.in, 1), random_matrix<float>(1, shape.out, 2));
    peft::DenseLinear<float, S> base = original, beside = original;
    const auto same = [](const auto& a, const auto& b) { return std::memcmp(a.stored().data(), b.stored().data(), a.stored().size() * sizeof(S)) == 0; };
    auto layer = peft::adapt(base, SaRA<float>(shape, {.share = 0.2, .in_place = true}));
    auto delta = peft::adapt(beside, SaRA<float>(shape, {.share = 0.2}));
    CHECK(layer.rebased());
    CHECK(same(base, original));
    const auto x = random_matrix<float>(6, shape.in, 3), dy = random_matrix<float>(6, shape.out, 4);
    // 2^-8 of the weights for bf16, whose sums are rounded; the rest is the rounding of the products
    const float unit = std::is_same_v<S, float> ? 0x1p-23f : 0x1p-8f;
    const float tolerance = 2 * unit * static_cast<float>(shape.in);
    const auto close = [&](const Matrix<float>& a, const Matrix<float>& b) {
        bool all = true;
        for (std::size_t i = 0; i < a.size(); ++i) all = all && std::fabs(a.data()[i] - b.data()[i]) <= tolerance;
        return all;
    };
    auto tape = layer.make_tape(), delta_tape = delta.make_tape();
    Matrix<float> y(6, shape.out), z(6, shape.out), dx(6, shape.in), dz(6, shape.in);
    for (std::uint64_t step = 0; step < 3; ++step) {
        layer.forward(x, y, tape);
        delta.forward(x, z, delta_tape);
        CHECK(close(y, z));
        layer.backward(dy, dx, tape);
        delta.backward(dy, dz, delta_tape);
        CHECK(close(dx, dz));
        CHECK(same_bytes<float>(layer.parameters()[0].grad(), delta.parameters()[0].grad()));
        disturb(layer, 7 + step);
        disturb(delta, 7 + step);
    }
    CHECK_FALSE(same(base, original));
    std::size_t changed = 0;
    for (std::size_t i = 0; i < base.stored().size(); ++i) changed += std::memcmp(base.stored().data() + i, original.stored().data() + i, sizeof(S)) != 0 ? 1 : 0;
    CHECK(changed <= layer.method().selection().selected);
    CHECK(changed > layer.method().selection().selected / 2);
    CHECK(close(layer.forward(x), delta.forward(x)));

    // merging has nothing left to add
    const auto trained = base;
    layer.merge();
    CHECK(same(base, trained));
    CHECK_THROWS_AS(layer.restore_base(), peft::StateError);
    layer.unmerge();
    layer.restore_base();
    CHECK(same(base, original));
    CHECK_FALSE(layer.rebased());
    CHECK(same_bytes(layer.forward(x), delta.forward(x)));
    layer.merge();
    CHECK_FALSE(same(base, original));
    layer.unmerge();
    CHECK(same(base, original));
}

TEST_CASE("sara: in place behind any adapter, and only on a base of its own") {
    constexpr LayerShape shape{9, 7};
    const peft::DenseLinear<float> original(random_matrix<float>(shape.out, shape.in, 1));
    peft::DenseLinear<float> base = original;
    const SaRA<float> method(shape, {.share = 0.5, .in_place = true});
    {
        auto layer = peft::adapt(base, peft::AnyAdapter<float>(method));
        CHECK_THROWS_WITH(peft::adapt(base, method), Catch::Matchers::ContainsSubstring("another layer uses this base"));
        disturb(layer, 3);
        CHECK_FALSE(same_bytes(base.stored(), original.stored()));
        // a copy of the method starts beside another base, or in it, with that base's numbers
        peft::DenseLinear<float> other(random_matrix<float>(shape.out, shape.in, 2));
        const Matrix<float> before = other.stored();
        auto copy = peft::adapt(other, layer.method());
        CHECK_FALSE(same_bytes(other.stored(), before));
        copy.restore_base();
        CHECK(same_bytes(other.stored(), before));
        layer.restore_base();
    }
    CHECK(same_bytes(base.stored(), original.stored()));
}

TEST_CASE("sara: a method that is assigned to a layer brings its own positions") {
    const LayerShape shape{9, 7};
    peft::DenseLinear<float> first(random_matrix<float>(shape.out, shape.in, 1)), second(random_matrix<float>(shape.out, shape.in, 2));
    auto layer = peft::adapt(first, SaRA<float>(shape, {.share = 0.9}));
    auto other = peft::adapt(second, SaRA<float>(shape, {.share = 0.1}));   // as often written as the one above
    layer.method() = other.method();
    const auto x = random_matrix<float>(3, shape.in, 3);
    CHECK_THROWS_AS(layer.forward(x), peft::StateError);
    layer.prepare();
    disturb(layer, 4);
    auto expected = peft::adapt(first, SaRA<float>(layer.method()));
    CHECK(same_bytes(layer.forward(x), expected.forward(x)));
}

TEST_CASE("sara: a method that replaces one in place does not lose the original numbers") {
    constexpr LayerShape shape{9, 7};
    const peft::DenseLinear<float> original(random_matrix<float>(shape.out, shape.in, 1));
    peft::DenseLinear<float> base = original, other(random_matrix<float>(shape.out, shape.in, 2));
    auto layer = peft::adapt(base, SaRA<float>(shape, {.share = 0.5, .in_place = true}));
    auto second = peft::adapt(other, SaRA<float>(shape, {.share = 0.5, .in_place = true}));
    disturb(layer, 3);
    disturb(second, 4);
    const Matrix<float> trained = base.stored();
    layer.method() = second.method();   // positions of another weight
    CHECK_THROWS_AS(layer.prepare(), peft::StateError);
    CHECK(same_bytes(base.stored(), trained));
    layer.restore_base();
    CHECK(same_bytes(base.stored(), original.stored()));
}
