#include "contract/contract.hpp"

#include <peft/adapters/channel/ia3.hpp>
#include <peft/adapters/channel/ssf.hpp>
#include <peft/adapters/low_rank/dora.hpp>
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/core/threads.hpp>
#include <peft/layers/adapted.hpp>
#include <peft/linear/dense_view.hpp>

#include <memory>
#include <thread>

using namespace peft_test;
using peft::bfloat16;
using peft::float16;
using peft::StridedView;

namespace {

/// One base for the tests below.
template <class T> peft::DenseLinear<T> dense(LayerShape shape, std::uint64_t seed = 1, bool with_bias = true) {
    return peft::DenseLinear<T>(random_matrix<T>(shape.out, shape.in, seed), with_bias ? random_matrix<T>(1, shape.out, seed + 1) : Matrix<T>());
}
constexpr LayerShape shape{17, 33};

/// Adds s B A to the rows.
void add_low_rank(Dense& d, const peft::LoRA<double>& lora) {
    const Tensors t(lora);
    d.add_product(static_cast<Real>(lora.scale()), t["lora_B"], t["lora_A"]);
}
void scale_shift(Dense& d, const peft::SSF<double>& ssf) {
    const Tensors t(ssf);
    for (std::size_t o = 0; o < d.out(); ++o) {
        d.scale_row(o, t["ssf_scale"](0, o));
        d.scale_bias(o, t["ssf_scale"](0, o));
        d.add_bias(o, t["ssf_shift"](0, o));
    }
    d.roundings += 2;
}

}  // namespace

TEST_CASE("adapted: LoRA over SSF over a dense layer is their composition, in forward, gradients, merge and undo") {
    auto base = dense<double>(shape);
    auto inner = peft::adapt(base, peft::SSF<double>(shape));
    auto outer = peft::adapt(inner, peft::LoRA<double>(shape, {.rank = 3, .alpha = 2}));
    disturb(outer, 5);
    CHECK(outer.parameters().size() == 4);
    CHECK(outer.parameter_count().trained == 2 * shape.out + 3 * (shape.in + shape.out));
    CHECK(outer.parameter_count().frozen == shape.in * shape.out + shape.out);

    Dense expected(base);
    scale_shift(expected, inner.method());
    add_low_rank(expected, outer.method());
    const Matrix<double> x = random_matrix<double>(5, shape.in, 3);
    CHECK(worst_ratio<double>(outer.forward(x), expected, x) <= 1);
    check_gradients(outer, x, 6);

    const Matrix<double> weight = base.stored();
    const std::vector<double> bias(base.bias().begin(), base.bias().end());
    const Matrix<double> y = outer.forward(x);
    outer.merge();
    CHECK(inner.merged());
    CHECK(worst_ratio<double>(outer.forward(x), expected, x) <= 1);
    CHECK_THROWS_AS(inner.unmerge(), peft::StateError);       // the outer one lies above
    outer.unmerge();
    CHECK_FALSE(inner.merged());
    CHECK(same_bytes(base.stored(), weight));
    CHECK(std::equal(bias.begin(), bias.end(), base.bias().begin()));
    CHECK(same_bytes(outer.forward(x), y));

    // merged one by one
    inner.merge();
    CHECK(worst_ratio<double>(outer.forward(x), expected, x) <= 1);
    outer.merge();
    outer.unmerge();
    CHECK(inner.merged());                                     // it was before, so it stays
    inner.unmerge();
    CHECK(same_bytes(base.stored(), weight));
}

TEST_CASE("adapted: input and output methods nest in any order") {
    auto base = dense<double>(shape);
    auto inner = peft::adapt(base, peft::LoRA<double>(shape, {.rank = 2, .dropout = 0.25, .bias = true}));
    auto middle = peft::adapt(inner, peft::IA3<double>(shape, {.feedforward = true}));
    auto outer = peft::adapt(middle, peft::SSF<double>(shape));
    disturb(outer, 5);
    check_gradients(outer, random_matrix<double>(3, shape.in, 3), 6);
    const Matrix<double> x = random_matrix<double>(4, shape.in, 7);
    const Matrix<double> y = outer.forward(x);
    const Matrix<double> weight = base.stored();
    const auto copy = peft::merged_copy(outer);
    outer.merge();
    CHECK(same_bytes(copy.stored(), base.stored()));
    const Matrix<double> merged = outer.forward(x);
    for (std::size_t i = 0; i < y.size(); ++i) CHECK(merged.data()[i] == Approx(y.data()[i]));
    outer.unmerge();
    CHECK(same_bytes(base.stored(), weight));
}

TEMPLATE_TEST_CASE("adapted: bases of every kind give the same results from the same numbers", "", float, double) {
    using T = TestType;
    const Matrix<T> w = random_matrix<T>(shape.out, shape.in, 1);
    Matrix<T> turned(shape.in, shape.out);
    for (std::size_t o = 0; o < shape.out; ++o) {
        for (std::size_t i = 0; i < shape.in; ++i) turned(i, o) = w(o, i);
    }
    std::vector<T> padded(shape.out * (shape.in + 3), T(77));
    for (std::size_t o = 0; o < shape.out; ++o) std::copy_n(w.row(o), shape.in, padded.begin() + static_cast<std::ptrdiff_t>(o * (shape.in + 3)));
    std::vector<T> bias(shape.out);
    for (std::size_t o = 0; o < shape.out; ++o) bias[o] = static_cast<T>(0.01) * static_cast<T>(o);
    const Matrix<T> x = random_matrix<T>(5, shape.in, 3);
    const Matrix<T> g = random_matrix<T>(5, shape.out, 4);

    const auto check = [&](auto& base) {
        auto layer = peft::adapt(base, peft::DoRA<T>(shape, {.rank = 2, .alpha = 3, .detach_norm = false}), 9);
        disturb(layer, 5);
        Dense expected(base);
        const Tensors t(layer.method());
        expected.add_product(Real(3) / 2, t["lora_B"], t["lora_A"]);
        for (std::size_t o = 0; o < shape.out; ++o) {
            Real squares = 0;
            for (std::size_t i = 0; i < shape.in; ++i) squares += expected.w(o, i) * expected.w(o, i);
            expected.scale_row(o, t["lora_magnitude_vector"](0, o) / std::sqrt(squares), 8);
        }
        expected.roundings += shape.in + 12;
        CHECK(worst_ratio<T>(layer.forward(x), expected, x) <= 1);
        Matrix<T> y(5, shape.out);
        Matrix<T> dx(5, shape.in);
        auto tape = layer.make_tape();
        layer.forward(x, y, tape);
        layer.backward(g, dx, tape);
        CHECK(worst_ratio<T>(y, expected, x) <= 1);
        Matrix<T> before(shape.out, shape.in);
        base.read_rows(0, before);
        layer.merge();
        CHECK(worst_ratio<T>(layer.forward(x), expected, x) <= 1);
        layer.unmerge();
        Matrix<T> after(shape.out, shape.in);
        base.read_rows(0, after);
        CHECK(same_bytes(before, after));
        return layer.parameters()[0].state->grad;
    };
    peft::DenseLinear<T> owned(w, Matrix<T>(MatrixView<const T>(bias.data(), 1, shape.out)));
    const Matrix<T> expected = check(owned);
    const auto same = [&](const Matrix<T>& gradient) {
        T worst = 0;
        for (std::size_t i = 0; i < gradient.size(); ++i) worst = std::max(worst, std::abs(gradient.data()[i] - expected.data()[i]));
        CHECK(worst <= static_cast<T>(gamma<T>(200)) * 100);
    };
    peft::TransposedLinear<T> transposed(turned, Matrix<T>(MatrixView<const T>(bias.data(), 1, shape.out)));
    same(check(transposed));
    peft::DenseLinearView<T> rows(MatrixView<T>(padded.data(), shape.out, shape.in, shape.in + 3), std::span<T>(bias));
    same(check(rows));
    CHECK(padded[shape.in] == T(77));        // what lies between the rows is nobody's
    StridedView<T> columns_of(turned.data(), shape.out, shape.in, 1, shape.out);
    peft::DenseLinearView<T> columns(columns_of, std::span<T>(bias));
    same(check(columns));
}

TEMPLATE_TEST_CASE("adapted: half-precision weights are read exactly, merged rounding once, and restored", "", bfloat16, float16) {
    for (const bool transposed : {false, true}) {
        CAPTURE(transposed);
        const auto check = [&](auto& base) {
            auto layer = peft::adapt(base, peft::LoRA<float>(shape, {.rank = 3, .alpha = 2}));
            disturb(layer, 5);
            Dense expected(base);
            const Tensors t(layer.method());
            expected.add_product(static_cast<Real>(layer.method().scale()), t["lora_B"], t["lora_A"]);
            const Matrix<float> x = random_matrix<float>(5, shape.in, 3);
            CHECK(worst_ratio<float>(layer.forward(x), expected, x) <= 1);
            const Matrix<TestType> before = base.stored();
            layer.merge();
            std::size_t wrong = 0;
            for (std::size_t o = 0; o < shape.out; ++o) {
                for (std::size_t i = 0; i < shape.in; ++i) {
                    // the sum in float may round across a tie of the storage type: then the neighbour is right too
                    const Real unit = std::max(std::fabs(expected.w(o, i)) * (std::is_same_v<TestType, bfloat16> ? 0x1p-8L : 0x1p-11L), 0x1p-24L);
                    const Real error = std::fabs(static_cast<Real>(peft::widen(base.weight()(o, i))) - expected.w(o, i));
                    wrong += error <= unit + gamma<float>(6) * expected.w_size(o, i) ? 0 : 1;
                }
            }
            CHECK(wrong == 0);
            layer.unmerge();
            CHECK(same_bytes(base.stored(), before));
        };
        if (transposed) {
            peft::TransposedLinear<float, TestType> base(random_matrix<float>(shape.in, shape.out, 1), random_matrix<float>(1, shape.out, 2));
            check(base);
        } else {
            peft::DenseLinear<float, TestType> base(random_matrix<float>(shape.out, shape.in, 1), random_matrix<float>(1, shape.out, 2));
            check(base);
        }
    }
}

TEST_CASE("adapted: column-major and padded matrices give the results of dense ones") {
    auto base = dense<float>(shape);
    auto layer = peft::adapt(base, peft::LoRA<float>(shape, {.rank = 3}));
    disturb(layer, 5);
    for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{150}}) {
        CAPTURE(n);
        const Matrix<float> x = random_matrix<float>(n, shape.in, 3);
        const Matrix<float> g = random_matrix<float>(n, shape.out, 4);
        Matrix<float> y(n, shape.out);
        Matrix<float> dx(n, shape.in);
        auto tape = layer.make_tape();
        layer.forward(x, y, tape);
        layer.backward(g, dx, tape);
        std::vector<float> xs(n * shape.in), gs(n * shape.out), ys(n * shape.out), dxs(n * shape.in);
        const StridedView<float> xc(xs.data(), n, shape.in, 1, n), gc(gs.data(), n, shape.out, 1, n), yc(ys.data(), n, shape.out, 1, n), dxc(dxs.data(), n, shape.in, 1, n);
        for (std::size_t t = 0; t < n; ++t) {
            for (std::size_t i = 0; i < shape.in; ++i) xc(t, i) = x(t, i);
            for (std::size_t o = 0; o < shape.out; ++o) gc(t, o) = g(t, o);
        }
        auto other = layer.make_tape();
        layer.forward(xc, yc, other);
        layer.backward(gc, dxc, other);
        bool same = true;
        for (std::size_t t = 0; t < n; ++t) {
            for (std::size_t o = 0; o < shape.out; ++o) same = same && yc(t, o) == y(t, o);
            for (std::size_t i = 0; i < shape.in; ++i) same = same && dxc(t, i) == dx(t, i);
        }
        CHECK(same);
        const Matrix<float> plain = layer.forward(x);
        const Matrix<float> from_columns = layer.forward(StridedView<const float>(xc));
        std::fill(ys.begin(), ys.end(), 0.0f);
        layer.forward(x, yc);
        Real worst = 0;
        for (std::size_t t = 0; t < n; ++t) {
            for (std::size_t o = 0; o < shape.out; ++o) {
                worst = std::max<Real>(worst, std::fabs(static_cast<Real>(plain(t, o)) - static_cast<Real>(yc(t, o))));
                worst = std::max<Real>(worst, std::fabs(static_cast<Real>(plain(t, o)) - static_cast<Real>(from_columns(t, o))));
            }
        }
        CHECK(worst <= 20 * gamma<float>(shape.in + 6));        // blocks of rows may be summed in another order
    }
}

TEST_CASE("adapted: the dropout mask is the one the counter generator makes, in forward and backward") {
    constexpr double p = 0.3;
    constexpr std::size_t n = 64;
    auto base = dense<double>(shape);
    auto layer = peft::adapt(base, peft::LoRA<double>(shape, {.rank = 3, .alpha = 2, .dropout = p, .seed = 12}), 345);
    disturb(layer, 5);
    const Tensors t(layer.method());
    const Matrix<double> x = random_matrix<double>(n, shape.in, 3);
    const Matrix<double> g = random_matrix<double>(n, shape.out, 4);
    auto tape = layer.make_tape();
    Matrix<double> y(n, shape.out);
    Matrix<double> dx(n, shape.in);
    Real mean = 0;
    for (const std::uint64_t step : {std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{3}}) {
        layer.forward(x, y, tape);
        CHECK(tape.step() == step);
        const peft::CounterRandom random({.seed = 12, .stream = 345, .purpose = peft::Purpose::dropout, .step = step});
        const auto threshold = static_cast<std::uint32_t>(p * 0x1p32 + 0.5);
        Matrix<Real> mask(n, shape.in);
        for (std::size_t i = 0; i < mask.size(); ++i) {
            mask.data()[i] = random.bits(i) >= threshold ? 1 / (1 - static_cast<Real>(p)) : 0;
            mean += mask.data()[i];
        }
        Real worst = 0;
        const Real s = Real(2) / 3;
        for (std::size_t r = 0; r < n; ++r) {
            for (std::size_t o = 0; o < shape.out; ++o) {
                Real expected = static_cast<Real>(base.bias()[o]);
                for (std::size_t i = 0; i < shape.in; ++i) {
                    Real delta = 0;
                    for (std::size_t k = 0; k < 3; ++k) delta += s * t["lora_B"](o, k) * t["lora_A"](k, i);
                    expected += static_cast<Real>(x(r, i)) * (static_cast<Real>(base.stored()(o, i)) + mask(r, i) * delta);
                }
                worst = std::max(worst, std::fabs(expected - static_cast<Real>(y(r, o))));
            }
        }
        CHECK(worst <= gamma<double>(shape.in + 12) * 100);
        layer.backward(g, dx, tape);
        worst = 0;
        for (std::size_t r = 0; r < n; ++r) {
            for (std::size_t i = 0; i < shape.in; ++i) {
                Real expected = 0;
                for (std::size_t o = 0; o < shape.out; ++o) {
                    Real delta = 0;
                    for (std::size_t k = 0; k < 3; ++k) delta += s * t["lora_B"](o, k) * t["lora_A"](k, i);
                    expected += static_cast<Real>(g(r, o)) * (static_cast<Real>(base.stored()(o, i)) + mask(r, i) * delta);
                }
                worst = std::max(worst, std::fabs(expected - static_cast<Real>(dx(r, i))));
            }
        }
        CHECK(worst <= gamma<double>(shape.out + 12) * 100);
    }
    // 3264 Bernoulli numbers: the mean of the mask is 1 within four of its standard deviations
    const Real count = 3 * n * shape.in;
    CHECK(std::fabs(mean / count - 1) < 4 * std::sqrt(static_cast<Real>(p) / (1 - static_cast<Real>(p)) / count));

    // replicas draw other masks, the same step and stream the same one
    auto replica = layer.make_tape(1);
    Matrix<double> other(n, shape.out);
    replica.set_step(2);
    layer.forward(x, other, replica);
    CHECK_FALSE(same_bytes(other, y));
    auto again = layer.make_tape();
    again.set_step(2);
    layer.forward(x, other, again);
    CHECK(same_bytes(other, y));
}

TEST_CASE("adapted: setting the step of a tape sets that of nested layers") {
    auto base = dense<double>(shape);
    auto inner = peft::adapt(base, peft::LoRA<double>(shape, {.rank = 2, .dropout = 0.5}));
    auto outer = peft::adapt(inner, peft::LoRA<double>(shape, {.rank = 2, .dropout = 0.5}));
    CHECK(outer.stream() != inner.stream());
    disturb(outer, 5);
    const Matrix<double> x = random_matrix<double>(3, shape.in, 3);
    Matrix<double> y(3, shape.out);
    Matrix<double> resumed(3, shape.out);
    auto tape = outer.make_tape();
    for (int k = 0; k < 5; ++k) outer.forward(x, y, tape);
    auto later = outer.make_tape();
    later.set_step(4);
    outer.forward(x, resumed, later);
    CHECK(same_bytes(y, resumed));
}

TEST_CASE("adapted: wrong shapes are refused by name before anything is written") {
    auto base = dense<float>(shape);
    auto layer = peft::adapt(base, peft::LoRA<float>(shape, {.rank = 2}));
    auto tape = layer.make_tape();
    Matrix<float> x(3, shape.in), y(3, shape.out), dx(3, shape.in);
    Matrix<float> narrow(3, shape.in - 1), short_y(2, shape.out);
    CHECK_THROWS_WITH(layer.forward(narrow), Catch::Matchers::ContainsSubstring("in = 17") && Catch::Matchers::ContainsSubstring("16"));
    CHECK_THROWS_AS(layer.forward(x, short_y), peft::ShapeError);
    CHECK_THROWS_AS(layer.forward(narrow, y, tape), peft::ShapeError);
    CHECK(tape.step() == 0);
    CHECK_THROWS_AS(layer.backward(y, dx, tape), peft::StateError);       // no forward yet
    layer.forward(x, y, tape);
    CHECK_THROWS_AS(layer.forward(narrow, y, tape), peft::ShapeError);    // and the forward before it still counts
    for (float& value : dx.flat()) value = 7;
    CHECK_THROWS_AS(layer.backward(short_y, dx, tape), peft::ShapeError);
    CHECK_THROWS_AS(layer.backward(y, narrow, tape), peft::ShapeError);
    CHECK(dx(0, 0) == 7);
    layer.backward(y, dx, tape);
    CHECK_THROWS_AS(layer.backward(y, dx, tape), peft::StateError);       // once for each forward

    CHECK_THROWS_AS(peft::adapt(base, peft::LoRA<float>({.in = 33, .out = 17})), peft::ShapeError);
    CHECK_THROWS_AS(peft::adapt(std::shared_ptr<peft::DenseLinear<float>>(), peft::LoRA<float>(shape)), peft::StateError);
    Matrix<float> rows(2, shape.in);
    CHECK_THROWS_AS(layer.read_rows(shape.out - 1, rows), peft::ShapeError);
    CHECK_THROWS_AS(layer.write_rows(0, rows), peft::StateError);         // the weights under an unmerged layer

    auto twin_base = dense<float>({.in = 9, .out = shape.out});
    auto twin = peft::adapt(twin_base, peft::LoRA<float>(twin_base.shape(), {.rank = 2}));
    auto foreign = twin.make_tape();
    Matrix<float> x9(3, 9);
    twin.forward(x9, y, foreign);
    CHECK_THROWS_AS(layer.forward(x, y, foreign), peft::StateError);
    CHECK_THROWS_AS(layer.backward(y, dx, foreign), peft::StateError);
    auto moved = std::move(twin);                                         // a tape follows its layer
    moved.forward(x9, y, foreign);
}

TEST_CASE("adapted: inference refuses derived values that are older than the parameters or the base") {
    auto base = dense<float>(shape);
    auto layer = peft::adapt(base, peft::DoRA<float>(shape, {.rank = 2}));
    auto lora = peft::adapt(base, peft::LoRA<float>(shape, {.rank = 2}));
    disturb(lora, 4);
    const Matrix<float> x = random_matrix<float>(3, shape.in, 3);
    const Matrix<float> y = layer.forward(x);
    layer.parameters()[0].touch();
    CHECK_THROWS_WITH(layer.forward(x), Catch::Matchers::ContainsSubstring("prepare()"));
    CHECK_THROWS_AS(layer.plan(), peft::StateError);
    layer.prepare();
    CHECK(same_bytes(layer.forward(x), y));

    // another layer merges into the base: the norms of W are others
    lora.merge();
    CHECK_THROWS_WITH(layer.forward(x), Catch::Matchers::ContainsSubstring("prepare()"));
    layer.prepare();
    Dense expected(base);
    const Tensors t(layer.method());
    for (std::size_t o = 0; o < shape.out; ++o) {
        Real squares = 0;
        for (std::size_t i = 0; i < shape.in; ++i) squares += expected.w(o, i) * expected.w(o, i);
        expected.scale_row(o, t["lora_magnitude_vector"](0, o) / std::sqrt(squares), 8);
    }
    expected.roundings += shape.in + 12;
    CHECK(worst_ratio<float>(layer.forward(x), expected, x) <= 1);
    lora.unmerge();
    layer.prepare();
    CHECK(same_bytes(layer.forward(x), y));
}

TEST_CASE("adapted: gradients accumulate, outputs are overwritten, dy is left alone") {
    auto base = dense<double>(shape);
    auto layer = peft::adapt(base, peft::SSF<double>(shape));   // rewrites dy internally
    disturb(layer, 5);
    const Matrix<double> x = random_matrix<double>(3, shape.in, 3);
    const Matrix<double> g = random_matrix<double>(3, shape.out, 4);
    Matrix<double> dy = g;
    Matrix<double> y(3, shape.out);
    Matrix<double> dx(3, shape.in);
    auto tape = layer.make_tape();
    const auto step = [&] {
        for (double& value : y.flat()) value = std::numeric_limits<double>::quiet_NaN();
        for (double& value : dx.flat()) value = std::numeric_limits<double>::quiet_NaN();
        layer.forward(x, y, tape);
        layer.backward(dy, dx, tape);
    };
    step();
    const Matrix<double> once = layer.parameters()[0].state->grad;
    const Matrix<double> first_dx = dx;
    step();
    CHECK(same_bytes(dy, g));
    CHECK(same_bytes(dx, first_dx));
    const Matrix<double> twice = layer.parameters()[0].state->grad;
    bool doubled = true;
    for (std::size_t i = 0; i < once.size(); ++i) doubled = doubled && std::fabs(twice.data()[i] - 2 * once.data()[i]) <= 1e-14;
    CHECK(doubled);
}

TEST_CASE("adapted: the base may be owned, referred to or shared, and layers may move") {
    auto base = dense<float>(shape);
    const Matrix<float> x = random_matrix<float>(3, shape.in, 3);
    const auto make = [&](auto&& held) {
        auto layer = peft::adapt(std::forward<decltype(held)>(held), peft::LoRA<float>(shape, {.rank = 2}), 4);
        disturb(layer, 5);
        return layer;
    };
    auto by_reference = make(base);
    auto owned = make(dense<float>(shape));
    auto shared_base = std::make_shared<peft::DenseLinear<float>>(dense<float>(shape));
    auto shared = make(shared_base);
    CHECK(&by_reference.base() == &base);
    CHECK(&shared.base() == shared_base.get());
    CHECK(same_bytes(by_reference.forward(x), owned.forward(x)));
    CHECK(same_bytes(by_reference.forward(x), shared.forward(x)));
    owned.merge();
    auto moved = std::move(owned);
    moved.unmerge();
    CHECK(same_bytes(moved.base().stored(), base.stored()));
    CHECK(same_bytes(moved.forward(x), by_reference.forward(x)));
}

TEST_CASE("adapted: a tape that was moved from is refused") {
    peft::DenseLinear<double> fc(random_matrix<double>(4, 3, 1));
    auto layer = peft::adapt(fc, peft::LoRA<double>(fc.shape()));
    const auto x = random_matrix<double>(2, 3, 2), dy = random_matrix<double>(2, 4, 3);
    Matrix<double> y(2, 4), dx(2, 3);
    auto tape = layer.make_tape();
    layer.forward(x, y, tape);
    {
        const auto taken = std::move(tape);
    }   // and with it the memory of the caches
    CHECK_THROWS_AS(layer.backward(dy, dx, tape), peft::StateError);
}

TEST_CASE("adapted: several threads infer on one layer at once") {
    auto base = dense<float>({.in = 64, .out = 48});
    auto layer = peft::adapt(base, peft::DoRA<float>({.in = 64, .out = 48}, {.rank = 4}));
    disturb(layer, 5);
    const Matrix<float> x = random_matrix<float>(20, 64, 3);
    const Matrix<float> y = layer.forward(x);
    int wrong[4] = {};
    std::vector<std::thread> threads;
    for (int k = 0; k < 4; ++k) {
        threads.emplace_back([&, k] {
            for (int i = 0; i < 50; ++i) wrong[k] += same_bytes(std::as_const(layer).forward(x), y) ? 0 : 1;
        });
    }
    for (auto& thread : threads) thread.join();
    CHECK(wrong[0] + wrong[1] + wrong[2] + wrong[3] == 0);
}

TEST_CASE("adapted: an allocation that fails in forward or backward leaves parameters and base, and trying again works") {
    constexpr LayerShape small{40, 30};
    auto base = dense<float>(small);
    const Matrix<float> weight = base.stored();
    auto inner = peft::adapt(base, peft::DoRA<float>(small, {.rank = 2, .dropout = 0.5}), 6);
    auto layer = peft::adapt(inner, peft::LoRA<float>(small, {.rank = 2, .dropout = 0.5}), 7);
    disturb(layer, 5);
    const Matrix<float> x = random_matrix<float>(9, small.in, 3);
    const Matrix<float> g = random_matrix<float>(9, small.out, 4);
    const auto parameters = layer.parameters();
    const auto values = [&] {
        std::vector<float> all;
        for (const auto& parameter : parameters) all.insert(all.end(), parameter.value().begin(), parameter.value().end());
        return all;
    };
    const auto gradients = [&] {
        std::vector<float> all;
        for (const auto& parameter : parameters) all.insert(all.end(), parameter.grad().begin(), parameter.grad().end());
        return all;
    };
    const auto clear = [&] {
        for (const auto& parameter : parameters) std::fill(parameter.grad().begin(), parameter.grad().end(), 0.0f);
    };
    Matrix<float> y(9, small.out), dx(9, small.in);
    const auto step = [&](auto& tape) {
        layer.forward(x, y, tape);
        layer.backward(g, dx, tape);
    };
    auto first = layer.make_tape();
    clear();
    step(first);
    const Matrix<float> y_expected = y;
    const Matrix<float> dx_expected = dx;
    const std::vector<float> gradients_expected = gradients();
    const std::vector<float> values_expected = values();
    for (const bool for_good : {false, true}) {
        for (std::size_t k = 1;; ++k) {
            auto tape = layer.make_tape();         // its arena is empty, so is the scratch of a new thread
            clear();
            bool happened = false;
            bool failed = false;
            std::thread([&] {
                const AllocationFailure failure(k, for_good);
                try {
                    step(tape);
                } catch (const std::bad_alloc&) {
                    failed = true;
                }
                happened = failure.happened();
            }).join();
            if (failed) {
                if (values() != values_expected || !same_bytes(base.stored(), weight)) FAIL("something changed, k = " << k);
                clear();
                tape.set_step(0);
                step(tape);
            }
            if (!same_bytes(y, y_expected) || !same_bytes(dx, dx_expected) || gradients() != gradients_expected) FAIL("another result, k = " << k);
            if (!happened) break;
        }
    }
    // a forward that fails does not count: the same mask is drawn when it is tried again
    auto tape = layer.make_tape();
    std::thread([&] {
        const AllocationFailure failure(1, true);
        CHECK_THROWS_AS(layer.forward(x, y, tape), std::bad_alloc);
    }).join();
    CHECK(tape.step() == 0);
}

TEST_CASE("adapted: a result that would be written over its input is refused", "") {
    peft::DenseLinear<float> fc(random_matrix<float>(5, 5, 1));
    auto layer = peft::adapt(fc, peft::LoRA<float>(fc.shape()));
    auto tape = layer.make_tape();
    auto x = random_matrix<float>(3, 5, 2);
    const auto before = x;
    Matrix<float> y(3, 5);
    CHECK_THROWS_AS(layer.forward(x, x), peft::StateError);
    CHECK_THROWS_AS(layer.forward(x, x, tape), peft::StateError);
    layer.forward(x, y, tape);
    CHECK_THROWS_AS(layer.backward(x, x, tape), peft::StateError);
    CHECK(same_bytes(x, before));
}
