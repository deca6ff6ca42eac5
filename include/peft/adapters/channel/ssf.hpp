#pragma once
#include <peft/core/hf_format.hpp>
#include <peft/core/random.hpp>
#include <peft/forms/channel.hpp>

#include <cstdint>

PEFT_ISA_BEGIN

/// SSF: y = g * (x W^T + b) + t, a trained scale g and shift t for each output. Merged: W' = diag(g) W, b' = g * b + t
/// (a base without a bias gets one). Trains 2 * out numbers.
/// g starts at one and t at zero, so a fresh adapter changes nothing; the official code draws g ~ N(1, 0.02^2) and
/// t ~ N(0, 0.02^2), which random_start asks for. Throws OptionError when deviation is negative or not finite.
/// Source: Lian et al. 2022, arXiv:2210.08823, eqs. 3 to 5; dongzelian/SSF, init_ssf_scale_shift.
template <Scalar T> class SSF {
public:
    using value_type = T;
    struct Options {
        bool random_start = false;
        double deviation = 0.02;
        std::uint64_t seed = 0;
    };
    using Cache = channel::Cache<T>;

    explicit SSF(LayerShape shape, const Options& options = {}) : options_(options), shape_(shape), scale_(1, shape.out), shift_(1, shape.out) {
        if (!(options.deviation >= 0) || !is_finite(options.deviation)) {
            throw OptionError("not a deviation", {.subject = "ssf: deviation", .expected = "a finite number >= 0", .found = detail::to_text(options.deviation)});
        }
        fill<T>(T(1), scale_.value());
    }

    LayerShape shape() const noexcept { return shape_; }
    const Options& options() const noexcept { return options_; }
    bool changes_bias() const noexcept { return true; }

    void start(const BaseView<T>&, std::uint64_t stream) {
        if (!options_.random_start || scale_.version() != 0) return;
        fill_normal<T>({options_.seed, stream, Purpose::parameters, 0}, 1.0, options_.deviation, scale_.state()->value.flat());
        fill_normal<T>({options_.seed, stream, Purpose::parameters, 1}, 0.0, options_.deviation, shift_.state()->value.flat());
        scale_.touch();
        shift_.touch();
    }

    void adapt_output(const Call<SSF>& call, MatrixView<const T>, MatrixView<T> y) const {
        channel::forward_output<SSF, T>(call, scale_.flat(), shift_.flat(), y, call.cache);
    }
    void backward_output(const Call<SSF>& call, MatrixView<const T>, MatrixView<T> dy, MatrixView<T>) {
        channel::backward_output<T>(scale_.flat(), scale_.grad().row_span(0), shift_.grad().row_span(0), dy, call.cache);
    }
    PlanPointer<T> plan(const BaseView<T>&, const detail::Nothing&) const {
        using Plan = channel::Plan<T>;
        return std::make_shared<Plan>(shape_, Plan::Side::output, scale_.flat(), shift_.flat(), "ssf_scale", "ssf_shift");
    }

    template <class Self, class Visitor> static void each_tensor(Self& self, Visitor&& visit) {
        visit("ssf_scale", self.scale_, Role::trained, TensorShape::of(self.shape_.out));
        visit("ssf_shift", self.shift_, Role::trained, TensorShape::of(self.shape_.out));
    }

private:
    Options options_;
    LayerShape shape_;
    Parameter<T> scale_;
    Parameter<T> shift_;
};

PEFT_ISA_END

PEFT_BEGIN

/// Upstream has no SSF: the type string makes it refuse the file by name.
template <Scalar T> struct hf_format<SSF<T>> {
    using O = typename SSF<T>::Options;
    static constexpr std::string_view peft_type = "X_SSF";
    static constexpr std::array keys{TensorKey{"ssf_scale", "ssf_scale"}, TensorKey{"ssf_shift", "ssf_shift"}};
    static constexpr std::tuple fields{ConfigField{"init_ssf_random", &O::random_start}, ConfigField{"init_ssf_deviation", &O::deviation}};
};

PEFT_END
