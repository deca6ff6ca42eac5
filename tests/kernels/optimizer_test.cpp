#include <peft/kernels/optimizer.hpp>

#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/reference.hpp"

#include <cmath>
#include <limits>
#include <vector>

using namespace peft;
using namespace peft::test;

namespace {
using L = long double;

/// The largest error of `found` in units of eps * (|wanted| + |start|): start is the number that was updated.
template <class T> L worst(std::span<const T> found, const std::vector<L>& wanted, const std::vector<L>& start) {
    L result = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        const L scale = std::fabs(wanted[i]) + std::fabs(start[i]) + static_cast<L>(std::numeric_limits<T>::min());
        result = std::max(result, std::fabs(static_cast<L>(found[i]) - wanted[i]) / (scale * static_cast<L>(std::numeric_limits<T>::epsilon())));
    }
    return result;
}
template <class T> std::vector<L> as_exact(std::span<const T> from) { return std::vector<L>(from.begin(), from.end()); }
const std::size_t counts[] = {0, 1, 3, 7, 8, 9, 15, 16, 17, 50, 64, 65, 1000};
}  // namespace

TEMPLATE_TEST_CASE("AdamW steps follow the formula, decay first", "", float, double) {
    using T = TestType;
    for (const std::size_t count : counts) {
        Guarded<T> value(1, count, {1, 0}), grad(1, count, {3, 0}), m(1, count), v(1, count, {1, 0});
        value.randomize(1);
        m.randomize(3);
        v.randomize(4);
        for (T& square : v.span()) square = std::fabs(square);
        for (int t = 1; t <= 3; ++t) {
            grad.randomize(10 + static_cast<std::uint64_t>(t));
            AdamWStep<T> step{T(0.01), T(0.9), T(0.999), T(1e-8), T(0.1), T{1}, T{1}};
            step.bias1 = 1 - static_cast<T>(std::pow(step.beta1, static_cast<T>(t)));
            step.bias2 = 1 - static_cast<T>(std::pow(step.beta2, static_cast<T>(t)));
            std::vector<L> x = as_exact(value.read_span()), first = as_exact(m.read_span()), second = as_exact(v.read_span());
            const std::vector<L> x0 = x, first0 = first, second0 = second;
            for (std::size_t i = 0; i < count; ++i) {
                const L g = static_cast<L>(grad.read()(0, i));
                first[i] = static_cast<L>(step.beta1) * first[i] + static_cast<L>(1 - step.beta1) * g;
                second[i] = static_cast<L>(step.beta2) * second[i] + static_cast<L>(1 - step.beta2) * g * g;
                x[i] -= static_cast<L>(step.learning_rate) * static_cast<L>(step.weight_decay) * x[i];
                x[i] -= static_cast<L>(step.learning_rate) * (first[i] / static_cast<L>(step.bias1)) /
                        (std::sqrt(second[i] / static_cast<L>(step.bias2)) + static_cast<L>(step.epsilon));
            }
            adamw_update(value.span(), grad.read_span(), m.span(), v.span(), step);
            INFO("count " << count << ", step " << t);
            // m and v: two products and a sum. value: about ten roundings of the change, which stays below |value| + |start| here
            // unless the square root is tiny; m may cancel, so the change carries the error of m times lr / sqrt(v).
            CHECK(worst(m.read_span(), first, first0) <= 4);
            CHECK(worst(v.read_span(), second, second0) <= 4);
            L error = 0;
            for (std::size_t i = 0; i < count; ++i) {
                const L root = std::sqrt(second[i] / static_cast<L>(step.bias2)) + static_cast<L>(step.epsilon);
                const L size = static_cast<L>(step.learning_rate) / static_cast<L>(step.bias1) * (std::fabs(first[i]) + std::fabs(first0[i])) / root;
                const L scale = std::fabs(x0[i]) + size;
                error = std::max(error, std::fabs(static_cast<L>(value.read()(0, i)) - x[i]) / (scale * static_cast<L>(std::numeric_limits<T>::epsilon())));
            }
            CHECK(error <= 16);
            CHECK((value.intact() && m.intact() && v.intact() && grad.intact()));
        }
    }
}

TEMPLATE_TEST_CASE("AdamW with a zero gradient from zero moments only decays", "", float, double) {
    using T = TestType;
    std::vector<T> value{T{1}, T{-2}, T{0}}, grad(3), m(3), v(3);
    adamw_update(std::span<T>(value), grad, std::span<T>(m), std::span<T>(v),
                 {.learning_rate = T{0.5}, .beta1 = T{0.5}, .beta2 = T{0.5}, .epsilon = T{0.0009765625}, .weight_decay = T{0.25}, .bias1 = T{0.5}, .bias2 = T{0.5}});
    CHECK(value == std::vector<T>{T{0.875}, T{-1.75}, T{0}});
    CHECK(m == std::vector<T>(3));
}

TEMPLATE_TEST_CASE("SGD steps follow the formula with momentum, Nesterov momentum and decay", "", float, double) {
    using T = TestType;
    for (const std::size_t count : counts) {
        for (const T momentum : {T{0}, T{0.875}}) {
            for (const bool nesterov : {false, true}) {
                Guarded<T> value(1, count, {3, 0}), grad(1, count, {1, 0}), velocity(1, momentum == 0 ? 0 : count, {1, 0});
                value.randomize(1);
                const SgdStep<T> step{T{0.125}, momentum, T{0.0625}, nesterov && momentum != 0};
                for (std::uint64_t t = 0; t < 3; ++t) {
                    grad.randomize(10 + t);
                    std::vector<L> x = as_exact(value.read_span()), speed = as_exact(velocity.read_span());
                    std::vector<L> scale(count), speed_scale(speed.size());
                    for (std::size_t i = 0; i < count; ++i) {
                        const L decayed = static_cast<L>(step.weight_decay) * x[i];
                        L g = static_cast<L>(grad.read()(0, i));
                        scale[i] = 2 * (std::fabs(g) + std::fabs(x[i]));
                        g += decayed;
                        if (momentum != 0) {
                            scale[i] += 2 * std::fabs(speed[i]);
                            speed_scale[i] = scale[i];
                            speed[i] = static_cast<L>(momentum) * speed[i] + g;
                            g = step.nesterov ? g + static_cast<L>(momentum) * speed[i] : speed[i];
                        }
                        x[i] -= static_cast<L>(step.learning_rate) * g;
                    }
                    sgd_update(value.span(), grad.read_span(), velocity.span(), step);
                    INFO("count " << count << ", momentum " << momentum << ", nesterov " << nesterov << ", step " << t);
                    CHECK(worst(value.read_span(), x, scale) <= 4);
                    CHECK(worst(velocity.read_span(), speed, speed_scale) <= 4);
                    CHECK((value.intact() && velocity.intact() && grad.intact()));
                }
            }
        }
    }
}
