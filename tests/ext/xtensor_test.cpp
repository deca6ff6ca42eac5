#include "contract/contract.hpp"

#include <peft/adapters/low_rank/lora.hpp>
#include <peft/ext/xtensor.hpp>
#include <peft/linear/dense_view.hpp>

namespace {

using namespace peft_test;

template <class X, class T> X xtensor(const Matrix<T>& values) {
    X result = X::from_shape({values.rows(), values.cols()});
    for (std::size_t i = 0; i < values.rows(); ++i) {
        for (std::size_t j = 0; j < values.cols(); ++j) result(i, j) = values(i, j);
    }
    return result;
}
template <class X, class T> bool same(const X& a, const Matrix<T>& b) {
    for (std::size_t i = 0; i < b.rows(); ++i) {
        for (std::size_t j = 0; j < b.cols(); ++j) {
            if (a(i, j) != b(i, j)) return false;
        }
    }
    return a.shape(0) == b.rows() && a.shape(1) == b.cols();
}

}  // namespace

TEST_CASE("xtensor: inputs, outputs and weights of either storage order, fixed and free dimension", "") {
    const auto check = []<class X>(std::type_identity<X>, std::size_t n) {
        const auto weight = random_matrix<float>(9, 13, 1);
        X w = xtensor<X>(weight);
        peft::DenseLinearView<float> view(w);
        peft::DenseLinear<float> ours(weight);
        auto a = peft::adapt(ours, peft::LoRA<float>(ours.shape(), {.rank = 2}), 3);
        auto b = peft::adapt(view, peft::LoRA<float>(ours.shape(), {.rank = 2}), 3);
        disturb(a, 1);
        disturb(b, 1);
        const auto x = random_matrix<float>(n, 13, 2), dy = random_matrix<float>(n, 9, 3);
        Matrix<float> y(n, 9), dx(n, 13);
        auto tape = a.make_tape();
        a.forward(x, y, tape);
        a.backward(dy, dx, tape);
        const X xx = xtensor<X>(x), xdy = xtensor<X>(dy);
        X xy = X::from_shape({n, std::size_t{9}}), xdx = X::from_shape({n, std::size_t{13}});
        a.forward(xx, xy);
        CHECK(same(xy, a.forward(x)));
        a.forward(xx, xy, tape);
        a.backward(xdy, xdx, tape);
        CHECK(same(xy, y));
        CHECK(same(xdx, dx));
        b.forward(xx, xy);
        for (std::size_t i = 0; i < n; ++i) {
            for (std::size_t j = 0; j < 9; ++j) CHECK(std::abs(xy(i, j) - y(i, j)) <= 100 * std::numeric_limits<float>::epsilon());
        }
        const X before = w;
        b.merge();
        const bool changed = w != before;
        CHECK(changed);
        b.unmerge();
        const bool restored = w == before;
        CHECK(restored);
    };
    for (const std::size_t n : {std::size_t{1}, std::size_t{70}}) {
        check(std::type_identity<xt::xtensor<float, 2, xt::layout_type::row_major>>{}, n);
        check(std::type_identity<xt::xtensor<float, 2, xt::layout_type::column_major>>{}, n);
        check(std::type_identity<xt::xarray<float, xt::layout_type::row_major>>{}, n);
        check(std::type_identity<xt::xarray<float, xt::layout_type::column_major>>{}, n);
    }
}

TEST_CASE("xtensor: an array that is no matrix is a ShapeError", "") {
    peft::DenseLinear<float> fc(random_matrix<float>(9, 13, 1));
    auto layer = peft::adapt(fc, peft::LoRA<float>(fc.shape()));
    const xt::xarray<float> cube = xt::xarray<float>::from_shape({2, 13, 1});
    CHECK_THROWS_AS(layer.forward(cube), peft::ShapeError);
}
