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
