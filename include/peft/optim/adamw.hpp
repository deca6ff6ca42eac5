#pragma once
#include <peft/kernels/optimizer.hpp>
#include <peft/optim/optimizer.hpp>

#include <string_view>
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
/// trained one and allocates only when it is made. In groups, lr and weight_decay are those of the parameter's group.
/// Throws OptionError for an option outside its range, an empty list or a parameter given twice.
/// Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, in the form of torch.optim.AdamW.
template <Scalar T> class AdamW : public Optimizer<T, AdamWOptions> {
    using Core = Optimizer<T, AdamWOptions>;

public:
    using Options = AdamWOptions;
    static constexpr std::string_view kind = "adamw";   ///< in training states

    explicit AdamW(ParameterList<T> parameters, const Options& options = {}) : AdamW(Core::one_group(std::move(parameters)), options) {}
    explicit AdamW(ParameterGroups<T> groups, const Options& options = {}) : Core("adamw", std::move(groups), checked(options)) {
        moments_.reserve(this->parameters().size());
        for (const ParameterRef<T>& parameter : this->parameters()) moments_.push_back({Matrix<T>(1, parameter.size()), Matrix<T>(1, parameter.size())});
    }

    /// One step with the gradients as they are. Throws NumericError naming the parameter, with nothing changed, when a
    /// gradient is not finite or its square would overflow.
    void step() {
        // half of the root of the largest number: then v, a mean of squares, stays finite
        this->begin_step("adamw: step", std::sqrt(std::numeric_limits<T>::max()) / 2);
        const Options& options = this->options();
        const auto t = static_cast<double>(this->steps());
        AdamWStep<T> numbers{
            .beta1 = static_cast<T>(options.beta1),
            .beta2 = static_cast<T>(options.beta2),
            .epsilon = static_cast<T>(options.epsilon),
            .bias1 = static_cast<T>(1 - std::pow(options.beta1, t)),
            .bias2 = static_cast<T>(1 - std::pow(options.beta2, t)),
        };
        const ParameterList<T>& list = this->parameters();
        for (std::size_t i = 0; i < list.size(); ++i) {
            numbers.learning_rate = this->learning_rate_of(i);
            numbers.weight_decay = this->weight_decay_of(i);
            adamw_update<T>(list[i].value(), list[i].grad(), moments_[i].first.flat(), moments_[i].second.flat(), numbers);
            list[i].touch();
        }
    }

    /// visit(name, value) for every option but the learning rate, which changes while training.
    template <class Visitor> static void each_option(const Options& options, Visitor&& visit) {
        visit("beta1", options.beta1);
        visit("beta2", options.beta2);
        visit("epsilon", options.epsilon);
        visit("weight_decay", options.weight_decay);
    }
    /// visit(i, name, numbers) for the running means of parameter i.
    template <class Visitor> void each_moment(Visitor&& visit) {
        for (std::size_t i = 0; i < moments_.size(); ++i) {
            visit(i, "first", moments_[i].first.flat());
            visit(i, "second", moments_[i].second.flat());
        }
    }

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

    std::vector<Moments> moments_;
};

PEFT_ISA_END
