#include "contract/contract.hpp"

#include <peft/adapters/low_rank/dora.hpp>

using namespace peft_test;

namespace {

// W' = diag(m / ||V_o||) V with V = W + s B A
const auto dora_formula = [](const Tensors& t, const auto& options, Dense& dense) {
    const Real rank = static_cast<Real>(options.rank);
    dense.add_product(static_cast<Real>(options.alpha) / (options.rank_stabilized ? std::sqrt(rank) : rank), t["lora_B"], t["lora_A"]);
    dense.roundings += dense.in() + 2 * options.rank + 8;   // of the norm
    for (std::size_t o = 0; o < dense.out(); ++o) {
        Real squares = 0;
        Real size = 0;
        for (std::size_t i = 0; i < dense.in(); ++i) {
            squares += dense.w(o, i) * dense.w(o, i);
            size += dense.w_size(o, i) * dense.w_size(o, i);
        }
        const Real c = t["lora_magnitude_vector"](0, o) / std::sqrt(squares);
        // n^2 is a sum in which terms cancel (size / squares), and y gets there as y + (c - 1)(y - b) + c d
        dense.scale_row(o, c, std::fabs(c) * (1 + size / squares) + std::fabs(c - 1) + 1);
        dense.b_size(0, o) *= 2 + 2 * std::fabs(c - 1);
    }
};
const auto dora_count = [](LayerShape shape, const auto& options, bool) { return options.rank * (shape.in + shape.out) + shape.out; };

}  // namespace

TEMPLATE_TEST_CASE("dora: keeps the contract", "", float, double) {
    contract<peft::DoRA, TestType>({.rank = 2, .alpha = 3, .detach_norm = false}, dora_formula, dora_count);
}
TEMPLATE_TEST_CASE("dora: rank-stabilised and with dropout it keeps the contract", "", float, double) {
    contract<peft::DoRA, TestType>({.rank = 2, .alpha = 3, .dropout = 0.3, .rank_stabilized = true, .detach_norm = false}, dora_formula, dora_count);
}

TEST_CASE("dora: rows of the merged weight have the magnitudes as norms, and start with those of the base") {
    constexpr LayerShape shape{17, 33};
    peft::DenseLinear<double> base(random_matrix<double>(shape.out, shape.in, 1));
    auto layer = peft::adapt(base, peft::DoRA<double>(shape, {.rank = 3}));
    const auto norm = [&](const Matrix<double>& w, std::size_t o) {
        Real sum = 0;
        for (std::size_t i = 0; i < shape.in; ++i) sum += static_cast<Real>(w(o, i)) * w(o, i);
        return static_cast<double>(std::sqrt(sum));
    };
    const auto magnitude = layer.parameters()[2];
    REQUIRE(magnitude.name == "lora_magnitude_vector");
    for (std::size_t o = 0; o < shape.out; ++o) CHECK(magnitude.value()[o] == Approx(norm(base.stored(), o)).epsilon(1e-14));
    disturb(layer, 3);
    const auto merged = peft::merged_copy(layer);
    for (std::size_t o = 0; o < shape.out; ++o) CHECK(norm(merged.stored(), o) == Approx(std::fabs(magnitude.value()[o])).epsilon(1e-12));
}

TEST_CASE("dora: a detached norm changes the gradients of A and B only") {
    constexpr LayerShape shape{17, 33};
    const auto gradients = [&](bool detach) {
        peft::DenseLinear<double> base(random_matrix<double>(shape.out, shape.in, 1));
        auto layer = peft::adapt(base, peft::DoRA<double>(shape, {.rank = 3, .detach_norm = detach}), 5);
        disturb(layer, 3);
        const auto x = random_matrix<double>(4, shape.in, 2);   // the tape views it until backward
        Matrix<double> y(4, shape.out), dx(4, shape.in);
        auto tape = layer.make_tape();
        layer.forward(x, y, tape);
        layer.backward(random_matrix<double>(4, shape.out, 4), dx, tape);
        std::vector<Matrix<double>> all{dx};
        for (const auto& parameter : layer.parameters()) all.push_back(parameter.state->grad);
        return all;
    };
    const auto full = gradients(false);
    const auto detached = gradients(true);
    CHECK(same_bytes(full[0], detached[0]));
    CHECK_FALSE(same_bytes(full[1], detached[1]));
    CHECK_FALSE(same_bytes(full[2], detached[2]));
    CHECK(same_bytes(full[3], detached[3]));
}

TEST_CASE("dora: a zero row without magnitude stays zero, with one it is refused") {
    constexpr LayerShape shape{7, 5};
    Matrix<float> w = random_matrix<float>(shape.out, shape.in, 1);
    for (std::size_t i = 0; i < shape.in; ++i) w(2, i) = 0;
    peft::DenseLinear<float> base(w);
    auto layer = peft::adapt(base, peft::DoRA<float>(shape, {.rank = 2}));
    const Matrix<float> x = random_matrix<float>(3, shape.in, 2);
    CHECK(layer.forward(x)(1, 2) == 0);
    layer.merge();
    layer.unmerge();
    CHECK(same_bytes(base.stored(), w));
    const auto magnitude = layer.parameters()[2];
    magnitude.value()[2] = 1;
    magnitude.touch();
    CHECK_THROWS_WITH(layer.prepare(), Catch::Matchers::ContainsSubstring("dora: magnitude") && Catch::Matchers::ContainsSubstring("row 2"));
    CHECK_THROWS_AS(layer.forward(x), peft::StateError);
    CHECK_THROWS_AS(layer.merge(), peft::NumericError);
    CHECK(same_bytes(base.stored(), w));
    magnitude.value()[2] = 0;
    magnitude.touch();
    layer.prepare();
    CHECK(layer.forward(x)(1, 2) == 0);
}

TEST_CASE("dora: options are checked as LoRA's are") {
    CHECK_THROWS_AS(peft::DoRA<float>({3, 4}, {.rank = 0}), peft::OptionError);
    CHECK_THROWS_AS(peft::DoRA<float>({3, 4}, {.dropout = 1}), peft::OptionError);
}
