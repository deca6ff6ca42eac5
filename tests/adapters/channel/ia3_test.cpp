#include "contract/contract.hpp"

#include <peft/adapters/channel/ia3.hpp>

using namespace peft_test;

namespace {

const auto ia3_formula = [](const Tensors& t, const auto& options, Dense& dense) {
    const Matrix<Real>& l = t["ia3_l"];
    dense.roundings += 1;
    for (std::size_t k = 0; k < l.size(); ++k) {
        if (options.feedforward) {
            dense.scale_column(k, l(0, k));
        } else {
            dense.scale_row(k, l(0, k));
            dense.scale_bias(k, l(0, k));
        }
    }
};
const auto ia3_count = [](LayerShape shape, const auto& options, bool) { return options.feedforward ? shape.in : shape.out; };

}  // namespace

TEMPLATE_TEST_CASE("ia3: scaling the output keeps the contract", "", float, double) {
    contract<peft::IA3, TestType>({.feedforward = false}, ia3_formula, ia3_count, {.starts_random = false});
}
TEMPLATE_TEST_CASE("ia3: scaling the input keeps the contract", "", float, double) {
    contract<peft::IA3, TestType>({.feedforward = true}, ia3_formula, ia3_count, {.starts_random = false});
}

TEST_CASE("ia3: a factor of zero is undone too") {
    constexpr LayerShape shape{17, 33};
    for (const bool feedforward : {false, true}) {
        peft::DenseLinear<float> base(random_matrix<float>(shape.out, shape.in, 1), random_matrix<float>(1, shape.out, 2));
        const Matrix<float> before = base.stored();
        auto layer = peft::adapt(base, peft::IA3<float>(shape, {.feedforward = feedforward}));
        layer.parameters()[0].value()[3] = 0;
        layer.parameters()[0].value()[5] = 1e-30f;
        layer.merge();
        CHECK(base.stored()(3, 3) == 0);
        layer.unmerge();
        CHECK(same_bytes(base.stored(), before));
    }
}
