#pragma once
#include <peft/optim/checked_list.hpp>

#include <cstdint>
#include <iterator>
#include <limits>
#include <optional>
#include <span>
#include <vector>

PEFT_BEGIN

/// What parameters of one group have in place of the optimizer's own options.
struct GroupOptions {
    double learning_rate_factor = 1;          ///< times the optimizer's learning rate: a schedule moves all groups in proportion
    std::optional<double> weight_decay{};     ///< none: the optimizer's
};

/// Parameters that share options.
template <Scalar T> struct ParameterGroup {
    ParameterList<T> parameters;
    GroupOptions options{};
};

template <Scalar T> using ParameterGroups = std::vector<ParameterGroup<T>>;

PEFT_END

PEFT_ISA_BEGIN

/// What all optimizers have: the parameters in the order given, the group of each, options and the count of steps. Moves,
/// but is not copied: two optimizers over the same parameters are a mistake.
template <Scalar T, class OptionsType> class Optimizer {
public:
    using value_type = T;
    using Options = OptionsType;

    void zero_grad() { detail::zero_gradients(parameters_); }

    double learning_rate() const noexcept { return options_.learning_rate; }
    /// For schedules; groups keep their ratios to it. Throws OptionError when it, or a group's multiple of it, is negative or
    /// not finite in T.
    void set_learning_rate(double learning_rate) {
        for (const GroupOptions& group : groups_) expect_in_range(rate_name_, learning_rate * group.learning_rate_factor);
        expect_in_range(rate_name_, learning_rate);
        options_.learning_rate = learning_rate;
    }
    const Options& options() const noexcept { return options_; }
    const ParameterList<T>& parameters() const noexcept { return parameters_; }
    std::span<const GroupOptions> groups() const noexcept { return groups_; }
    /// The group of parameter i.
    std::size_t group_of(std::size_t i) const noexcept { return group_of_[i]; }
    /// Steps done.
    std::uint64_t steps() const noexcept { return steps_; }
    /// For those who restore a training state, moments included. The learning rate is one that was in use.
    void restore(std::uint64_t steps, double learning_rate) noexcept {
        steps_ = steps;
        options_.learning_rate = learning_rate;
    }

protected:
    Optimizer(const char* name, ParameterGroups<T> groups, const Options& options) : options_(options), rate_name_(std::string(name) + ": learning_rate") {
        ParameterList<T> list;
        for (ParameterGroup<T>& group : groups) {
            detail::expect_not_negative(rate_name_ + "_factor", group.options.learning_rate_factor);
            expect_in_range(rate_name_, group.options.learning_rate_factor * options.learning_rate);
            expect_in_range(std::string(name) + ": weight_decay", group.options.weight_decay.value_or(options.weight_decay));
            group_of_.insert(group_of_.end(), group.parameters.size(), groups_.size());
            list.insert(list.end(), std::make_move_iterator(group.parameters.begin()), std::make_move_iterator(group.parameters.end()));
            groups_.push_back(group.options);
        }
        parameters_ = detail::checked_list<T>(name, std::move(list));
        for (const ParameterRef<T>& parameter : parameters_) sizes_.push_back(parameter.size());
    }
    Optimizer(Optimizer&&) noexcept = default;
    Optimizer& operator=(Optimizer&&) noexcept = default;
    ~Optimizer() = default;

    /// Counts a step. Throws, with nothing changed, when a gradient is not finite or above `limit`, or a parameter changed
    /// its size.
    void begin_step(const char* what, T limit) {
        detail::expect_usable_gradients<T>(what, parameters_, limit, [this](std::size_t i) { return sizes_[i]; });
        ++steps_;
    }
    T learning_rate_of(std::size_t i) const noexcept { return static_cast<T>(options_.learning_rate * groups_[group_of_[i]].learning_rate_factor); }
    T weight_decay_of(std::size_t i) const noexcept { return static_cast<T>(groups_[group_of_[i]].weight_decay.value_or(options_.weight_decay)); }

    /// Steps are computed in T, where a larger number would be infinite.
    static void expect_in_range(const std::string& option, double value) {
        detail::expect_not_negative(option, value);
        if (value <= static_cast<double>(std::numeric_limits<T>::max())) return;
        throw OptionError("too large for the type it is computed in", {.subject = option, .expected = "a finite number of the compute type", .found = detail::to_text(value)});
    }
    /// One group of all parameters.
    static ParameterGroups<T> one_group(ParameterList<T> parameters) {
        ParameterGroups<T> groups(1);
        groups.front().parameters = std::move(parameters);
        return groups;
    }

private:
    Options options_;
    ParameterList<T> parameters_;
    std::vector<GroupOptions> groups_;
    std::vector<std::size_t> group_of_;   // for each parameter
    std::vector<std::size_t> sizes_;
    std::string rate_name_;               // in errors; made once, since a schedule sets the rate before each step
    std::uint64_t steps_ = 0;
};

PEFT_ISA_END
