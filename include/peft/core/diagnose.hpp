#pragma once
#include <peft/core/concepts.hpp>

PEFT_ISA_DETAIL_BEGIN

/// One readable message for each requirement of Linear that B misses.
template <class B> consteval bool diagnose_linear() {
    constexpr bool named = requires { typename linear_access<B>::value_type; };
    static_assert(named, "peft: the base is no Linear: it has no value_type (float or double); a third-party layer opts in by specialising peft::linear_access");
    if constexpr (named) {
        using T = typename linear_access<B>::value_type;
        static_assert(Scalar<T>, "peft: the base is no Linear: its value_type is neither float nor double");
        static_assert(requires(const B& b) { { linear_access<B>::shape(b) } -> std::convertible_to<LayerShape>; },
                      "peft: the base is no Linear: it has no shape() that gives a LayerShape");
        static_assert(requires(const B& b) { { linear_access<B>::bias(b) } -> std::convertible_to<std::span<const T>>; },
                      "peft: the base is no Linear: it has no bias() that gives a span (empty when there is none)");
        static_assert(requires(const B& b, MatrixView<const T> x, MatrixView<T> y) { linear_access<B>::forward(b, x, y); },
                      "peft: the base is no Linear: it has no const forward(MatrixView<const T> x, MatrixView<T> y)");
        static_assert(requires(const B& b, MatrixView<const T> dy, MatrixView<T> dx) { linear_access<B>::backward_input(b, dy, dx); },
                      "peft: the base is no Linear: it has no const backward_input(MatrixView<const T> dy, MatrixView<T> dx)");
    }
    return Linear<B>;
}

/// One readable message for each requirement of Adapter that M misses.
template <class M> consteval bool diagnose_adapter() {
    constexpr bool named = requires { typename M::value_type; };
    static_assert(named, "peft: this is no method: it has no value_type (float or double)");
    if constexpr (named) {
        static_assert(requires { typename M::Options; }, "peft: this is no method: it has no Options");
        static_assert(requires(const M& m) { { m.shape() } -> std::convertible_to<LayerShape>; }, "peft: this is no method: it has no shape() that gives a LayerShape");
        static_assert(requires(const M& m) { m.options(); }, "peft: this is no method: it has no options()");
        static_assert(OutputAdapter<M> || InputAdapter<M>,
                      "peft: this is no method: it has neither adapt_output and backward_output nor adapt_input and backward_input");
        static_assert(requires(const M& m) { M::each_tensor(m, [](std::string_view, const auto&, Role, TensorShape = {}) {}); },
                      "peft: this is no method: it has no static each_tensor(self, visit)");
    }
    return Adapter<M>;
}

PEFT_ISA_DETAIL_END
