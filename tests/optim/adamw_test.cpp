#include "support/catch.hpp"

#include "support/allocation_counter.hpp"
#include "optim/reference.hpp"

#include <peft/optim/adamw.hpp>

#include <cmath>
#include <limits>

using optim_test::AdamWReference;
using optim_test::Parameters;

TEMPLATE_TEST_CASE("adamw: twenty steps agree with the formula in double", "", float, double) {
    using T = TestType;
    const peft::AdamWOptions options{.learning_rate = 0.02, .beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-6, .weight_decay = 0.1};
    Parameters<T> parameters;
    peft::AdamW<T> optimizer(parameters.list(), options);
    std::vector<double> expected = parameters.numbers();
    std::vector<AdamWReference> reference(expected.size(), {options.learning_rate, options.beta1, options.beta2, options.epsilon, options.weight_decay});
    // Each step changes a number by at most about lr and rounds ten times: value, m, v, two corrections, root, quotient;
    // the options themselves are rounded to T, which 1 - beta2 magnifies by 1 / (1 - beta2).
    const double eps = std::numeric_limits<T>::epsilon();
    for (int t = 0; t < 20; ++t) {
        parameters.set_gradients(t);
        const std::vector<double> gradients = parameters.gradients();
        optimizer.step();
        const std::vector<double> found = parameters.numbers();
        for (std::size_t i = 0; i < found.size(); ++i) {
            expected[i] = reference[i].step(expected[i], gradients[i]);
            const double tolerance = (t + 1) * eps * (std::abs(expected[i]) + options.learning_rate * (10 + 2 / (1 - options.beta2)));
            INFO("step " << t << " number " << i);
            REQUIRE(std::abs(found[i] - expected[i]) <= tolerance);
        }
    }
    CHECK(optimizer.steps() == 20);
}

TEST_CASE("adamw: the decay is apart from the gradient, and the first step has the length of the learning rate") {
    Parameters<double> parameters;
    peft::AdamW<double> optimizer(parameters.list(), {.learning_rate = 0.5, .weight_decay = 0});
    const auto before = parameters.numbers();
    parameters.set_gradients(1);
    const auto gradients = parameters.gradients();
    optimizer.step();
    const auto after = parameters.numbers();
    for (std::size_t i = 0; i < before.size(); ++i) {
        const double g = gradients[i];
        CHECK(after[i] - before[i] == Approx(-0.5 * g / (std::abs(g) + 1e-8)).epsilon(1e-12));
    }

    Parameters<double> still;
    peft::AdamW<double> decay(still.list(), {.learning_rate = 0.5, .weight_decay = 0.1});
    decay.step();   // all gradients are zero
    const auto decayed = still.numbers();
    for (std::size_t i = 0; i < before.size(); ++i) CHECK(decayed[i] == Approx(before[i] * 0.95).epsilon(1e-14));
}

TEMPLATE_TEST_CASE("adamw: gradients of zero change nothing without decay, and a learning rate of zero never does", "", float, double) {
    using T = TestType;
    Parameters<T> parameters;
    const auto before = parameters.numbers();
    peft::AdamW<T> optimizer(parameters.list(), {.learning_rate = 0.1, .weight_decay = 0});
    optimizer.step();
    CHECK(parameters.numbers() == before);
    optimizer.set_learning_rate(0);
    parameters.set_gradients(0);
    optimizer.step();
    CHECK(parameters.numbers() == before);
}

TEMPLATE_TEST_CASE("adamw: a step raises every parameter's version, allocates nothing, and zero_grad clears", "", float, double) {
    using T = TestType;
    Parameters<T> parameters;
    peft::AdamW<T> optimizer(parameters.list());
    const auto version_a = parameters.a.version();
    const auto version_b = parameters.b.version();
    parameters.set_gradients(0);
    const std::size_t before = peft_test::allocations();
    optimizer.step();
    optimizer.zero_grad();
    optimizer.step();
    CHECK(peft_test::allocations() == before);
    CHECK(parameters.a.version() == version_a + 2);
    CHECK(parameters.b.version() == version_b + 2);
    for (const double g : parameters.gradients()) CHECK(g == 0);
}

TEMPLATE_TEST_CASE("adamw: a gradient that is not finite or too large is refused by name and changes nothing", "", float, double) {
    using T = TestType;
    for (const T bad : {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity(), -std::numeric_limits<T>::infinity(), std::numeric_limits<T>::max()}) {
        Parameters<T> parameters;
        Parameters<T> untouched;
        peft::AdamW<T> optimizer(parameters.list());
        peft::AdamW<T> twin(untouched.list());
        const auto before = parameters.numbers();
        parameters.set_gradients(0);
        parameters.b.grad()(0, 4) = bad;   // the last number of the last parameter
        REQUIRE_THROWS_AS(optimizer.step(), peft::NumericError);
        try {
            optimizer.step();
        } catch (const peft::NumericError& error) {
            CHECK_THAT(error.what(), Catch::Matchers::ContainsSubstring("adamw: step: b"));
        }
        CHECK(parameters.numbers() == before);
        CHECK(parameters.a.version() == untouched.a.version());
        CHECK(optimizer.steps() == 0);
        // the moments are untouched too: the next good step is the first
        parameters.set_gradients(3);
        untouched.set_gradients(3);
        optimizer.step();
        twin.step();
        CHECK(parameters.numbers() == untouched.numbers());
    }
}

TEST_CASE("adamw: the largest gradient that is accepted leaves moments and values finite") {
    Parameters<float> parameters;
    peft::AdamW<float> optimizer(parameters.list());
    for (int t = 0; t < 50; ++t) {
        for (float& g : parameters.a.state()->grad.flat()) g = std::sqrt(std::numeric_limits<float>::max()) / 2;
        optimizer.step();
    }
    for (const double value : parameters.numbers()) CHECK(peft::is_finite(value));
    parameters.set_gradients(0);
    optimizer.step();
    for (const double value : parameters.numbers()) CHECK(peft::is_finite(value));
}

TEST_CASE("adamw: options outside their range are refused by name") {
    Parameters<float> parameters;
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const auto refuses = [&](const peft::AdamWOptions& options, const std::string& name) {
        INFO(name);
        try {
            peft::AdamW<float> optimizer(parameters.list(), options);
            FAIL("accepted");
        } catch (const peft::OptionError& error) {
            CHECK_THAT(error.what(), Catch::Matchers::ContainsSubstring("adamw: " + name) && Catch::Matchers::ContainsSubstring("expected") && Catch::Matchers::ContainsSubstring("found"));
        }
    };
    refuses({.learning_rate = -1e-3}, "learning_rate");
    refuses({.learning_rate = nan}, "learning_rate");
    refuses({.learning_rate = std::numeric_limits<double>::infinity()}, "learning_rate");
    refuses({.beta1 = 1}, "beta1");
    refuses({.beta1 = -0.1}, "beta1");
    refuses({.beta2 = 1.5}, "beta2");
    refuses({.beta2 = nan}, "beta2");
    refuses({.beta2 = 1 - 1e-12}, "beta1, beta2");   // 1 in float: the bias correction would be right, the mean would never move
    refuses({.epsilon = 0}, "epsilon");
    refuses({.epsilon = -1e-8}, "epsilon");
    refuses({.epsilon = 1e-60}, "epsilon");
    refuses({.weight_decay = -0.01}, "weight_decay");
    peft::AdamW<float> optimizer(parameters.list());
    CHECK_THROWS_AS(optimizer.set_learning_rate(-1), peft::OptionError);
    CHECK_THROWS_AS(optimizer.set_learning_rate(nan), peft::OptionError);
    CHECK(optimizer.learning_rate() == 1e-3);
}

TEST_CASE("adamw: an empty list, a parameter given twice, one without a gradient and one that changed its size are refused") {
    Parameters<float> parameters;
    CHECK_THROWS_AS(peft::AdamW<float>(peft::ParameterList<float>{}), peft::OptionError);
    auto twice = parameters.list();
    twice.push_back({"again", parameters.a.state()});
    CHECK_THROWS_WITH(peft::AdamW<float>(twice), Catch::Matchers::ContainsSubstring("again"));
    peft::Parameter<float> without(2, 2);
    CHECK_THROWS_AS(peft::AdamW<float>(peft::ParameterList<float>{{"without", without.state()}}), peft::StateError);

    peft::AdamW<float> optimizer(parameters.list());
    parameters.b.state()->value = peft::Matrix<float>(1, 9);
    parameters.b.require_grad();
    CHECK_THROWS_AS(optimizer.step(), peft::StateError);
}
