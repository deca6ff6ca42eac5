#include "support/catch.hpp"

#include "support/allocation_counter.hpp"
#include "optim/reference.hpp"

#include <peft/optim/sgd.hpp>

#include <limits>

using optim_test::Parameters;
using optim_test::SgdReference;

TEMPLATE_TEST_CASE("sgd: ten steps agree with the formula in double, plain, with momentum and with nesterov", "", float, double) {
    using T = TestType;
    for (const peft::SGDOptions& options : {peft::SGDOptions{.learning_rate = 0.03}, peft::SGDOptions{.learning_rate = 0.03, .weight_decay = 0.2},
                                            peft::SGDOptions{.learning_rate = 0.03, .momentum = 0.9, .weight_decay = 0.01},
                                            peft::SGDOptions{.learning_rate = 0.03, .momentum = 0.9, .weight_decay = 0.01, .nesterov = true}}) {
        Parameters<T> parameters;
        peft::SGD<T> optimizer(parameters.list(), options);
        std::vector<double> expected = parameters.numbers();
        std::vector<SgdReference> reference(expected.size(), {options.learning_rate, options.momentum, options.weight_decay, options.nesterov});
        const double eps = std::numeric_limits<T>::epsilon();
        for (int t = 0; t < 10; ++t) {
            parameters.set_gradients(t);
            const auto gradients = parameters.gradients();
            optimizer.step();
            const auto found = parameters.numbers();
            for (std::size_t i = 0; i < found.size(); ++i) {
                expected[i] = reference[i].step(expected[i], gradients[i]);
                // a velocity is at most |g| / (1 - momentum) <= 3 / 0.1 and rounds three times a step
                const double tolerance = (t + 1) * eps * (std::abs(expected[i]) + 2 + options.learning_rate * 30 * 6);
                INFO("step " << t << " number " << i << " momentum " << options.momentum);
                REQUIRE(std::abs(found[i] - expected[i]) <= tolerance);
            }
        }
    }
}

TEMPLATE_TEST_CASE("sgd: a step raises every parameter's version, allocates nothing, and zero_grad clears", "", float, double) {
    using T = TestType;
    for (const double momentum : {0.0, 0.9}) {
        Parameters<T> parameters;
        peft::SGD<T> optimizer(parameters.list(), {.momentum = momentum});
        const auto version = parameters.a.version();
        parameters.set_gradients(0);
        const std::size_t before = peft_test::allocations();
        optimizer.step();
        optimizer.zero_grad();
        optimizer.step();
        CHECK(peft_test::allocations() == before);
        CHECK(parameters.a.version() == version + 2);
        for (const double g : parameters.gradients()) CHECK(g == 0);
    }
}

TEMPLATE_TEST_CASE("sgd: a gradient that is not finite is refused by name and changes nothing", "", float, double) {
    using T = TestType;
    for (const T bad : {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity()}) {
        Parameters<T> parameters;
        peft::SGD<T> optimizer(parameters.list(), {.momentum = 0.9});
        const auto before = parameters.numbers();
        parameters.set_gradients(0);
        parameters.b.grad()(0, 2) = bad;
        CHECK_THROWS_WITH(optimizer.step(), Catch::Matchers::ContainsSubstring("sgd: step: b"));
        CHECK(parameters.numbers() == before);
        CHECK(optimizer.steps() == 0);
    }
}

TEST_CASE("sgd: options outside their range are refused by name") {
    Parameters<double> parameters;
    const auto refuses = [&](const peft::SGDOptions& options, const std::string& name) {
        CHECK_THROWS_WITH(peft::SGD<double>(parameters.list(), options), Catch::Matchers::ContainsSubstring("sgd: " + name));
    };
    refuses({.learning_rate = -1}, "learning_rate");
    refuses({.momentum = 1}, "momentum");
    refuses({.momentum = std::numeric_limits<double>::quiet_NaN()}, "momentum");
    refuses({.weight_decay = -1}, "weight_decay");
    refuses({.nesterov = true}, "momentum");
}
