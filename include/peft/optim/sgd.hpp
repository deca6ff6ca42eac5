#pragma once
#include <peft/kernels/optimizer.hpp>
#include <peft/optim/optimizer.hpp>

#include <string_view>
#include <vector>

PEFT_BEGIN

struct SGDOptions {
    double learning_rate = 1e-2;
    double momentum = 0;
    double weight_decay = 0;   ///< added to the gradient, unlike AdamW's
    bool nesterov = false;
};

PEFT_END

PEFT_ISA_BEGIN

/// Gradient descent: g += weight_decay * value; velocity = momentum * velocity + g; value -= lr * velocity, or with nesterov
/// value -= lr * (g + momentum * velocity). Keeps one number for each trained one with momentum, none without, and
/// allocates only when it is made.
/// In groups, lr and weight_decay are those of the parameter's group.
/// Throws OptionError for an option outside its range, nesterov without momentum, an empty list or a parameter given twice.
/// Source: torch.optim.SGD with dampening = 0; Sutskever et al. 2013 for nesterov.
template <Scalar T> class SGD : public Optimizer<T, SGDOptions> {
    using Core = Optimizer<T, SGDOptions>;

public:
    using Options = SGDOptions;
    static constexpr std::string_view kind = "sgd";   ///< in training states

    explicit SGD(ParameterList<T> parameters, const Options& options = {}) : SGD(Core::one_group(std::move(parameters)), options) {}
    explicit SGD(ParameterGroups<T> groups, const Options& options = {}) : Core("sgd", std::move(groups), checked(options)) {
        for (const ParameterRef<T>& parameter : this->parameters()) {
            velocities_.push_back(options.momentum != 0 ? Matrix<T>(1, parameter.size()) : Matrix<T>());
        }
    }

    /// One step with the gradients as they are. Throws NumericError naming the parameter, with nothing changed, when a
    /// gradient is not finite.
    void step() {
        this->begin_step("sgd: step", std::numeric_limits<T>::max());
        SgdStep<T> numbers{.momentum = static_cast<T>(this->options().momentum), .nesterov = this->options().nesterov};
        const ParameterList<T>& list = this->parameters();
        for (std::size_t i = 0; i < list.size(); ++i) {
            numbers.learning_rate = this->learning_rate_of(i);
            numbers.weight_decay = this->weight_decay_of(i);
            sgd_update<T>(list[i].value(), list[i].grad(), velocities_[i].flat(), numbers);
            list[i].touch();
        }
    }

    /// visit(name, value) for every option but the learning rate, which changes while training.
    template <class Visitor> static void each_option(const Options& options, Visitor&& visit) {
        visit("momentum", options.momentum);
        visit("nesterov", options.nesterov);
        visit("weight_decay", options.weight_decay);
    }
    /// visit(i, name, numbers) for the velocity of parameter i; nothing without momentum.
    template <class Visitor> void each_moment(Visitor&& visit) {
        for (std::size_t i = 0; i < velocities_.size(); ++i) {
            if (!velocities_[i].empty()) visit(i, "velocity", velocities_[i].flat());
        }
    }

private:
    static const Options& checked(const Options& options) {
        detail::expect_not_negative("sgd: learning_rate", options.learning_rate);
        detail::expect_decay("sgd: momentum", options.momentum);
        detail::expect_not_negative("sgd: weight_decay", options.weight_decay);
        if (options.nesterov && options.momentum == 0) {
            throw OptionError("nesterov needs a momentum", {.subject = "sgd: momentum", .expected = "a number in (0, 1)", .found = "0"});
        }
        return options;
    }

    std::vector<Matrix<T>> velocities_;   // empty matrices without momentum
};

PEFT_ISA_END
