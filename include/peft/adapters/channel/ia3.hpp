#pragma once
#include <peft/core/hf_format.hpp>
#include <peft/forms/channel.hpp>

PEFT_ISA_BEGIN

/// (IA)^3: one factor per channel. y = l * (x W^T + b) with l (out), or, for feed-forward layers, y = (l * x) W^T + b with
/// l (in). l starts at one, so a fresh adapter changes nothing. Merged: rows of W and b times l, or columns of W times l.
/// Trains out numbers, or in. (Upstream's unmerge divides by l + 1e-8 and does not restore the weights; ours does.)
/// Source: Liu et al. 2022, arXiv:2205.05638, section 3.3.
template <Scalar T> class IA3 {
public:
    using value_type = T;
    struct Options {
        bool feedforward = false;   ///< scale the input instead of the output
    };
    using Cache = channel::Cache<T>;

    explicit IA3(LayerShape shape, const Options& options = {})
        : options_(options), shape_(shape), l_(1, options.feedforward ? shape.in : shape.out) {
        fill<T>(T(1), l_.value());
    }

    LayerShape shape() const noexcept { return shape_; }
    const Options& options() const noexcept { return options_; }
    bool adapts_input() const noexcept { return options_.feedforward; }
    bool adapts_output() const noexcept { return !options_.feedforward; }
    bool changes_bias() const noexcept { return !options_.feedforward; }

    void adapt_input(const Call<IA3>&, MatrixView<const T> x, MatrixView<T> z) const { channel::forward_input<T>(l_.flat(), x, z); }
    void backward_input(const Call<IA3>& call, MatrixView<const T> x, MatrixView<const T> dz, MatrixView<T> dx) {
        channel::backward_input<IA3, T>(call, l_.flat(), l_.grad().row_span(0), x, dz, dx);
    }
    void adapt_output(const Call<IA3>& call, MatrixView<const T>, MatrixView<T> y) const {
        channel::forward_output<IA3, T>(call, l_.flat(), {}, y, call.cache);
    }
    void backward_output(const Call<IA3>& call, MatrixView<const T>, MatrixView<T> dy, MatrixView<T>) {
        channel::backward_output<T>(l_.flat(), l_.grad().row_span(0), {}, dy, call.cache);
    }
    PlanPointer<T> plan(const BaseView<T>&, const detail::Nothing&) const {
        using Plan = channel::Plan<T>;
        return std::make_shared<Plan>(shape_, options_.feedforward ? Plan::Side::input : Plan::Side::output, l_.flat(), std::span<const T>(), "ia3_l", "");
    }

    template <class Self, class Visitor> static void each_tensor(Self& self, Visitor&& visit) {
        const std::size_t count = self.l_.cols();
        visit("ia3_l", self.l_, Role::trained, self.options_.feedforward ? TensorShape::of(1, count) : TensorShape::of(count, 1));
    }

private:
    Options options_;
    LayerShape shape_;
    Parameter<T> l_;
};

PEFT_ISA_END

PEFT_BEGIN

template <Scalar T> struct hf_format<IA3<T>> {
    static constexpr std::string_view peft_type = "IA3";
    static constexpr std::array keys{TensorKey{"ia3_l", "ia3_l"}};
    static constexpr std::tuple fields{ConfigField{"feedforward_modules", &IA3<T>::Options::feedforward, Scope::members}};
};

PEFT_END
