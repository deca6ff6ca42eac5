#pragma once
#include <peft/core/concepts.hpp>
#include <peft/core/hf_format.hpp>
#include <peft/kernels/channel.hpp>
#include <peft/kernels/elementwise.hpp>
#include <peft/kernels/matmul.hpp>
#include <peft/kernels/reduce.hpp>

#include <memory>
#include <utility>

PEFT_ISA_BEGIN

/// A layer trained in full, or its bias alone: y = x V^T + c with V and c copied from the base at the start. What upstream
/// calls modules_to_save (weight and bias) and bias = "all" or "lora_only" (bias), and what full fine-tuning is.
/// The base itself stays frozen until merge writes V and c into it; unmerge brings the base back.
/// Trains out * in + out numbers, out with weight = false. A bias is trained only where the base has one.
/// Throws OptionError when neither weight nor bias is to be trained.
template <Scalar T> class Trained {
public:
    using value_type = T;
    struct Options {
        bool weight = true;
        bool bias = true;
    };
    static constexpr bool reads_base = true;

    explicit Trained(LayerShape shape, const Options& options = {}) : options_(options), shape_(shape) {
        if (!options.weight && !options.bias) {
            throw OptionError("nothing to train", {.subject = "trained: weight, bias", .expected = "one of them true", .found = "both false"});
        }
        if (options.weight) weight_ = Parameter<T>(shape.out, shape.in);
        if (options.bias) bias_ = Parameter<T>(1, shape.out);
    }

    LayerShape shape() const noexcept { return shape_; }
    const Options& options() const noexcept { return options_; }
    /// With a weight of its own the base need not be computed at all.
    bool replaces_base() const noexcept { return options_.weight; }
    bool changes_bias() const noexcept { return options_.bias; }

    void start(const BaseView<T>& base, std::uint64_t) {
        if (base.bias().empty()) {
            if (bias_.version() != 0) {
                throw StateError("a trained bias needs a base that has one", {.subject = "trained: bias", .expected = std::to_string(shape_.out) + " numbers in the base", .found = "none"});
            }
            if (!options_.weight) throw StateError("there is no bias to train", {.subject = "trained: bias", .expected = "a base with a bias", .found = "none"});
            options_.bias = false;
            bias_ = {};
        }
        if (options_.weight && weight_.version() == 0) {
            base.read_rows(0, weight_.value());
            weight_.touch();
        }
        if (options_.bias) {
            base_bias_ = Matrix<T>(MatrixView<const T>(base.bias().data(), 1, shape_.out));
            if (bias_.version() == 0) bias_.assign(base_bias_);
        }
    }

    void adapt_output(const Call<Trained>& call, MatrixView<const T> x, MatrixView<T> y) const {
        if (options_.weight) {
            const std::span<const T> bias = options_.bias ? bias_.flat() : call.base.bias();   // an untrained bias stays
            multiply_nt<T, T>(x, weight_.value(), y, {.scale = 1, .accumulate = false, .bias = bias});
            return;
        }
        ArenaScope scope(call.scratch);
        const auto change = scope.template matrix<T>(1, shape_.out);
        bias_change(change);
        add_rows<T>(change.row_span(0), y);
    }
    void backward_output(const Call<Trained>&, MatrixView<const T> x, MatrixView<const T> dy, MatrixView<T> dx) {
        if (options_.bias) add_column_sums<T>(dy, bias_.grad().row_span(0));
        if (!options_.weight) return;
        multiply_tn<T>(dy, x, weight_.grad(), {.scale = 1, .accumulate = true, .bias = {}});
        multiply_nn<T, T>(dy, std::as_const(weight_).value(), dx, {.scale = 1, .accumulate = true, .bias = {}});
    }
    PlanPointer<T> plan(const BaseView<T>&, const detail::Nothing&) const { return std::make_shared<Plan>(*this); }

    template <class Self, class Visitor> static void each_tensor(Self& self, Visitor&& visit) {
        if (self.options_.weight) visit("weight", self.weight_, Role::trained);
        if (self.options_.bias) visit("bias", self.bias_, Role::trained, TensorShape::of(self.shape_.out));
    }

private:
    /// W' = V, b' = c. What W was cannot be found from V: the journal falls back to copies of the rows.
    class Plan final : public MergePlan<T> {
    public:
        explicit Plan(const Trained& trained)
            : shape_(trained.shape_), weight_(std::as_const(trained.weight_).value()), bias_(std::as_const(trained.bias_).value()),
              base_bias_(trained.options_.weight ? Matrix<T>() : trained.base_bias_) {}
        LayerShape shape() const noexcept override { return shape_; }
        const char* non_finite() const noexcept override {
            if (!all_finite(std::as_const(weight_).flat())) return "weight";
            return all_finite(std::as_const(bias_).flat()) ? nullptr : "bias";
        }
        void prepare(std::size_t, MatrixView<T> work) const override {
            if (weight_.empty()) fill<T>(T(0), work);
        }
        bool touches(std::size_t, MatrixView<const T>, std::size_t) const noexcept override { return !weight_.empty(); }
        bool additive() const noexcept override { return weight_.empty(); }   // adds nothing to the weight
        void apply(std::size_t first, MatrixView<const T>, MatrixView<T> rows) const override {
            if (!weight_.empty()) copy<T>(weight_.rows(first, rows.rows()), rows);
        }
        void revert(std::size_t, MatrixView<const T>, MatrixView<T>) const override {}
        BiasChange bias_change() const noexcept override { return bias_.empty() ? BiasChange::none : BiasChange::adds; }
        void apply_bias(std::span<T> bias) const override {
            if (bias_.empty()) return;
            if (base_bias_.empty()) return copy<T>(std::as_const(bias_).flat(), bias);
            // Below it in a chain another method may have changed the bias: then c - b is added, as forward does.
            for (std::size_t o = 0; o < bias.size(); ++o) {
                bias[o] = bias[o] == base_bias_(0, o) ? bias_(0, o) : bias[o] + (bias_(0, o) - base_bias_(0, o));
            }
        }

    private:
        LayerShape shape_;
        Matrix<T> weight_;
        Matrix<T> bias_;
        Matrix<T> base_bias_;   ///< b, where c - b is added to a layer that keeps its weight
    };

    /// c - b
    void bias_change(MatrixView<T> change) const {
        copy<T>(bias_.value(), change);
        axpy<T>(T(-1), base_bias_.view(), change);
    }

    Options options_;
    LayerShape shape_;
    Parameter<T> weight_;
    Parameter<T> bias_;
    Matrix<T> base_bias_;
};

PEFT_ISA_END

PEFT_BEGIN

/// In a bank a trained layer is part of another method's file (modules_to_save, bias); alone it is full fine-tuning,
/// which upstream has no adapter type for.
template <Scalar T> struct hf_format<Trained<T>> {
    using O = typename Trained<T>::Options;
    static constexpr std::string_view peft_type = "X_FULL";
    static constexpr std::array keys{TensorKey{"weight", "weight"}, TensorKey{"bias", "bias"}};
    static constexpr std::tuple<> fields{};
    /// A layer without a bias trains none: the tensors of the file say what was trained.
    template <class Has> static void adjust(O& options, Has&& has) {
        options.weight = has("weight");
        options.bias = has("bias");
    }
};

PEFT_END
