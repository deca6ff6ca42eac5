#pragma once
#include <peft/adapters/low_rank/lora.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <string_view>

PEFT_ISA_BEGIN

/// trained - start as one LoRA of twice the rank, exact: A' = [A; A0], B' = [B, -B0], and alpha such that the scale stays.
/// What a LoRA that started at A0, B0 on the residual base W - s B0 A0 becomes on the original W. Throws ShapeError when the
/// factors differ in shape, OptionError when the LoRA has a bias.
/// Source: the conversion of Hugging Face PEFT (path_initial_model_for_weight_conversion).
template <Scalar T> LoRA<T> difference(const LoRA<T>& trained, low_rank::Factors<T> start) {
    typename LoRA<T>::Options options = trained.options();
    if (options.bias) throw OptionError("a bias on B has no start to be taken from", {.subject = "difference: bias", .expected = "false", .found = "true"});
    const auto f = trained.factors();
    expect_shape("difference: A", start.a.rows(), start.a.cols(), f.a.rows(), f.a.cols());
    expect_shape("difference: B", start.b.rows(), start.b.cols(), f.b.rows(), f.b.cols());
    const std::size_t rank = options.rank;
    options.rank = 2 * rank;
    options.alpha *= options.rank_stabilized ? std::sqrt(2.0) : 2.0;
    options.train_a = true;
    LoRA<T> result(trained.shape(), options);
    const MatrixView<T> a = result.a().value();
    copy<T>(f.a, a.rows(0, rank));
    copy<T>(start.a, a.rows(rank, rank));
    const MatrixView<T> b = result.b().value();
    for (std::size_t o = 0; o < b.rows(); ++o) {
        for (std::size_t k = 0; k < rank; ++k) {
            b(o, k) = f.b(o, k);
            b(o, rank + k) = -start.b(o, k);
        }
    }
    result.a().touch();
    result.b().touch();
    return result;
}

/// A LoRA whose factors start out of the weight itself; `Start` says how: PiSSA, OLoRA.
/// Delta form (default): W' = W + s (B A - B0 A0) with the start A0, B0 frozen beside it, so the base stays as it is, may be
/// shared or quantised, and a fresh adapter changes nothing (up to rounding). Costs a second low-rank product.
/// rebase: the base itself becomes the residual W - s B0 A0, through the merge journal, and the method is a plain LoRA on it;
/// layer.restore_base() gives the bits back and goes on in delta form.
/// Dropout acts on the trained product only. Trains rank * (in + out) numbers, keeps as many frozen.
/// Throws OptionError as LoRA does, and when alpha is not positive or so small that the scale is no normal number.
template <Scalar T, class Start> class LoRAFromBase {
public:
    using value_type = T;
    using Options = typename Start::Options;
    using Cache = low_rank::Cache<T>;

    explicit LoRAFromBase(LayerShape shape, const Options& options = {})
        : options_(options),
          lora_(shape, {.rank = options.rank, .alpha = options.alpha, .dropout = options.dropout, .rank_stabilized = options.rank_stabilized, .seed = options.seed}),
          start_a_(options.rank, shape.in),
          start_b_(shape.out, options.rank) {
        if (!(options.alpha > 0 && scale() >= std::numeric_limits<T>::min())) {
            throw OptionError("the start is divided by the scale", {.subject = std::string(Start::name) + ": alpha", .expected = "a positive number whose scale is not subnormal", .found = detail::to_text(options.alpha)});
        }
    }

    LayerShape shape() const noexcept { return lora_.shape(); }
    const Options& options() const noexcept { return options_; }
    T scale() const noexcept { return lora_.scale(); }
    /// The trained factors: on the residual base this is the whole method.
    const LoRA<T>& lora() const noexcept { return lora_; }
    LoRA<T>& lora() noexcept { return lora_; }
    low_rank::Factors<T> start_factors() const noexcept { return {start_a_.value(), start_b_.value()}; }
    /// The same change of the original base as a plain LoRA of twice the rank.
    LoRA<T> to_lora() const { return difference(lora_, start_factors()); }

    /// Takes the start out of the base, unless it was given; trained factors that were loaded stay. Called by adapt.
    void start(const BaseView<T>& base, std::uint64_t) {
        if (start_a_.version() == 0 || start_b_.version() == 0) {
            Start::template fill<T>(base, options_, scale(), start_a_.value(), start_b_.value());
            start_a_.touch();
            start_b_.touch();
        }
        if (lora_.a().version() == 0) lora_.a().assign(start_a_.value());
        if (lora_.b().version() == 0) lora_.b().assign(start_b_.value());
    }
    /// A start that was kept from elsewhere: A0 (rank x in), B0 (out x rank).
    void set_start(low_rank::Factors<T> start) {
        expect_shape("start: A", start.a.rows(), start.a.cols(), start_a_.rows(), start_a_.cols());
        expect_shape("start: B", start.b.rows(), start.b.cols(), start_b_.rows(), start_b_.cols());
        start_a_.assign(start.a);
        start_b_.assign(start.b);
    }

    bool wants_rebase() const noexcept { return options_.rebase; }
    /// The change that makes the base the residual one.
    PlanPointer<T> rebase_plan() const { return std::make_shared<low_rank::Plan<T>>(start_factors(), -scale()); }
    /// Called by the layer when the base has become the residual one, or the original one again.
    void set_rebased(bool rebased) noexcept { rebased_ = rebased; }
    /// False when it was told otherwise, by another layer.
    bool knows_rebased(bool rebased) const noexcept { return rebased_ == rebased; }

    void adapt_output(const Call<LoRAFromBase>& call, MatrixView<const T> x, MatrixView<T> y) const {
        low_rank::forward(call, lora_.factors(), scale(), mask(call), x, y, call.cache);
        if (!rebased_) low_rank::add_fixed<T>(call.scratch, start_factors(), -scale(), x, y);
    }
    void backward_output(const Call<LoRAFromBase>& call, MatrixView<const T> x, MatrixView<const T> dy, MatrixView<T> dx) {
        low_rank::backward(call, lora_.factors(), lora_.gradients(), scale(), mask(call), x, dy, dx, call.cache);
        if (!rebased_) low_rank::add_fixed_backward<T>(call.scratch, start_factors(), -scale(), dy, dx);
    }
    PlanPointer<T> plan(const BaseView<T>&, const detail::Nothing&) const {
        if (rebased_) return std::make_shared<low_rank::Plan<T>>(lora_.factors(), scale());
        const LoRA<T> whole = to_lora();
        return std::make_shared<low_rank::Plan<T>>(whole.factors(), whole.scale());
    }

    template <class Self, class Visitor> static void each_tensor(Self& self, Visitor&& visit) {
        LoRA<T>::each_tensor(self.lora_, visit);
        visit("start_A", self.start_a_, Role::rebuilt);
        visit("start_B", self.start_b_, Role::rebuilt);
    }

private:
    DropoutMask mask(const Call<LoRAFromBase>& call) const { return low_rank::mask_of(call, options_.dropout, options_.seed); }

    Options options_;
    LoRA<T> lora_;
    Parameter<T> start_a_;
    Parameter<T> start_b_;
    bool rebased_ = false;
};

PEFT_ISA_END

PEFT_BEGIN

/// Upstream's own file: the trained factors, relative to the residual base. Read with BaseKind::original, where the start is
/// taken out of the base again; with BaseKind::residual it is a plain LoRA. to_lora() makes a file that needs neither.
template <Scalar T, class Start> struct hf_format<LoRAFromBase<T, Start>> {
    using O = typename Start::Options;
    static constexpr std::string_view peft_type = "LORA";
    static constexpr std::array keys{TensorKey{"lora_A", "lora_A.weight"}, TensorKey{"lora_B", "lora_B.weight"}, TensorKey{"start_A", "start_A"}, TensorKey{"start_B", "start_B"}};
    static constexpr std::tuple fields{ConfigField{"r", &O::rank, Scope::rank}, ConfigField{"lora_alpha", &O::alpha, Scope::alpha},
                                       ConfigField{"lora_dropout", &O::dropout}, ConfigField{"use_rslora", &O::rank_stabilized},
                                       ComputedField<O>{"init_lora_weights", &Start::write, &Start::read},
                                       FixedField{"use_dora", false}, FixedField{"lora_bias", false}};
    static bool claims(const ConfigView& config) {
        return config.base() == BaseKind::original && !config.flag("use_dora") && Start::names(config.text("init_lora_weights"));
    }
    static void verify(const ConfigView& config) { LoRAFormat::verify_features(config); }
};

PEFT_END
