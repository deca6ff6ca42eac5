#include "support/catch.hpp"

#include "support/allocation_counter.hpp"
#include "optim/reference.hpp"

#include <peft/optim/adamw.hpp>
#include <peft/optim/sgd.hpp>

#include <limits>

using optim_test::Parameters;

namespace {

template <class T> peft::ParameterGroups<T> two_groups(Parameters<T>& parameters, peft::GroupOptions first, peft::GroupOptions second) {
    return {{{{"a", parameters.a.state()}}, first}, {{{"b", parameters.b.state()}}, second}};
}

/// Steps one optimizer in groups and one for each group alone: the same bits.
template <class Optimizer> void expect_like_apart(const typename Optimizer::Options& options) {
    using T = typename Optimizer::value_type;
    Parameters<T> together, apart;
    Optimizer grouped(two_groups(together, {.learning_rate_factor = 0.5}, {.learning_rate_factor = 16, .weight_decay = 0.25}), options);
    auto options_a = options;
    auto options_b = options;
    options_b.weight_decay = 0.25;
    Optimizer only_a({{"a", apart.a.state()}}, options_a);
    Optimizer only_b({{"b", apart.b.state()}}, options_b);
    for (int t = 0; t < 6; ++t) {
        const double rate = 0.01 * (t + 1);
        together.set_gradients(t);
        apart.set_gradients(t);
        grouped.set_learning_rate(rate);
        only_a.set_learning_rate(0.5 * rate);
        only_b.set_learning_rate(16 * rate);
        grouped.step();
        only_a.step();
        only_b.step();
        REQUIRE(together.numbers() == apart.numbers());
    }
    CHECK(grouped.groups().size() == 2);
    CHECK(grouped.group_of(1) == 1);
    CHECK(grouped.steps() == 6);
}

}  // namespace

TEMPLATE_TEST_CASE("groups: every group is stepped as an optimizer of its own would, under a schedule", "", float, double) {
    expect_like_apart<peft::AdamW<TestType>>({.weight_decay = 0.1});
    expect_like_apart<peft::SGD<TestType>>({.momentum = 0.9, .weight_decay = 0.1, .nesterov = true});
}

TEST_CASE("groups: a step under a schedule allocates nothing") {
    Parameters<float> parameters;
    peft::AdamW<float> adamw(two_groups(parameters, {}, {.learning_rate_factor = 4}));
    peft::SGD<float> sgd(two_groups(parameters, {}, {.weight_decay = 0}), {.momentum = 0.5});
    parameters.set_gradients(0);
    const std::size_t before = peft_test::allocations();
    adamw.set_learning_rate(0.5);
    adamw.step();
    sgd.set_learning_rate(0.5);
    sgd.step();
    CHECK(peft_test::allocations() == before);
}

TEST_CASE("groups: options outside their range and a parameter in two groups are refused by name") {
    Parameters<float> p;
    const auto refuses = [&](peft::GroupOptions options, const std::string& name) {
        CHECK_THROWS_WITH(peft::AdamW<float>(two_groups(p, {}, options)), Catch::Matchers::ContainsSubstring("adamw: " + name));
        CHECK_THROWS_WITH(peft::SGD<float>(two_groups(p, {}, options)), Catch::Matchers::ContainsSubstring("sgd: " + name));
    };
    refuses({.learning_rate_factor = -1}, "learning_rate_factor");
    refuses({.learning_rate_factor = std::numeric_limits<double>::infinity()}, "learning_rate_factor");
    refuses({.weight_decay = -0.1}, "weight_decay");
    refuses({.weight_decay = std::numeric_limits<double>::quiet_NaN()}, "weight_decay");
    CHECK_THROWS_AS(peft::AdamW<float>(peft::ParameterGroups<float>{}), peft::OptionError);
    const peft::ParameterGroups<float> twice{{p.list(), {}}, {{{"again", p.a.state()}}, {}}};
    CHECK_THROWS_WITH(peft::AdamW<float>(twice), Catch::Matchers::ContainsSubstring("again"));
    peft::AdamW<float> large(two_groups(p, {}, {.learning_rate_factor = 1e10}));
    CHECK_THROWS_AS(large.set_learning_rate(1e300), peft::OptionError);
    CHECK(large.learning_rate() == 1e-3);
}

TEST_CASE("groups: rates and decays that are infinite in the compute type are refused") {
    optim_test::Parameters<float> parameters;
    const auto made = [&](double rate, peft::GroupOptions second) { return peft::AdamW<float>(two_groups(parameters, {}, second), {.learning_rate = rate}); };
    CHECK_THROWS_AS(made(1e39, {}), peft::OptionError);
    CHECK_THROWS_AS(made(1, {.learning_rate_factor = 1e39}), peft::OptionError);
    CHECK_THROWS_AS(made(1, {.weight_decay = 1e39}), peft::OptionError);
    auto optimizer = made(1, {.learning_rate_factor = 1e10});
    CHECK_THROWS_AS(optimizer.set_learning_rate(1e30), peft::OptionError);
    CHECK(optimizer.learning_rate() == 1);
    optim_test::Parameters<double> wide;
    CHECK_NOTHROW(peft::AdamW<double>(two_groups(wide, {}, {}), {.learning_rate = 1e39}));
}
