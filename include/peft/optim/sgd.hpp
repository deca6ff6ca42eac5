#pragma once
#include <peft/kernels/optimizer.hpp>
#include <peft/optim/checked_list.hpp>

#include <cstdint>
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
/// Throws OptionError for an option outside its range, nesterov without momentum, an empty list or a parameter given twice.
/// Source: torch.optim.SGD with dampening = 0; Sutskever et al. 2013 for nesterov.
template <Scalar T> class SGD {
public:
    using value_type = T;
    using Options = SGDOptions;

    explicit SGD(ParameterList<T> parameters, const Options& options = {})
        : options_(checked(options)), parameters_(detail::checked_list<T>("sgd", std::move(parameters))) {
        for (const ParameterRef<T>& parameter : parameters_) {
            sizes_.push_back(parameter.size());
            velocities_.push_back(options.momentum != 0 ? Matrix<T>(1, parameter.size()) : Matrix<T>());
        }
    }
    SGD(SGD&&) noexcept = default;
    SGD& operator=(SGD&&) noexcept = default;
    SGD(const SGD&) = delete;                  // two optimizers over the same parameters are a mistake
    SGD& operator=(const SGD&) = delete;

    /// One step with the gradients as they are. Throws NumericError naming the parameter, with nothing changed, when a
    /// gradient is not finite.
    void step() {
        detail::expect_usable_gradients<T>("sgd: step", parameters_, std::numeric_limits<T>::max(), [this](std::size_t i) { return sizes_[i]; });
        ++steps_;
        const SgdStep<T> numbers{
            .learning_rate = static_cast<T>(options_.learning_rate),
            .momentum = static_cast<T>(options_.momentum),
            .weight_decay = static_cast<T>(options_.weight_decay),
            .nesterov = options_.nesterov,
        };
        for (std::size_t i = 0; i < parameters_.size(); ++i) {
            sgd_update<T>(parameters_[i].value(), parameters_[i].grad(), velocities_[i].flat(), numbers);
            parameters_[i].touch();
        }
    }
    void zero_grad() { detail::zero_gradients(parameters_); }

    double learning_rate() const noexcept { return options_.learning_rate; }
    /// For schedules. Throws OptionError when negative or not finite.
    void set_learning_rate(double learning_rate) {
        detail::expect_not_negative("sgd: learning_rate", learning_rate);
        options_.learning_rate = learning_rate;
    }
    const Options& options() const noexcept { return options_; }
    const ParameterList<T>& parameters() const noexcept { return parameters_; }
    /// Steps done.
    std::uint64_t steps() const noexcept { return steps_; }

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

    Options options_;
    ParameterList<T> parameters_;
    std::vector<std::size_t> sizes_;
    std::vector<Matrix<T>> velocities_;   // empty matrices without momentum
    std::uint64_t steps_ = 0;
};

PEFT_ISA_END
