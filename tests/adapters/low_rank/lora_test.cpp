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
