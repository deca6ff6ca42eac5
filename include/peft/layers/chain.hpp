#pragma once
#include <peft/kernels/reduce.hpp>
#include <peft/layers/any_adapter.hpp>

#include <span>
#include <string>
#include <vector>

PEFT_ISA_BEGIN

/// Several methods on one base, the first next to it: what several active adapters are, and a trained bias beside a
/// LoRA. The same map as nesting adapt() calls, but chosen at run time, and every method reads the original base.
/// A method sees the input that the input methods above it leave. Merged in order, in one pass over the weight. The
/// norms of a DoRA above others are still those of the original base.
/// Throws OptionError when empty, when a method that replaces the base is not the first, or when a DoRA stands above a method
/// that changes the bias, or when a method asks for a rebase; ShapeError when shapes differ.
template <Scalar T> class Chain {
public:
    using value_type = T;
    struct Options {};
    struct Cache {
        MatrixView<const T>* inputs = nullptr;                 ///< what part k sees as x
        MatrixView<T>* gradients = nullptr;                    ///< per level below x, made by backward
        typename AnyAdapter<T>::Cache* parts = nullptr;
    };
    struct Derived {
        std::vector<typename AnyAdapter<T>::Derived> parts;
    };

    explicit Chain(std::vector<AnyAdapter<T>> parts) : parts_(std::move(parts)) {
        if (parts_.empty()) throw OptionError("a chain of no methods", {.subject = "chain", .expected = "at least one", .found = "0"});
        bool bias_changes = false;
        for (std::size_t k = 0; k < parts_.size(); ++k) {
            if (bias_changes && parts_[k].needs_readable_base() && !parts_[k].changes_bias()) {
                throw OptionError("a method that tells the weight of the base from its bias must come before those that change the bias",
                                  {.subject = "chain", .found = "position " + std::to_string(k)});
            }
            bias_changes = bias_changes || parts_[k].changes_bias();
            if (parts_[k].wants_rebase()) throw OptionError("methods of a chain share the base and cannot change it", {.subject = "chain: rebase", .expected = "false", .found = "true"});
            expect_shape("chain", parts_[k].shape().out, parts_[k].shape().in, shape().out, shape().in);
            if (k != 0 && parts_[k].replaces_base()) {
                throw OptionError("a method that replaces the base must come first", {.subject = "chain", .expected = "position 0", .found = std::to_string(k)});
            }
        }
    }

    LayerShape shape() const { return parts_.front().shape(); }
    const Options& options() const noexcept { return options_; }
    std::span<AnyAdapter<T>> parts() noexcept { return parts_; }
    std::span<const AnyAdapter<T>> parts() const noexcept { return parts_; }
    bool adapts_input() const { return input_parts(0) != 0; }
    bool adapts_output() const { return any([](const AnyAdapter<T>& part) { return part.adapts_output(); }); }
    bool replaces_base() const { return parts_.front().replaces_base(); }
    bool rewrites_output_gradient() const { return any([](const AnyAdapter<T>& part) { return part.rewrites_output_gradient(); }); }
    bool changes_bias() const { return any([](const AnyAdapter<T>& part) { return part.changes_bias(); }); }
    bool needs_readable_base() const { return any([](const AnyAdapter<T>& part) { return part.needs_readable_base(); }); }

    void start(const BaseView<T>& base, std::uint64_t stream) {
        for (std::size_t k = 0; k < parts_.size(); ++k) parts_[k].start(base, part_stream(stream, k));
    }
    void derive(const BaseView<T>& base, Derived& derived) const {
        derived.parts.resize(parts_.size());
        for (std::size_t k = 0; k < parts_.size(); ++k) parts_[k].derive(base, derived.parts[k]);
    }

    void adapt_input(const Call<Chain>& call, MatrixView<const T> x, MatrixView<T> z) const {
        make_cache(call);
        std::size_t left = input_parts(0);
        MatrixView<const T> seen = x;
        for (std::size_t k = parts_.size(); k-- > 0;) {
            call.cache.inputs[k] = seen;
            if (!parts_[k].adapts_input()) continue;
            const MatrixView<T> changed = --left == 0 ? z : call.keep.template matrix<T>(z.rows(), z.cols());
            parts_[k].adapt_input(part_call(call, k), seen, changed);
            seen = changed;
        }
    }
    void adapt_output(const Call<Chain>& call, MatrixView<const T> x, MatrixView<T> y) const {
        if (call.cache.parts == nullptr) {
            make_cache(call);
            for (std::size_t k = 0; k < parts_.size(); ++k) call.cache.inputs[k] = x;
        }
        for (std::size_t k = 0; k < parts_.size(); ++k) {
            if (parts_[k].adapts_output()) parts_[k].adapt_output(part_call(call, k), call.cache.inputs[k], y);
        }
    }
    void backward_output(const Call<Chain>& call, MatrixView<const T> x, MatrixView<T> dy, MatrixView<T> dx) {
        make_gradients(call, x);
        for (std::size_t k = parts_.size(); k-- > 0;) {
            if (parts_[k].adapts_output()) parts_[k].backward_output(part_call(call, k), call.cache.inputs[k], dy, gradient(call, input_parts(k + 1), dx));
        }
    }
    void backward_input(const Call<Chain>& call, MatrixView<const T> x, MatrixView<const T> dz, MatrixView<T> dx) {
        make_gradients(call, x);
        axpy<T>(T(1), dz, gradient(call, input_parts(0), dx));
        for (std::size_t k = 0; k < parts_.size(); ++k) {
            if (!parts_[k].adapts_input()) continue;
            const std::size_t level = input_parts(k + 1);
            parts_[k].backward_input(part_call(call, k), call.cache.inputs[k], MatrixView<const T>(gradient(call, level + 1, dx)), gradient(call, level, dx));
        }
    }

    PlanPointer<T> plan(const BaseView<T>& base, const Derived& derived) const {
        std::vector<PlanPointer<T>> plans;
        for (std::size_t k = 0; k < parts_.size(); ++k) plans.push_back(parts_[k].plan(base, derived.parts[k]));
        return std::make_shared<Plan>(std::move(plans));
    }

    /// Another number after every write to any tensor of any part.
    std::uint64_t version() const {
        std::uint64_t version = 1;
        for (const auto& part : parts_) version = version * 0x9e3779b97f4a7c15ull + detail::version_of(part);
        return version == 0 ? 1 : version;
    }

    template <class Self, class Visitor> static void each_tensor(Self& self, Visitor&& visit) {
        std::size_t k = 0;
        for (auto& part : self.parts_) {
            const std::string prefix = std::to_string(k++) + ".";
            AnyAdapter<T>::each_tensor(part, [&](std::string_view name, auto& tensor, Role role, TensorShape shape = {}) {
                visit(prefix + std::string(name), tensor, role, shape);
            });
        }
    }

private:
    /// The plans of the parts one after the other; where all add, their sum is added and rounded once.
    class Plan final : public MergePlan<T> {
    public:
        explicit Plan(std::vector<PlanPointer<T>> plans) : plans_(std::move(plans)) {
            for (const auto& plan : plans_) additive_ = additive_ && plan->additive();
        }
        LayerShape shape() const noexcept override { return plans_.front()->shape(); }
        const char* non_finite() const noexcept override {
            for (const auto& plan : plans_) {
                if (const char* name = plan->non_finite()) return name;
            }
            return nullptr;
        }
        /// The sum of the deltas, or per row a one in the first column where any part touches it.
        void prepare(std::size_t first, MatrixView<T> work) const override {
            fill<T>(T(0), work);
            for (const auto& plan : plans_) {
                ArenaScope scope;
                const auto part = scope.template matrix<T>(work.rows(), work.cols());
                plan->prepare(first, part);
                if (additive_) axpy<T>(T(1), part, work);
                else mark(*plan, first, part, work);
            }
        }
        bool touches(std::size_t, MatrixView<const T> work, std::size_t i) const noexcept override {
            return additive_ ? is_nonzero(max_abs(work.row_span(i))) : work.cols() != 0 && work(i, 0) != T(0);
        }
        void apply(std::size_t first, MatrixView<const T> work, MatrixView<T> rows) const override {
            if (additive_) axpy<T>(T(1), work, rows);
            else for (const auto& plan : plans_) step(*plan, first, rows, &MergePlan<T>::apply);
        }
        void revert(std::size_t first, MatrixView<const T> work, MatrixView<T> rows) const override {
            if (additive_) axpy<T>(T(-1), work, rows);
            else for (auto plan = plans_.rbegin(); plan != plans_.rend(); ++plan) step(**plan, first, rows, &MergePlan<T>::revert);
        }
        bool additive() const noexcept override { return additive_; }
        BiasChange bias_change() const noexcept override {
            BiasChange change = BiasChange::none;
            for (const auto& plan : plans_) {
                if (plan->bias_change() == BiasChange::adds) return BiasChange::adds;
                if (plan->bias_change() == BiasChange::scales) change = BiasChange::scales;
            }
            return change;
        }
        void apply_bias(std::span<T> bias) const override {
            for (const auto& plan : plans_) {
                if (plan->bias_change() != BiasChange::none) plan->apply_bias(bias);
            }
        }

    private:
        static void mark(const MergePlan<T>& plan, std::size_t first, MatrixView<const T> part, MatrixView<T> work) {
            for (std::size_t i = 0; i < work.rows(); ++i) {
                if (work.cols() != 0 && plan.touches(first, part, i)) work(i, 0) = T(1);
            }
        }
        /// One part's apply or revert on the rows it touches.
        static void step(const MergePlan<T>& plan, std::size_t first, MatrixView<T> rows, void (MergePlan<T>::*action)(std::size_t, MatrixView<const T>, MatrixView<T>) const) {
            ArenaScope scope;
            const auto part = scope.template matrix<T>(rows.rows(), rows.cols());
            const auto changed = scope.template matrix<T>(rows.rows(), rows.cols());
            plan.prepare(first, part);
            copy<T>(rows, changed);
            (plan.*action)(first, part, changed);
            for (std::size_t i = 0; i < rows.rows(); ++i) {
                if (plan.touches(first, part, i)) copy<T>(std::span<const T>(changed.row_span(i)), rows.row_span(i));
            }
        }

        std::vector<PlanPointer<T>> plans_;
        bool additive_ = true;
    };

    template <class Predicate> bool any(Predicate predicate) const {
        for (const auto& part : parts_) {
            if (predicate(part)) return true;
        }
        return false;
    }
    /// Input methods among the parts from `first` on: the level of the input that part first - 1 sees.
    std::size_t input_parts(std::size_t first) const {
        std::size_t count = 0;
        for (std::size_t k = first; k < parts_.size(); ++k) count += parts_[k].adapts_input() ? 1 : 0;
        return count;
    }
    static std::uint64_t part_stream(std::uint64_t stream, std::size_t k) noexcept { return k == 0 ? stream : detail::mix64(stream + k); }

    void make_cache(const Call<Chain>& call) const {
        call.cache.inputs = call.keep.template vector<MatrixView<const T>>(parts_.size()).data();
        call.cache.parts = call.keep.template vector<typename AnyAdapter<T>::Cache>(parts_.size()).data();
        for (std::size_t k = 0; k < parts_.size(); ++k) call.cache.parts[k] = {};
    }
    void make_gradients(const Call<Chain>& call, MatrixView<const T> x) const {
        const std::size_t levels = input_parts(0);
        if (levels == 0 || call.cache.gradients != nullptr) return;
        call.cache.gradients = call.keep.template vector<MatrixView<T>>(levels).data();
        for (std::size_t level = 0; level < levels; ++level) {
            call.cache.gradients[level] = call.keep.template matrix<T>(x.rows(), x.cols());
            fill<T>(T(0), call.cache.gradients[level]);
        }
    }
    static MatrixView<T> gradient(const Call<Chain>& call, std::size_t level, MatrixView<T> dx) noexcept {
        return level == 0 ? dx : call.cache.gradients[level - 1];
    }
    static Call<AnyAdapter<T>> part_call(const Call<Chain>& call, std::size_t k) {
        return {call.base, call.scratch, call.keep, call.cache.parts[k], call.derived.parts[k], part_stream(call.stream, k), call.step, call.training};
    }

    Options options_;
    std::vector<AnyAdapter<T>> parts_;
};

PEFT_ISA_END
