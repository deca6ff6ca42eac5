#include "contract/contract.hpp"

#include <peft/adapters/low_rank/lora.hpp>
#include <peft/adapters/shared_basis/vera.hpp>

using namespace peft_test;
using Catch::Matchers::ContainsSubstring;
using peft::SharedProjection;
using peft::VeRA;

namespace {

const auto vera_formula = [](const Tensors& t, const auto& options, Dense& dense) {
    Matrix<Real> a(options.rank, dense.in()), b(dense.out(), options.rank);
    for (std::size_t k = 0; k < options.rank; ++k) {
        for (std::size_t i = 0; i < dense.in(); ++i) a(k, i) = t["vera_lambda_d"](0, k) * t["vera_A"](k, i);
        for (std::size_t o = 0; o < dense.out(); ++o) b(o, k) = t["vera_lambda_b"](0, o) * t["vera_B"](o, k);
    }
    dense.add_product(1, b, a);
    dense.roundings += 3;
};
const auto vera_count = [](LayerShape shape, const auto& options, bool) { return shape.out + options.rank; };

}  // namespace

TEMPLATE_TEST_CASE("vera: keeps the contract", "", float, double) {
    contract<VeRA, TestType>({.rank = 2}, vera_formula, vera_count, {.starts_random = false});
}
TEMPLATE_TEST_CASE("vera: with dropout it keeps the contract", "", float, double) {
    contract<VeRA, TestType>({.rank = 2, .d_initial = 0.7, .dropout = 0.3, .projection_seed = 5}, vera_formula, vera_count, {.starts_random = false});
}

TEST_CASE("vera: the projections are the first numbers of PyTorch's stream") {
    // torch.manual_seed(0); torch.rand(5) and seed 42, as PyTorch prints them
    for (const auto& [seed, wanted] : {std::pair<std::uint64_t, std::array<float, 5>>{0, {0.4963f, 0.7682f, 0.0885f, 0.1320f, 0.3074f}}, {42, {0.8823f, 0.9150f, 0.3829f, 0.9593f, 0.3904f}}}) {
        peft::TorchRandom random(seed);
        std::array<float, 5> values{};
        random.uniform(0.5, values);
        for (std::size_t i = 0; i < 5; ++i) CHECK(std::fabs(values[i] + 0.5f - wanted[i]) < 1e-4f);
    }
    const auto a = SharedProjection<float>::seeded(4, {6, 9}, 3);
    const auto b = SharedProjection<double>::seeded(4, {6, 9}, 3);
    const float bound_a = std::sqrt(6.0f / 6), bound_b = std::sqrt(6.0f / 4);
    for (std::size_t i = 0; i < a->a.size(); ++i) CHECK((std::fabs(a->a.flat()[i]) <= bound_a && static_cast<double>(a->a.flat()[i]) == b->a.flat()[i]));
    for (std::size_t i = 0; i < a->b.size(); ++i) CHECK((std::fabs(a->b.flat()[i]) <= bound_b && static_cast<double>(a->b.flat()[i]) == b->b.flat()[i]));
}

TEST_CASE("vera: layers of several shapes share one projection") {
    const auto shared = SharedProjection<float>::seeded(3, {8, 10}, 1);
    peft::DenseLinear<float> first(random_matrix<float>(10, 5, 1)), second(random_matrix<float>(7, 8, 2));
    auto one = peft::adapt(first, VeRA<float>({5, 10}, {.rank = 3}, shared));
    auto two = peft::adapt(second, VeRA<float>({8, 7}, {.rank = 3}, shared));
    CHECK(one.method().projection() == two.method().projection());
    // and so does a copy: the projection exists once
    const VeRA<float> copy = one.method();
    CHECK(copy.projection() == shared);

    // VeRA is the LoRA with B' = diag(b) B and A' = diag(d) A
    disturb(one, 5);
    const peft::LoRA<float> lora = one.method().to_lora();
    const Tensors t(one.method());
    for (std::size_t k = 0; k < 3; ++k) {
        for (std::size_t i = 0; i < 5; ++i) CHECK(lora.factors().a(k, i) == static_cast<float>(t["vera_lambda_d"](0, k)) * static_cast<float>(t["vera_A"](k, i)));
    }
    peft::DenseLinear<float> base = first;
    auto same = peft::adapt(base, lora);
    const auto x = random_matrix<float>(4, 5, 6);
    const auto y = one.forward(x), z = same.forward(x);
    for (std::size_t i = 0; i < y.size(); ++i) CHECK(std::fabs(y.data()[i] - z.data()[i]) < 1e-5f);
}

TEST_CASE("vera: the first step moves b alone") {
    peft::DenseLinear<double> base(random_matrix<double>(6, 5, 1));
    auto layer = peft::adapt(base, VeRA<double>({5, 6}, {.rank = 4}));
    const auto parameters = layer.parameters();
    const auto x = random_matrix<double>(3, 5, 2), dy = random_matrix<double>(3, 6, 3);
    Matrix<double> y(3, 6), dx(3, 5);
    auto tape = layer.make_tape();
    layer.forward(x, y, tape);
    layer.backward(dy, dx, tape);
    REQUIRE(parameters.size() == 2);
    CHECK(std::all_of(parameters[1].grad().begin(), parameters[1].grad().end(), [](double g) { return g == 0; }));
    CHECK(std::any_of(parameters[0].grad().begin(), parameters[0].grad().end(), [](double g) { return g != 0; }));
}

TEST_CASE("vera: what does not fit is refused by name") {
    CHECK_THROWS_WITH(VeRA<float>({3, 4}, {.rank = 0}), ContainsSubstring("vera: rank"));
    CHECK_THROWS_WITH(VeRA<float>({3, 4}, {.dropout = 1}), ContainsSubstring("vera: dropout"));
    CHECK_THROWS_WITH(VeRA<float>({3, 4}, {.d_initial = std::numeric_limits<double>::infinity()}), ContainsSubstring("vera: d_initial"));
    const auto shared = SharedProjection<float>::seeded(2, {3, 3}, 0);
    CHECK_THROWS_WITH(VeRA<float>({3, 4}, {.rank = 2}, shared), ContainsSubstring("rank 2, in 3, out 4 at least") && ContainsSubstring("found rank 2, in 3, out 3"));
    CHECK_THROWS_AS(VeRA<float>({3, 3}, {.rank = 3}, shared), peft::ShapeError);
}
