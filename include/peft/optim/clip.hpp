#pragma once
#include <peft/optim/checked_list.hpp>

PEFT_ISA_BEGIN

/// Scales all gradients by max_norm / ||g|| when the norm over all of them, sqrt(sum g^2), exceeds max_norm; returns the norm
/// before. Sums are made in double and in the order of the list: the same result whatever the number of threads.
/// Throws OptionError unless max_norm is positive and finite, NumericError naming the parameter, with nothing changed, when a
/// gradient is not finite.
/// Source: Pascanu et al. 2013, arXiv:1211.5063, algorithm 1 (torch.nn.utils.clip_grad_norm_ divides by ||g|| + 1e-6).
template <Scalar T> double clip_by_norm(const ParameterList<T>& parameters, double max_norm) {
    detail::expect_positive("clip_by_norm: max_norm", max_norm);
    detail::expect_usable_gradients<T>("clip_by_norm", parameters, std::numeric_limits<T>::max(), [&](std::size_t i) { return parameters[i].size(); });
    double sum = 0;
    for (const ParameterRef<T>& parameter : parameters) sum += sum_of_squares(parameter.grad());
    double norm = std::sqrt(sum);
    // Squares of doubles leave the range where the norm itself does not (below 2^-480 they become subnormal): measure
    // again in units of the largest element.
    if (!is_finite(sum) || norm < 0x1p-480) {
        double largest = 0;
        for (const ParameterRef<T>& parameter : parameters) largest = std::fmax(largest, static_cast<double>(max_abs(parameter.grad())));
        if (largest == 0) return 0;
        sum = 0;
        for (const ParameterRef<T>& parameter : parameters) {
            for (const T g : parameter.grad()) sum += (static_cast<double>(g) / largest) * (static_cast<double>(g) / largest);
        }
        norm = largest * std::sqrt(sum);
    }
    if (norm > max_norm) {
        const double factor = max_norm / norm;
        for (const ParameterRef<T>& parameter : parameters) scale<T>(static_cast<T>(factor), parameter.grad());
    }
    return norm;
}

PEFT_ISA_END
