#include "contract/contract.hpp"

#include <peft/adapters/low_rank/olora.hpp>
#include <peft/adapters/low_rank/pissa.hpp>
#include <peft/layers/chain.hpp>
#include <peft/linear/dense_view.hpp>

using namespace peft_test;
using Catch::Matchers::ContainsSubstring;
using peft::OLoRA;
using peft::PiSSA;

namespace {

const auto formula = [](const Tensors& t, const auto& options, Dense& dense) {
    const Real rank = static_cast<Real>(options.rank);
    const Real s = static_cast<Real>(options.alpha) / (options.rank_stabilized ? std::sqrt(rank) : rank);
    dense.add_product(s, t["lora_B"], t["lora_A"]);
    dense.add_product(-s, t["start_B"], t["start_A"]);
};
const auto count = [](LayerShape shape, const auto& options, bool) { return options.rank * (shape.in + shape.out); };
constexpr Exceptions exceptions{.starts_random = false, .exact_start = false};

template <class T> double norm(const Matrix<T>& m) {
    double sum = 0;
    for (std::size_t i = 0; i < m.size(); ++i) sum += static_cast<double>(m.data()[i]) * static_cast<double>(m.data()[i]);
    return std::sqrt(sum);
}
template <class T> Matrix<T> product(MatrixView<const T> b, MatrixView<const T> a, T s) {
    Matrix<T> result(b.rows(), a.cols());
    for (std::size_t o = 0; o < b.rows(); ++o) {
        for (std::size_t k = 0; k < a.rows(); ++k) {
            for (std::size_t i = 0; i < a.cols(); ++i) result(o, i) += s * b(o, k) * a(k, i);
        }
    }
    return result;
}
template <class T> Matrix<T> minus(const Matrix<T>& a, const Matrix<T>& b) {
    Matrix<T> result = a;
    for (std::size_t i = 0; i < a.size(); ++i) result.data()[i] -= b.data()[i];
    return result;
}

/// A base whose weight can be read and not written.
struct ReadOnly {
    using value_type = float;
    peft::DenseLinear<float> layer;
    LayerShape shape() const { return layer.shape(); }
    std::span<const float> bias() const { return layer.bias(); }
    void forward(MatrixView<const float> x, MatrixView<float> y) const { layer.forward(x, y); }
    void backward_input(MatrixView<const float> dy, MatrixView<float> dx) const { layer.backward_input(dy, dx); }
    void read_rows(std::size_t first, MatrixView<float> rows) const { layer.read_rows(first, rows); }
};

/// Asks for a rebase and fails right after it.
struct Failing : PiSSA<float> {
    using PiSSA<float>::PiSSA;
    struct Derived {};
    void derive(const peft::BaseView<float>&, Derived&) const { throw std::bad_alloc(); }
    void adapt_output(const peft::Call<Failing>&, MatrixView<const float>, MatrixView<float>) const {}
    void backward_output(const peft::Call<Failing>&, MatrixView<const float>, MatrixView<const float>, MatrixView<float>) {}
};

}  // namespace

TEMPLATE_TEST_CASE("pissa: keeps the contract", "", float, double) {
    contract<PiSSA, TestType>({.rank = 2, .alpha = 3}, formula, count, exceptions);
}
TEMPLATE_TEST_CASE("pissa: rank-stabilised and randomized, it keeps the contract", "", float, double) {
    contract<PiSSA, TestType>({.rank = 2, .alpha = 3, .rank_stabilized = true, .iterations = 4}, formula, count, exceptions);
}
TEMPLATE_TEST_CASE("olora: keeps the contract", "", float, double) {
    contract<OLoRA, TestType>({.rank = 2, .alpha = 3, .dropout = 0.3}, formula, count, exceptions);
}

TEMPLATE_TEST_CASE("pissa: the start is the best approximation of its rank, balanced", "", float, double) {
    using T = TestType;
    constexpr LayerShape shape{21, 34};
    const Matrix<T> w = random_matrix<T>(shape.out, shape.in, 3);
    for (const bool stabilized : {false, true}) {
        peft::DenseLinear<T> base(w);
        auto layer = peft::adapt(base, PiSSA<T>(shape, {.rank = 5, .alpha = 7, .rank_stabilized = stabilized}));
        const auto f = layer.method().start_factors();
        const T s = layer.method().scale();
        const Matrix<T> rest = minus(w, product<T>(f.b, f.a, s));
        // orthogonal to what was taken, and smaller than with any rank-1 part of it left out: s^2 = sum of squares
        const double all = norm(w), left = norm(rest), taken = norm(product<T>(f.b, f.a, s));
        CHECK(std::fabs(all * all - left * left - taken * taken) <= 1e3 * static_cast<double>(std::numeric_limits<T>::epsilon()) * all * all);
        CHECK(taken > 0.5 * all);
        for (std::size_t k = 0; k < 5; ++k) {
            for (std::size_t l = 0; l < 5; ++l) {
                double aa = 0, bb = 0;
                for (std::size_t i = 0; i < shape.in; ++i) aa += static_cast<double>(f.a(k, i)) * static_cast<double>(f.a(l, i));
                for (std::size_t o = 0; o < shape.out; ++o) bb += static_cast<double>(f.b(o, k)) * static_cast<double>(f.b(o, l));
                const double bound = 200 * static_cast<double>(std::numeric_limits<T>::epsilon()) * all;
                CHECK(std::fabs(aa - bb) <= bound);
                if (k != l) CHECK(std::fabs(aa) <= bound);
            }
        }
    }
}

TEST_CASE("olora: the start is an orthonormal basis of the first columns") {
    constexpr LayerShape shape{9, 13};
    const Matrix<double> w = random_matrix<double>(shape.out, shape.in, 3);
    peft::DenseLinear<double> base(w);
    auto layer = peft::adapt(base, OLoRA<double>(shape, {.rank = 4, .alpha = 2}));
    const auto f = layer.method().start_factors();
    for (std::size_t k = 0; k < 4; ++k) {
        for (std::size_t l = 0; l < 4; ++l) {
            double dot = 0;
            for (std::size_t o = 0; o < shape.out; ++o) dot += f.b(o, k) * f.b(o, l);
            CHECK(std::fabs(dot - (k == l ? 1 : 0)) < 1e-13);
        }
        for (std::size_t o = 0; o < shape.out; ++o) {   // Q R = W in the first columns, which need no more of Q
            double value = 0;
            for (std::size_t l = 0; l < 4; ++l) value += f.b(o, l) * f.a(l, k);
            CHECK(std::fabs(value - w(o, k)) < 1e-13);
        }
    }
}

TEMPLATE_TEST_CASE("pissa: rebase takes the start out of the base and gives the bits back", "", float, double) {
    using T = TestType;
    constexpr LayerShape shape{20, 30};
    const Matrix<T> w = random_matrix<T>(shape.out, shape.in, 3), x = random_matrix<T>(6, shape.in, 4);
    peft::DenseLinear<T> base(w), plain(w);
    auto layer = peft::adapt(base, PiSSA<T>(shape, {.rank = 4, .alpha = 4, .rebase = true}));
    auto delta = peft::adapt(plain, PiSSA<T>(shape, {.rank = 4, .alpha = 4}));
    CHECK(layer.rebased());
    CHECK_FALSE(delta.rebased());
    CHECK_FALSE(same_bytes(base.stored(), w));
    CHECK(norm(base.stored()) < 0.95 * norm(w));
    disturb(layer, 7);
    disturb(delta, 7);
    const auto close = [&](const Matrix<T>& a, const Matrix<T>& b) { return norm(minus(a, b)) <= 100 * static_cast<double>(std::numeric_limits<T>::epsilon()) * norm(b); };
    const auto y = delta.forward(x);
    CHECK(close(layer.forward(x), y));

    const Matrix<T> residual = base.stored();
    layer.merge();
    delta.merge();
    CHECK(close(base.stored(), plain.stored()));
    CHECK_THROWS_WITH(layer.restore_base(), ContainsSubstring("unmerge it first"));
    layer.unmerge();
    CHECK(same_bytes(base.stored(), residual));

    SECTION("a base that was written to is left alone") {
        base.stored()(1, 1) += 1;
        CHECK_THROWS_AS(layer.restore_base(), peft::StateError);
        CHECK(layer.rebased());
        base.stored()(1, 1) = residual(1, 1);
    }
    layer.restore_base();
    CHECK(same_bytes(base.stored(), w));
    CHECK_FALSE(layer.rebased());
    CHECK(close(layer.forward(x), y));
    layer.merge();
    CHECK(close(base.stored(), plain.stored()));
    layer.unmerge();
    CHECK(same_bytes(base.stored(), w));
    CHECK_THROWS_AS(layer.restore_base(), peft::StateError);
}

TEST_CASE("pissa: a base of others is not rebased") {
    constexpr LayerShape shape{6, 8};
    const Matrix<float> w = random_matrix<float>(shape.out, shape.in, 3);
    peft::DenseLinear<float> base(w);
    const PiSSA<float> method(shape, {.rank = 2, .rebase = true});
    {
        auto other = peft::adapt(base, PiSSA<float>(shape, {.rank = 2}));
        CHECK_THROWS_WITH(peft::adapt(base, method), ContainsSubstring("another layer uses this base"));
        auto moved = std::move(other);
        CHECK_THROWS_AS(peft::adapt(base, method), peft::StateError);
    }
    CHECK(same_bytes(base.stored(), w));
    CHECK_NOTHROW(peft::adapt(base, method).restore_base());
    CHECK(same_bytes(base.stored(), w));

    auto shared = std::make_shared<peft::DenseLinear<float>>(w);
    auto first = peft::adapt(shared, PiSSA<float>(shape, {.rank = 2}));
    CHECK_THROWS_AS(peft::adapt(shared, method), peft::StateError);
    CHECK_THROWS_WITH(peft::adapt(ReadOnly{base}, method), ContainsSubstring("cannot be written"));
    CHECK_NOTHROW(peft::adapt(ReadOnly{base}, PiSSA<float>(shape, {.rank = 2})));
    std::vector<peft::AnyAdapter<float>> parts{method};
    CHECK_THROWS_WITH(peft::Chain<float>(parts), ContainsSubstring("share the base"));
}

TEST_CASE("pissa: a view of a weight is not rebased under another layer on it or on a copy of it") {
    constexpr LayerShape shape{6, 8};
    const Matrix<float> w = random_matrix<float>(shape.out, shape.in, 3);
    Matrix<float> memory = w;
    peft::DenseLinearView<float> base(memory);
    const PiSSA<float> method(shape, {.rank = 2, .rebase = true});
    {
        auto layer = peft::adapt(base, PiSSA<float>(shape, {.rank = 2}));
        CHECK_THROWS_WITH(peft::adapt(base, method), ContainsSubstring("another layer uses this base"));
        CHECK_THROWS_WITH(peft::adapt(peft::DenseLinearView<float>(base), method), ContainsSubstring("another layer uses this base"));
        CHECK(same_bytes(memory, w));
    }
    auto alone = peft::adapt(base, method);
    CHECK_FALSE(same_bytes(memory, w));
    alone.restore_base();
    CHECK(same_bytes(memory, w));
}

TEST_CASE("pissa: an assigned method does not bring the rebase of its old layer along") {
    constexpr LayerShape shape{6, 8};
    const Matrix<float> w = random_matrix<float>(shape.out, shape.in, 3), x = random_matrix<float>(4, shape.in, 4);
    const auto check = [&](auto rebasing, auto plain) {
        peft::DenseLinear<float> one(w), two(w);
        auto rebased = peft::adapt(one, rebasing);
        auto delta = peft::adapt(two, plain);
        const auto y = delta.forward(x);
        const auto kept = delta.method();
        delta.method() = rebased.method();
        rebased.method() = kept;
        for (auto* layer : {&rebased, &delta}) {
            CHECK_THROWS_AS(layer->forward(x), peft::StateError);
            layer->prepare();
            CHECK(norm(minus(layer->forward(x), y)) < 1e-5 * norm(y));
        }
    };
    const PiSSA<float> rebasing(shape, {.rank = 2, .rebase = true}), plain(shape, {.rank = 2});
    check(rebasing, plain);
    check(peft::AnyAdapter<float>(rebasing), peft::AnyAdapter<float>(plain));
}

TEST_CASE("pissa: what fails after the rebase gives the base back") {
    constexpr LayerShape shape{6, 8};
    const Matrix<float> w = random_matrix<float>(shape.out, shape.in, 3);
    peft::DenseLinear<float> base(w);
    CHECK_THROWS_AS(peft::adapt(base, Failing(shape, {.rank = 2, .rebase = true})), std::bad_alloc);
    CHECK(same_bytes(base.stored(), w));
    CHECK(base.merge_token() == 0);
}

TEMPLATE_TEST_CASE("pissa: as a plain LoRA of twice the rank it is the same map of the original base", "", float, double) {
    using T = TestType;
    constexpr LayerShape shape{12, 9};
    for (const bool stabilized : {false, true}) {
        peft::DenseLinear<T> base(random_matrix<T>(shape.out, shape.in, 3));
        auto layer = peft::adapt(base, PiSSA<T>(shape, {.rank = 3, .alpha = 5, .rank_stabilized = stabilized}));
        disturb(layer, 8);
        const auto converted = layer.method().to_lora();
        CHECK(converted.options().rank == 6);
        CHECK(std::fabs(static_cast<double>(converted.scale()) - static_cast<double>(layer.method().scale())) <= 2 * static_cast<double>(std::numeric_limits<T>::epsilon()) * 5);
        peft::DenseLinear<T> other = base;
        auto lora = peft::adapt(other, converted);
        const Matrix<T> x = random_matrix<T>(5, shape.in, 1);
        const auto y = layer.forward(x), z = lora.forward(x);
        CHECK(norm(minus(y, z)) <= 50 * static_cast<double>(std::numeric_limits<T>::epsilon()) * norm(y));
    }
}

TEST_CASE("pissa: zero, rank-deficient and small weights give no NaN") {
    for (const double scale : {0.0, 1e-30, 1.0}) {
        Matrix<float> w(6, 5);
        for (std::size_t i = 0; i < w.rows(); ++i) {
            for (std::size_t j = 0; j < w.cols(); ++j) w(i, j) = static_cast<float>(scale * static_cast<double>(i) * static_cast<double>(j + 1));   // rank 1
        }
        peft::DenseLinear<float> base(w);
        for (const std::size_t rank : {3u, 9u}) {   // more than there are singular values: the rest is zero
            auto layer = peft::adapt(base, PiSSA<float>({5, 6}, {.rank = rank, .rebase = true}));
            for (std::size_t i = 0; i < w.size(); ++i) CHECK(std::fabs(static_cast<double>(base.stored().data()[i])) <= 1e-4 * scale);
            const auto y = layer.forward(random_matrix<float>(2, 5, 1));
            CHECK(std::all_of(y.data(), y.data() + y.size(), [](float v) { return std::isfinite(v); }));
            layer.restore_base();
            CHECK(same_bytes(base.stored(), w));
        }
    }
    Matrix<float> w(3, 3);
    w(1, 2) = std::numeric_limits<float>::quiet_NaN();
    peft::DenseLinear<float> bad(w);
    CHECK_THROWS_AS(peft::adapt(bad, PiSSA<float>({3, 3}, {.rank = 1})), peft::NumericError);
    CHECK_THROWS_WITH(PiSSA<float>({3, 3}, {.rank = 1, .alpha = 0}), ContainsSubstring("pissa: alpha"));
    CHECK_THROWS_WITH(OLoRA<float>({3, 3}, {.rank = 1, .alpha = -1}), ContainsSubstring("olora: alpha"));
    for (const double alpha : {1e-60, 1e-44}) {   // 0 and a subnormal number in float: nothing can be divided by them
        CHECK_THROWS_WITH(PiSSA<float>({3, 3}, {.rank = 1, .alpha = alpha}), ContainsSubstring("pissa: alpha"));
        CHECK_NOTHROW(PiSSA<double>({3, 3}, {.rank = 1, .alpha = alpha}));
    }
}
