#pragma once
#include <peft/kernels/optimizer.hpp>
#include <peft/optim/checked_list.hpp>

#include <cstdint>
#include <vector>

PEFT_BEGIN

struct AdamWOptions {
    double learning_rate = 1e-3;
    double beta1 = 0.9;
    double beta2 = 0.999;
    double epsilon = 1e-8;
    double weight_decay = 0.01;
};

PEFT_END

PEFT_ISA_BEGIN

/// AdamW over the trained tensors of one or more layers: decay of the weights apart from the gradient,
/// value *= 1 - lr * weight_decay; value -= lr * m^ / (sqrt(v^) + epsilon), with m^ and v^ the bias-corrected running means
/// of g and g^2. step() uses the gradients that backward accumulated, zero_grad() clears them. Keeps two numbers for each
/// trained one and allocates only when it is made.
/// Throws OptionError for an option outside its range, an empty list or a parameter given twice.
/// Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, in the form of torch.optim.AdamW.
template <Scalar T> class AdamW {
public:
    using value_type = T;
    using Options = AdamWOptions;

    explicit AdamW(ParameterList<T> parameters, const Options& options = {})
        : options_(checked(options)), parameters_(detail::checked_list<T>("adamw", std::move(parameters))) {
        moments_.reserve(parameters_.size());
        for (const ParameterRef<T>& parameter : parameters_) moments_.push_back({Matrix<T>(1, parameter.size()), Matrix<T>(1, parameter.size())});
    }
    AdamW(AdamW&&) noexcept = default;
    AdamW& operator=(AdamW&&) noexcept = default;
    AdamW(const AdamW&) = delete;              // two optimizers over the same parameters are a mistake
    AdamW& operator=(const AdamW&) = delete;

    /// One step with the gradients as they are. Throws NumericError naming the parameter, with nothing changed, when a
    /// gradient is not finite or its square would overflow.
    void step() {
        // half of the root of the largest number: then v, a mean of squares, stays finite
        const T limit = std::sqrt(std::numeric_limits<T>::max()) / 2;
        detail::expect_usable_gradients<T>("adamw: step", parameters_, limit, [this](std::size_t i) { return moments_[i].first.size(); });
        ++steps_;
        const auto t = static_cast<double>(steps_);
        const AdamWStep<T> numbers{
            .learning_rate = static_cast<T>(options_.learning_rate),
            .beta1 = static_cast<T>(options_.beta1),
            .beta2 = static_cast<T>(options_.beta2),
            .epsilon = static_cast<T>(options_.epsilon),
            .weight_decay = static_cast<T>(options_.weight_decay),
            .bias1 = static_cast<T>(1 - std::pow(options_.beta1, t)),
            .bias2 = static_cast<T>(1 - std::pow(options_.beta2, t)),
        };
        for (std::size_t i = 0; i < parameters_.size(); ++i) {
            adamw_update<T>(parameters_[i].value(), parameters_[i].grad(), moments_[i].first.flat(), moments_[i].second.flat(), numbers);
            parameters_[i].touch();
        }
    }
    void zero_grad() { detail::zero_gradients(parameters_); }

    double learning_rate() const noexcept { return options_.learning_rate; }
    /// For schedules. Throws OptionError when negative or not finite.
    void set_learning_rate(double learning_rate) {
        detail::expect_not_negative("adamw: learning_rate", learning_rate);
        options_.learning_rate = learning_rate;
    }
    const Options& options() const noexcept { return options_; }
    const ParameterList<T>& parameters() const noexcept { return parameters_; }
    /// Steps done.
    std::uint64_t steps() const noexcept { return steps_; }

private:
    struct Moments {
        Matrix<T> first;
        Matrix<T> second;
    };

    static const Options& checked(const Options& options) {
        detail::expect_not_negative("adamw: learning_rate", options.learning_rate);
        detail::expect_decay("adamw: beta1", options.beta1);
        detail::expect_decay("adamw: beta2", options.beta2);
        detail::expect_positive("adamw: epsilon", options.epsilon);
        detail::expect_not_negative("adamw: weight_decay", options.weight_decay);
        // A parameter whose gradient never left zero divides 0 by epsilon: it must not vanish in T.
        if (!(static_cast<T>(options.epsilon) > 0)) {
            throw OptionError("too small for the type it is computed in", {.subject = "adamw: epsilon", .expected = "a positive number of the compute type", .found = detail::to_text(options.epsilon)});
        }
        if (!(static_cast<T>(options.beta1) < 1 && static_cast<T>(options.beta2) < 1)) {
            throw OptionError("rounds to 1 in the type it is computed in", {.subject = "adamw: beta1, beta2", .expected = "numbers in [0, 1)",
                              .found = detail::to_text(options.beta1) + " and " + detail::to_text(options.beta2)});
        }
        return options;
    }

    Options options_;
    ParameterList<T> parameters_;
    std::vector<Moments> moments_;
    std::uint64_t steps_ = 0;
};

PEFT_ISA_END
