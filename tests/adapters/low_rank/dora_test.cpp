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
