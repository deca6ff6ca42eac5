#pragma once
#include <peft/core/error.hpp>
#include <peft/core/parameter.hpp>
#include <peft/core/scalar.hpp>
#include <peft/kernels/elementwise.hpp>
#include <peft/kernels/reduce.hpp>

#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>

PEFT_ISA_DETAIL_BEGIN

// What all optimizers check, before they change anything.

/// Throws OptionError unless the option is finite and >= 0.
inline void expect_not_negative(std::string_view option, double value) {
    if (is_finite(value) && value >= 0) return;
    throw OptionError("outside its range", {.subject = std::string(option), .expected = "a finite number >= 0", .found = to_text(value)});
}
/// Throws OptionError unless the option is finite and > 0.
inline void expect_positive(std::string_view option, double value) {
    if (is_finite(value) && value > 0) return;
    throw OptionError("outside its range", {.subject = std::string(option), .expected = "a finite number > 0", .found = to_text(value)});
}
/// Throws OptionError unless the option lies in [0, 1).
inline void expect_decay(std::string_view option, double value) {
    if (is_finite(value) && value >= 0 && value < 1) return;
    throw OptionError("outside its range", {.subject = std::string(option), .expected = "a number in [0, 1)", .found = to_text(value)});
}

/// The list itself, if an optimizer can work on it: there is something to train, each parameter has a gradient of its own
/// shape, and none comes twice (it would be stepped twice).
template <Scalar T> ParameterList<T> checked_list(std::string_view optimizer, ParameterList<T> list) {
    const auto subject = [&](const std::string& name) { return std::string(optimizer) + ": " + name; };
    if (list.empty()) throw OptionError("there is nothing to train", {.subject = subject("parameters"), .expected = "at least one parameter", .found = "none"});
    for (std::size_t i = 0; i < list.size(); ++i) {
        if (list[i].state == nullptr || list[i].grad().size() != list[i].size()) {
            throw StateError("the parameter has no gradient", {.subject = subject(list[i].name), .expected = "require_grad() before the optimizer is made"});
        }
        for (std::size_t k = 0; k < i; ++k) {
            if (list[k].state != list[i].state) continue;
            throw OptionError("a parameter is given twice", {.subject = subject(list[i].name), .expected = "each parameter once", .found = "numbers " + std::to_string(k) + " and " + std::to_string(i) + " of the list"});
        }
    }
    return list;
}

/// Throws, naming the parameter, NumericError if a gradient holds NaN, infinity or a magnitude above `limit`, and
/// StateError if a parameter is not as large as it was (`size_of(i)`) when the optimizer was made.
template <Scalar T, class SizeOf> void expect_usable_gradients(std::string_view optimizer, const ParameterList<T>& list, T limit, SizeOf&& size_of) {
    for (std::size_t i = 0; i < list.size(); ++i) {
        const auto subject = [&] { return std::string(optimizer) + ": " + list[i].name; };
        if (list[i].size() != size_of(i) || list[i].grad().size() != size_of(i)) {
            throw StateError("the parameter changed its size; nothing was changed", {.subject = subject(), .expected = std::to_string(size_of(i)) + " numbers", .found = std::to_string(list[i].size())});
        }
        const std::span<const T> grad = list[i].grad();
        if (!all_finite(grad)) throw NumericError("the gradient holds NaN or infinity; nothing was changed", {.subject = subject(), .expected = "finite numbers"});
        if (const T largest = max_abs(grad); largest > limit) {
            throw NumericError("the gradient is too large; nothing was changed", {.subject = subject(), .expected = "magnitudes up to " + to_text(limit), .found = to_text(largest)});
        }
    }
}

template <Scalar T> void zero_gradients(const ParameterList<T>& list) {
    for (const ParameterRef<T>& parameter : list) parameter.state->grad.set_zero();
}

PEFT_ISA_DETAIL_END
