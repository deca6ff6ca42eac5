#pragma once
#include <peft/core/hf_format.hpp>
#include <peft/forms/low_rank.hpp>

#include <cmath>
#include <cstdint>
#include <limits>

PEFT_ISA_BEGIN

/// LoRA: W' = W + s B A with s = alpha / rank, or alpha / sqrt(rank) when rank_stabilized.
/// A (rank x in) starts Kaiming-uniform, U(-1/sqrt(in), 1/sqrt(in)), B (out x rank) at zero, so a fresh adapter changes
/// nothing. Dropout acts on the input of the branch only. Trains rank * (in + out) numbers, out more with `bias` (a bias c
/// on B: b' = b + s c), rank * out with train_a = false (LoRA-FA).
/// Throws OptionError when rank is 0 (a rank above min(in, out) is legal, if wasteful), when dropout is outside [0, 1), or
/// when alpha is not finite or the scale too large for T.
/// Source: Hu et al. 2021, arXiv:2106.09685, eq. 3. rank_stabilized: Kalajdzievski 2023, arXiv:2312.03732.
/// train_a = false: Zhang et al. 2023, arXiv:2308.03303.
template <Scalar T> class LoRA {
public:
    using value_type = T;
    struct Options {
        std::size_t rank = 8;
        double alpha = 8;
        double dropout = 0;
        bool rank_stabilized = false;
        bool bias = false;
        bool train_a = true;
        std::uint64_t seed = 0;
    };
    using Cache = low_rank::Cache<T>;

    explicit LoRA(LayerShape shape, const Options& options = {}) : options_(checked(options)) {
        detail::checked_size(options.rank, shape.in > shape.out ? shape.in : shape.out, sizeof(T));
        a_ = Parameter<T>(options.rank, shape.in);
        b_ = Parameter<T>(shape.out, options.rank);
        if (options.bias) bias_ = Parameter<T>(1, shape.out);
        scale_ = scale_of(options);
    }

    LayerShape shape() const noexcept { return {a_.cols(), b_.rows()}; }
    const Options& options() const noexcept { return options_; }
    T scale() const noexcept { return scale_; }
    bool changes_bias() const noexcept { return options_.bias; }
    low_rank::Factors<T> factors() const noexcept { return {a_.value(), b_.value()}; }
    Parameter<T>& a() noexcept { return a_; }
    Parameter<T>& b() noexcept { return b_; }

    /// Draws A, unless it was loaded: a new one for each stream. Called by adapt.
    void start(const BaseView<T>&, std::uint64_t stream) {
        if (a_.version() != 0) return;
        fill_uniform<T>({options_.seed, stream, Purpose::parameters, 0}, 1.0 / std::sqrt(static_cast<double>(a_.cols())), a_.state()->value.flat());
        a_.touch();
    }

    void adapt_output(const Call<LoRA>& call, MatrixView<const T> x, MatrixView<T> y) const {
        low_rank::forward(call, factors(), scale_, low_rank::mask_of(call, options_.dropout, options_.seed), x, y, call.cache);
        if (options_.bias) axpy_rows<T>(scale_, bias_.flat(), y);
    }
    void backward_output(const Call<LoRA>& call, MatrixView<const T> x, MatrixView<const T> dy, MatrixView<T> dx) {
        low_rank::backward(call, factors(), gradients(), scale_, low_rank::mask_of(call, options_.dropout, options_.seed), x, dy, dx, call.cache);
        if (options_.bias) {
            ArenaScope scope(call.scratch);
            const auto sums = scope.matrix<T>(1, dy.cols());
            fill<T>(T(0), sums);
            add_column_sums<T>(dy, sums.row_span(0));
            axpy<T>(scale_, sums, bias_.grad());
        }
    }
    PlanPointer<T> plan(const BaseView<T>&, const detail::Nothing&) const {
        return std::make_shared<low_rank::Plan<T>>(factors(), scale_, bias_.flat());
    }

    /// Where backward adds; A's is empty when it is frozen.
    low_rank::Gradients<T> gradients() noexcept { return {options_.train_a ? a_.grad() : MatrixView<T>(), b_.grad()}; }

    template <class Self, class Visitor> static void each_tensor(Self& self, Visitor&& visit) {
        visit("lora_A", self.a_, self.options_.train_a ? Role::trained : Role::frozen);
        visit("lora_B", self.b_, Role::trained);
        if (self.options_.bias) visit("lora_B_bias", self.bias_, Role::trained, TensorShape::of(self.bias_.cols()));
    }

    /// The checks of the options, for methods that hold a LoRA.
    static const Options& checked(const Options& options) {
        if (options.rank == 0) throw OptionError("a rank of 0 trains nothing", {.subject = "lora: rank", .expected = "at least 1", .found = "0"});
        if (!(options.dropout >= 0 && options.dropout < 1)) {
            throw OptionError("not a probability", {.subject = "lora: dropout", .expected = "a number in [0, 1)", .found = detail::to_text(options.dropout)});
        }
        if (!is_finite(options.alpha)) {
            throw OptionError("not finite", {.subject = "lora: alpha", .expected = "a finite number", .found = detail::to_text(options.alpha)});
        }
        return options;
    }
    /// s; OptionError when it leaves the range of T.
    static T scale_of(const Options& options) {
        const double scale = options.alpha / (options.rank_stabilized ? std::sqrt(static_cast<double>(options.rank)) : static_cast<double>(options.rank));
        if (!(std::fabs(scale) <= static_cast<double>(std::numeric_limits<T>::max()))) {
            throw OptionError("the scale leaves the range of the compute type", {.subject = "lora: alpha", .expected = "a scale that fits", .found = detail::to_text(options.alpha)});
        }
        return static_cast<T>(scale);
    }

private:
    Options options_;
    Parameter<T> a_;
    Parameter<T> b_;
    Parameter<T> bias_;
    T scale_ = 1;
};

/// Upstream's LoRA configuration carries many switches; what is not a ConfigField must be off.
struct LoRAFormat {
    static constexpr std::array neutral{"alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "loftq_config", "megatron_config",
                                        "monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config"};

    /// Throws UnsupportedError for a feature that no method of this type has, FormatError for a wrong value.
    static void verify_features(const ConfigView& config) {
        for (const std::string_view key : neutral) config.expect_neutral(key);
        config.expect_flag("fan_in_fan_out");
        config.expect_number("lora_dropout", [](double p) { return p >= 0 && p < 1; }, "a number in [0, 1)");
    }
    /// True for a start that can be taken out of the original base again: for the method that knows how.
    static bool repeats_start(const ConfigView& config) {
        const std::string_view name = config.text("init_lora_weights");
        return config.base() == BaseKind::original && (name.starts_with("pissa") || name == "olora");
    }
    /// init_lora_weights names where A and B started. Those that changed the base are a plain LoRA on the changed base only.
    static void verify(const ConfigView& config) {
        verify_features(config);
        const std::string_view name = config.text("init_lora_weights");
        for (const std::string_view harmless : {"", "gaussian", "eva", "orthogonal"}) {
            if (name == harmless) return;
        }
        const bool known = name.starts_with("pissa") || name == "olora" || name == "corda" || name == "lora_ga" || name == "loftq";
        if (!known) {
            throw UnsupportedError("no such start is known", {.subject = "init_lora_weights", .expected = "true, false, gaussian, eva, orthogonal, pissa, olora, corda, lora_ga or loftq",
                                   .found = std::string(name)});
        }
        if (config.base() == BaseKind::residual) return;
        if (config.base() == BaseKind::original) {
            throw UnsupportedError("this start cannot be taken out of the base again", {.subject = "init_lora_weights", .expected = "BaseKind::residual, or a converted adapter", .found = std::string(name)});
        }
        throw FormatError("the factors are relative to a base that their start was taken out of; say which base you hold: load_adapter(dir, {.base = BaseKind::original or BaseKind::residual})",
                          {.subject = "init_lora_weights", .found = std::string(name)});
    }
};

PEFT_ISA_END

PEFT_BEGIN

template <Scalar T> struct hf_format<LoRA<T>> {
    using O = typename LoRA<T>::Options;
    static constexpr std::string_view peft_type = "LORA";
    static constexpr std::array keys{TensorKey{"lora_A", "lora_A.weight"}, TensorKey{"lora_B", "lora_B.weight"}, TensorKey{"lora_B_bias", "lora_B.bias"}};
    static constexpr std::tuple fields{ConfigField{"r", &O::rank, Scope::rank}, ConfigField{"lora_alpha", &O::alpha, Scope::alpha},
                                       ConfigField{"lora_dropout", &O::dropout}, ConfigField{"use_rslora", &O::rank_stabilized},
                                       ConfigField{"lora_bias", &O::bias}, FixedField{"use_dora", false}};
    static bool claims(const ConfigView& config) { return !config.flag("use_dora") && !LoRAFormat::repeats_start(config); }
    static void verify(const ConfigView& config) { LoRAFormat::verify(config); }
};

PEFT_END
