#pragma once
#include <peft/core/scalar.hpp>
#include <peft/simd/loop.hpp>

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

PEFT_ISA_DETAIL_BEGIN

template <class T> struct AdamWOp {
    using Number = T;
    T* value;
    const T* grad;
    T* m;
    T* v;
    AdamWStep<T> step;
    template <class At> PEFT_INLINE void operator()(const At& at, std::size_t) const noexcept {
        const auto g = at.load(grad);
        auto first = at.load(m) * at.splat(step.beta1);
        first.add_product(g, at.splat(1 - step.beta1));
        auto second = at.load(v) * at.splat(step.beta2);
        second.add_product(g * at.splat(1 - step.beta2), g);
        const auto divisor = square_root(second / at.splat(step.bias2)) + at.splat(step.epsilon);
        auto x = at.load(value);
        x.add_product(x, at.splat(-step.learning_rate * step.weight_decay));
        x = x - at.splat(step.learning_rate / step.bias1) * first / divisor;
        at.store(m, first);
        at.store(v, second);
        at.store(value, x);
    }
};

template <class T> struct SgdOp {
    using Number = T;
    T* value;
    const T* grad;
    T* velocity;   ///< null without momentum
    SgdStep<T> step;
    template <class At> PEFT_INLINE void operator()(const At& at, std::size_t) const noexcept {
        auto x = at.load(value);
        auto g = at.load(grad);
        g.add_product(x, at.splat(step.weight_decay));
        if (velocity != nullptr) {
            auto moved = g;
            moved.add_product(at.load(velocity), at.splat(step.momentum));
            at.store(velocity, moved);
            if (step.nesterov) g.add_product(moved, at.splat(step.momentum));
            else g = moved;
        }
        x.add_product(g, at.splat(-step.learning_rate));
        at.store(value, x);
    }
};

PEFT_ISA_DETAIL_END

PEFT_ISA_BEGIN

/// value -= lr * weight_decay * value; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
/// value -= lr * (m / bias1) / (sqrt(v / bias2) + epsilon). All spans have one length.
/// Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, with the decay applied first as torch.optim.AdamW does.
template <Scalar T>
void adamw_update(std::span<T> value, std::type_identity_t<std::span<const T>> grad, std::span<T> m, std::span<T> v,
                  const std::type_identity_t<AdamWStep<T>>& step) {
    PEFT_EXPECTS(grad.size() == value.size() && m.size() == value.size() && v.size() == value.size());
    detail::map_elements(1, value.size(), detail::AdamWOp<T>{value.data(), grad.data(), m.data(), v.data(), step});
}

/// g += weight_decay * value; velocity = momentum * velocity + g; g = nesterov ? g + momentum * velocity : velocity;
/// value -= lr * g. The velocity starts at zero. With momentum = 0 it is not touched and may be empty.
/// Source: torch.optim.SGD, dampening = 0 (its first step, velocity = g, is the same for a velocity of zero).
template <Scalar T>
void sgd_update(std::span<T> value, std::type_identity_t<std::span<const T>> grad, std::type_identity_t<std::span<T>> velocity,
                const std::type_identity_t<SgdStep<T>>& step) {
    PEFT_EXPECTS(grad.size() == value.size() && (step.momentum == 0 || velocity.size() == value.size()));
    detail::map_elements(1, value.size(), detail::SgdOp<T>{value.data(), grad.data(), step.momentum != 0 ? velocity.data() : nullptr, step});
}

PEFT_ISA_END
