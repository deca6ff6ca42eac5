#include "support/catch.hpp"

#include "support/allocation_counter.hpp"
#include "optim/reference.hpp"

#include <peft/optim/clip.hpp>

#include <limits>

using optim_test::Parameters;

namespace {
template <class T> double norm_of(const Parameters<T>& parameters) {
    double sum = 0;
    for (const double g : parameters.gradients()) sum += g * g;
    return std::sqrt(sum);
}
}  // namespace

TEMPLATE_TEST_CASE("clip: the norm over all parameters is returned, and gradients above the limit are scaled to it", "", float, double) {
    using T = TestType;
    const double eps = std::numeric_limits<T>::epsilon();
    Parameters<T> parameters;
    auto list = parameters.list();
    parameters.set_gradients(2);
    const auto before = parameters.gradients();
    const double norm = norm_of(parameters);

    CHECK(peft::clip_by_norm(list, norm * 1.01) == Approx(norm).epsilon(1e-14));
    CHECK(parameters.gradients() == before);
    CHECK(peft::clip_by_norm(list, std::numeric_limits<double>::max()) == Approx(norm).epsilon(1e-14));
    CHECK(parameters.gradients() == before);

    CHECK(peft::clip_by_norm(list, norm * 0.99) == Approx(norm).epsilon(1e-14));
    CHECK(norm_of(parameters) == Approx(norm * 0.99).epsilon(4 * eps));
    parameters.set_gradients(2);

    const std::size_t allocated = peft_test::allocations();
    const double returned = peft::clip_by_norm(list, 0.25);
    CHECK(peft_test::allocations() == allocated);
    CHECK(returned == Approx(norm).epsilon(1e-14));
    CHECK(norm_of(parameters) == Approx(0.25).epsilon(4 * eps));
    const auto after = parameters.gradients();
    for (std::size_t i = 0; i < after.size(); ++i) CHECK(after[i] == Approx(before[i] * 0.25 / norm).epsilon(4 * eps));
}

TEST_CASE("clip: gradients of zero stay zero, and very large and very small ones have a norm too") {
    Parameters<double> parameters;
    CHECK(peft::clip_by_norm(parameters.list(), 1) == 0);
    for (const double size : {1e-300, 1e-200, 1e200, 1e300}) {
        for (double& g : parameters.a.state()->grad.flat()) g = 0;
        parameters.a.grad()(0, 0) = 3 * size;
        parameters.a.grad()(2, 6) = -4 * size;
        CHECK(peft::clip_by_norm(parameters.list(), 1) == Approx(5 * size).epsilon(1e-14));
    }
    CHECK(norm_of(parameters) == Approx(1).epsilon(1e-14));
}

TEMPLATE_TEST_CASE("clip: a gradient that is not finite is refused by name and nothing is scaled", "", float, double) {
    using T = TestType;
    Parameters<T> parameters;
    parameters.set_gradients(1);
    parameters.b.grad()(0, 0) = std::numeric_limits<T>::infinity();
    const auto before = parameters.gradients();
    CHECK_THROWS_WITH(peft::clip_by_norm(parameters.list(), 1e-3), Catch::Matchers::ContainsSubstring("clip_by_norm: b"));
    CHECK(parameters.gradients() == before);
}

TEST_CASE("clip: a limit that is not positive and finite is refused") {
    Parameters<float> parameters;
    for (const double limit : {0.0, -1.0, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) CHECK_THROWS_AS(peft::clip_by_norm(parameters.list(), limit), peft::OptionError);
}
