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
