#include "contract/contract.hpp"

#include <peft/adapters/low_rank/lora.hpp>

using namespace peft_test;

namespace {

const auto lora_formula = [](const Tensors& t, const auto& options, Dense& dense) {
    const Real rank = static_cast<Real>(options.rank);
    const Real s = static_cast<Real>(options.alpha) / (options.rank_stabilized ? std::sqrt(rank) : rank);
    dense.add_product(s, t["lora_B"], t["lora_A"]);
    if (!options.bias) return;
    for (std::size_t o = 0; o < dense.out(); ++o) dense.add_bias(o, s * t["lora_B_bias"](0, o));
};
const auto lora_count = [](LayerShape shape, const auto& options, bool) {
    return options.rank * ((options.train_a ? shape.in : 0) + shape.out) + (options.bias ? shape.out : 0);
};

}  // namespace

TEMPLATE_TEST_CASE("lora: keeps the contract", "", float, double) {
    contract<peft::LoRA, TestType>({.rank = 2, .alpha = 3}, lora_formula, lora_count);
}
TEMPLATE_TEST_CASE("lora: rank-stabilised, with a bias on B and dropout, keeps the contract", "", float, double) {
    contract<peft::LoRA, TestType>({.rank = 2, .alpha = 3, .dropout = 0.3, .rank_stabilized = true, .bias = true}, lora_formula, lora_count);
}
TEMPLATE_TEST_CASE("lora: with a frozen A (LoRA-FA) it keeps the contract", "", float, double) {
    contract<peft::LoRA, TestType>({.rank = 2, .alpha = 3, .train_a = false}, lora_formula, lora_count);
}

TEST_CASE("lora: options out of range are refused by name") {
    using peft::LoRA;
    using Catch::Matchers::ContainsSubstring;
    const LayerShape shape{3, 4};
    const double nan = std::numeric_limits<double>::quiet_NaN();
    CHECK_THROWS_WITH(LoRA<float>(shape, {.rank = 0}), ContainsSubstring("rank") && ContainsSubstring("at least 1") && ContainsSubstring("found 0"));
    for (const double p : {-0.1, 1.0, 1.5, nan}) CHECK_THROWS_WITH(LoRA<float>(shape, {.dropout = p}), ContainsSubstring("lora: dropout"));
    for (const double alpha : {nan, std::numeric_limits<double>::infinity(), 1e300}) CHECK_THROWS_WITH(LoRA<float>(shape, {.alpha = alpha}), ContainsSubstring("lora: alpha"));
    CHECK_NOTHROW(LoRA<double>(shape, {.alpha = 1e300}));
    CHECK_THROWS_AS(LoRA<float>(shape, {.rank = static_cast<std::size_t>(-1) / 2}), peft::ShapeError);   // no allocation from the rank
    CHECK_NOTHROW(LoRA<float>(shape, {.rank = 9, .alpha = 0}));
}

TEST_CASE("lora: A starts Kaiming-uniform, from its stream, and B at zero") {
    constexpr LayerShape shape{64, 32};
    peft::DenseLinear<float> base(random_matrix<float>(shape.out, shape.in, 1));
    auto layer = peft::adapt(base, peft::LoRA<float>(shape, {.rank = 4, .seed = 9}), 77);
    const peft::CounterRandom random({.seed = 9, .stream = 77, .purpose = peft::Purpose::parameters, .step = 0});
    bool same = true;
    const auto a = std::as_const(layer.method()).factors().a;
    for (std::size_t k = 0; k < 4; ++k) {
        for (std::size_t i = 0; i < shape.in; ++i) same = same && a(k, i) == static_cast<float>(0.125 * (2 * random.uniform(k * shape.in + i) - 1));
    }
    CHECK(same);
    for (const float value : layer.parameters()[1].value()) CHECK(value == 0);

    // what was loaded before adapt is kept
    peft::LoRA<float> loaded(shape, {.rank = 4});
    loaded.a().assign(random_matrix<float>(4, shape.in, 3));
    auto other = peft::adapt(base, loaded);
    CHECK(same_bytes<float>(std::as_const(other.method()).factors().a, random_matrix<float>(4, shape.in, 3).view()));
}

TEST_CASE("lora: a frozen A gets no gradient and is no parameter") {
    constexpr LayerShape shape{6, 5};
    peft::DenseLinear<double> base(random_matrix<double>(shape.out, shape.in, 1));
    auto layer = peft::adapt(base, peft::LoRA<double>(shape, {.rank = 2, .train_a = false}));
    REQUIRE(layer.parameters().size() == 1);
    CHECK(layer.parameters()[0].name == "lora_B");
    CHECK(layer.parameter_count().frozen == 5 * 6 + 2 * 6);
    Matrix<double> y(3, 5), dx(3, 6);
    auto tape = layer.make_tape();
    const auto x = random_matrix<double>(3, 6, 2);   // the tape views it until backward
    layer.forward(x, y, tape);
    layer.backward(y, dx, tape);
    CHECK(layer.method().a().grad().empty());
}
