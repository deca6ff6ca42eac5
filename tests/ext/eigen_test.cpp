#include "contract/contract.hpp"

#include <peft/adapters/low_rank/dora.hpp>
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/ext/eigen.hpp>
#include <peft/linear/dense_view.hpp>

#include <Eigen/Core>

namespace {

using namespace peft_test;
template <class T> using ColumnMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;
template <class T> using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class E, class T> E eigen(const Matrix<T>& values) {
    E result(static_cast<Eigen::Index>(values.rows()), static_cast<Eigen::Index>(values.cols()));
    for (std::size_t i = 0; i < values.rows(); ++i) {
        for (std::size_t j = 0; j < values.cols(); ++j) result(static_cast<Eigen::Index>(i), static_cast<Eigen::Index>(j)) = values(i, j);
    }
    return result;
}
template <class E, class T> bool same(const E& a, const Matrix<T>& b) { return a == eigen<E>(b); }

}  // namespace

TEMPLATE_TEST_CASE("eigen: a layer over memory of either storage order computes what one over our own does", "", float, double) {
    const auto weight = random_matrix<TestType>(9, 13, 1);
    auto column_major = eigen<ColumnMajor<TestType>>(weight);
    auto row_major = eigen<RowMajor<TestType>>(weight);
    peft::DenseLinear<TestType> ours(weight);
    peft::DenseLinearView<TestType> columns(column_major), rows(row_major);
    CHECK(columns.weight().transposed);
    CHECK_FALSE(rows.weight().transposed);
    auto a = peft::adapt(ours, peft::DoRA<TestType>(ours.shape(), {.rank = 2}));
    auto b = peft::adapt(columns, peft::DoRA<TestType>(ours.shape(), {.rank = 2}));
    auto c = peft::adapt(rows, peft::DoRA<TestType>(ours.shape(), {.rank = 2}));
    disturb(a, 1);
    disturb(b, 1);
    disturb(c, 1);
    const auto x = random_matrix<TestType>(70, 13, 2);
    const auto expected = a.forward(x);
    const auto close = [&](const Matrix<TestType>& y) {
        for (std::size_t i = 0; i < y.size(); ++i) {
            // sums of 13 + 2 products below 2, in another order
            if (!(std::abs(y.data()[i] - expected.data()[i]) <= 100 * std::numeric_limits<TestType>::epsilon())) return false;
        }
        return true;
    };
    CHECK(close(b.forward(x)));
    CHECK(same_bytes(c.forward(x), expected));
    const ColumnMajor<TestType> before = column_major;
    b.merge();
    CHECK_FALSE(column_major == before);
    CHECK(close(b.forward(x)));
    b.unmerge();
    CHECK(column_major == before);
}

TEMPLATE_TEST_CASE("eigen: inputs, outputs and gradients of either storage order, maps, blocks and refs", "", float, double) {
    peft::DenseLinear<TestType> fc(random_matrix<TestType>(9, 13, 1), random_matrix<TestType>(1, 9, 2));
    auto layer = peft::adapt(fc, peft::LoRA<TestType>(fc.shape(), {.rank = 2}));
    disturb(layer, 3);
    const auto x = random_matrix<TestType>(150, 13, 4), dy = random_matrix<TestType>(150, 9, 5);
    auto tape = layer.make_tape();
    Matrix<TestType> y(150, 9), dx(150, 13);
    layer.forward(x, y, tape);
    layer.backward(dy, dx, tape);
    const Matrix<TestType> grad(std::as_const(layer.parameters().front().state->grad).view());

    const auto check = [&]<class E>(const E& ex, const E& edy) {
        E ey(150, 9), edx(150, 13);
        layer.forward(ex, ey);
        CHECK(same(ey, layer.forward(x)));
        const auto fresh = layer.parameters();
        for (const auto& parameter : fresh) std::fill(parameter.grad().begin(), parameter.grad().end(), TestType(0));
        layer.forward(ex, ey, tape);
        layer.backward(edy, edx, tape);
        CHECK(same(ey, y));
        CHECK(same(edx, dx));
        CHECK(same_bytes(std::as_const(fresh.front().state->grad), grad));
    };
    check(eigen<ColumnMajor<TestType>>(x), eigen<ColumnMajor<TestType>>(dy));
    check(eigen<RowMajor<TestType>>(x), eigen<RowMajor<TestType>>(dy));

    const auto ex = eigen<ColumnMajor<TestType>>(x);
    ColumnMajor<TestType> large = ColumnMajor<TestType>::Zero(200, 20);
    large.block(10, 3, 150, 13) = ex;
    ColumnMajor<TestType> out = ColumnMajor<TestType>::Constant(160, 12, 7);
    layer.forward(large.block(10, 3, 150, 13), out.block(4, 2, 150, 9));
    CHECK(same(ColumnMajor<TestType>(out.block(4, 2, 150, 9)), y));
    CHECK((out.topRows(4).array() == 7).all());
    CHECK((out.rightCols(1).array() == 7).all());
    const Eigen::Map<const RowMajor<TestType>> map(x.data(), 150, 13);
    RowMajor<TestType> mapped(150, 9);
    layer.forward(map, mapped);
    CHECK(same(mapped, y));
    const Eigen::Ref<const ColumnMajor<TestType>> ref(ex);
    ColumnMajor<TestType> referred(150, 9);
    layer.forward(ref, referred);
    CHECK(same(referred, y));
}

TEST_CASE("eigen: column-major inference needs no copy of the batch", "") {
    peft::DenseLinear<float> fc(random_matrix<float>(16, 64, 1));
    auto layer = peft::adapt(fc, peft::LoRA<float>(fc.shape(), {.rank = 2}));
    const auto x = eigen<ColumnMajor<float>>(random_matrix<float>(4096, 64, 4));
    ColumnMajor<float> y(4096, 16);
    layer.forward(x, y);
    // 64 rows of x and y at a time, and what the products pack: far below the megabyte that x has
    CHECK(peft::thread_arena().capacity() + peft::thread_keep_arena().capacity() < 512 * 1024);
}
