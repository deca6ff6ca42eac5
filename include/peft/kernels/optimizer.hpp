#pragma once
#include <peft/core/scalar.hpp>

#include <cmath>
#include <cstddef>
#include <span>
#include <type_traits>

PEFT_BEGIN

/// Numbers of one AdamW step: bias1 = 1 - beta1^t, bias2 = 1 - beta2^t.
template <Scalar T> struct AdamWStep {
    T learning_rate = 0;
    T beta1 = 0;
    T beta2 = 0;
    T epsilon = 0;
    T weight_decay = 0;
    T bias1 = 1;
    T bias2 = 1;
};

/// Numbers of one SGD step.
template <Scalar T> struct SgdStep {
    T learning_rate = 0;
    T momentum = 0;
    T weight_decay = 0;
    bool nesterov = false;
};

PEFT_END

PEFT_ISA_BEGIN

/// value -= lr * weight_decay * value; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
/// value -= lr * (m / bias1) / (sqrt(v / bias2) + epsilon). All spans have one length.
/// Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, with the decay applied first as torch.optim.AdamW does.
template <Scalar T>
void adamw_update(std::span<T> value, std::type_identity_t<std::span<const T>> grad, std::span<T> m, std::span<T> v,
                  const std::type_identity_t<AdamWStep<T>>& step) {
    for (std::size_t i = 0; i < value.size(); ++i) {
        m[i] = step.beta1 * m[i] + (1 - step.beta1) * grad[i];
        v[i] = step.beta2 * v[i] + (1 - step.beta2) * grad[i] * grad[i];
        value[i] -= step.learning_rate * step.weight_decay * value[i];
        value[i] -= step.learning_rate * (m[i] / step.bias1) / (std::sqrt(v[i] / step.bias2) + step.epsilon);
    }
}

/// g += weight_decay * value; velocity = momentum * velocity + g; g = nesterov ? g + momentum * velocity : velocity;
/// value -= lr * g. The velocity starts at zero. With momentum = 0 it is not touched and may be empty.
/// Source: torch.optim.SGD, dampening = 0 (its first step, velocity = g, is the same for a velocity of zero).
template <Scalar T>
void sgd_update(std::span<T> value, std::type_identity_t<std::span<const T>> grad, std::type_identity_t<std::span<T>> velocity,
                const std::type_identity_t<SgdStep<T>>& step) {
    for (std::size_t i = 0; i < value.size(); ++i) {
        T g = grad[i] + step.weight_decay * value[i];
        if (step.momentum != 0) {
            velocity[i] = step.momentum * velocity[i] + g;
            g = step.nesterov ? g + step.momentum * velocity[i] : velocity[i];
        }
        value[i] -= step.learning_rate * g;
    }
}

PEFT_ISA_END
