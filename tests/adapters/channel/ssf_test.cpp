#include "contract/contract.hpp"

#include <peft/adapters/channel/ssf.hpp>

using namespace peft_test;

namespace {

const auto ssf_formula = [](const Tensors& t, const auto&, Dense& dense) {
    dense.roundings += 2;
    for (std::size_t o = 0; o < dense.out(); ++o) {
        dense.scale_row(o, t["ssf_scale"](0, o));
        dense.scale_bias(o, t["ssf_scale"](0, o));
        dense.add_bias(o, t["ssf_shift"](0, o));
    }
};
const auto ssf_count = [](LayerShape shape, const auto&, bool) { return 2 * shape.out; };

}  // namespace

TEMPLATE_TEST_CASE("ssf: keeps the contract", "", float, double) {
    contract<peft::SSF, TestType>({}, ssf_formula, ssf_count, {.starts_random = false});
}
TEMPLATE_TEST_CASE("ssf: with a random start it keeps the contract", "", float, double) {
    contract<peft::SSF, TestType>({.random_start = true}, ssf_formula, ssf_count, {.exact_start = false});
}

TEST_CASE("ssf: a random start has the deviation that was asked for, and bad ones are refused") {
    constexpr LayerShape shape{3, 4000};
    peft::DenseLinear<double> base(random_matrix<double>(shape.out, shape.in, 1));
    auto layer = peft::adapt(base, peft::SSF<double>(shape, {.random_start = true, .deviation = 0.5}));
    for (int k = 0; k < 2; ++k) {
        const auto values = layer.parameters()[static_cast<std::size_t>(k)].value();
        double mean = 0;
        double square = 0;
        for (const double value : values) mean += value;
        mean /= 4000;
        for (const double value : values) square += (value - mean) * (value - mean);
        CHECK(std::fabs(mean - (k == 0 ? 1 : 0)) < 5 * 0.5 / std::sqrt(4000.0));
        CHECK(std::fabs(square / 4000 - 0.25) < 5 * 0.25 * std::sqrt(2.0 / 4000));
    }
    for (const double deviation : {-1.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
        CHECK_THROWS_WITH(peft::SSF<double>(shape, {.deviation = deviation}), Catch::Matchers::ContainsSubstring("ssf: deviation"));
    }
}
