#include "contract/contract.hpp"

#include <peft/adapters/full/trained.hpp>

using namespace peft_test;

namespace {

const auto trained_formula = [](const Tensors& t, const auto&, Dense& dense) {
    for (std::size_t o = 0; o < dense.out(); ++o) {
        if (t.has("weight")) {
            for (std::size_t i = 0; i < dense.in(); ++i) {
                dense.w_size(o, i) = std::fabs(t["weight"](o, i));
                dense.w(o, i) = t["weight"](o, i);
            }
        }
        if (t.has("bias")) {
            // without a weight of its own: y + (c - b)
            dense.b_size(0, o) = std::fabs(t["bias"](0, o)) + (t.has("weight") ? 0 : 2 * dense.b_size(0, o));
            dense.b(0, o) = t["bias"](0, o);
        }
    }
    dense.roundings += 2;
};
const auto trained_count = [](LayerShape shape, const auto& options, bool with_bias) {
    return (options.weight ? shape.in * shape.out : 0) + (options.bias && with_bias ? shape.out : 0);
};

}  // namespace

TEMPLATE_TEST_CASE("trained: weight and bias keep the contract", "", float, double) {
    contract<peft::Trained, TestType>({}, trained_formula, trained_count, {.starts_random = false});
}
TEMPLATE_TEST_CASE("trained: the weight alone keeps the contract", "", float, double) {
    contract<peft::Trained, TestType>({.weight = true, .bias = false}, trained_formula, trained_count, {.starts_random = false});
}

TEST_CASE("trained: the bias alone leaves the weight alone, in every direction") {
    constexpr LayerShape shape{17, 33};
    peft::DenseLinear<double> base(random_matrix<double>(shape.out, shape.in, 1), random_matrix<double>(1, shape.out, 2));
    const Matrix<double> weight = base.stored();
    auto layer = peft::adapt(base, peft::Trained<double>(shape, {.weight = false}));
    REQUIRE(layer.parameters().size() == 1);
    const Matrix<double> x = random_matrix<double>(3, shape.in, 4);
    Matrix<double> y(3, shape.out);
    base.forward(x, y);
    CHECK(same_bytes(layer.forward(x), y));
    disturb(layer, 3);
    check_gradients(layer, x, 5);
    const Matrix<double> adapted = layer.forward(x);
    layer.merge();
    CHECK(same_bytes(base.stored(), weight));
    CHECK(base.bias()[4] == layer.parameters()[0].value()[4]);
    for (std::size_t i = 0; i < y.size(); ++i) CHECK(layer.forward(x).data()[i] == Approx(adapted.data()[i]));
    layer.unmerge();
    CHECK(same_bytes<double>(std::as_const(base).bias(), random_matrix<double>(1, shape.out, 2).flat()));
}

TEST_CASE("trained: nothing to train, and a bias where there is none, are refused") {
    constexpr LayerShape shape{17, 33};
    peft::DenseLinear<float> base(random_matrix<float>(shape.out, shape.in, 1));
    CHECK_THROWS_AS(peft::Trained<float>(shape, {.weight = false, .bias = false}), peft::OptionError);
    CHECK_THROWS_AS(peft::adapt(base, peft::Trained<float>(shape, {.weight = false})), peft::StateError);
    CHECK(peft::adapt(base, peft::Trained<float>(shape)).parameters().size() == 1);
}
