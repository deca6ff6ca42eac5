#pragma once
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/kernels/channel.hpp>

#include <cmath>

PEFT_ISA_BEGIN

/// DoRA: W' = diag(c) (W + s B A) with c_o = m_o / n_o and n_o = ||(W + s B A)_o||, a trained magnitude m for each output
/// over LoRA's direction. m starts at the row norms, so a fresh adapter changes nothing.
/// The norms come without forming B A: n_o^2 = ||W_o||^2 + 2 s (W A^T B^T)_oo + s^2 (B A A^T B^T)_oo, i.e. W A^T (out x rank)
/// and A A^T (rank x rank); they are derived values, refreshed by prepare() and by each training forward.
/// detach_norm treats n as a constant in backward, as section 4.3 of the paper and upstream do; false gives the full gradient.
/// Dropout acts on the low-rank branch only (upstream also drops the input of the (c - 1) W x term, at the price of a second
/// product with W). The base must be readable and must not be an adapted layer: its inner gradient through W would be missed.
/// Throws OptionError as LoRA does, NumericError when a row of W + s B A is zero while its magnitude is not.
/// Trains rank * (in + out) + out numbers. Source: Liu et al. 2024, arXiv:2402.09353, eqs. 5 and 11.
template <Scalar T> class DoRA {
public:
    using value_type = T;
    struct Options {
        std::size_t rank = 8;
        double alpha = 8;
        double dropout = 0;
        bool rank_stabilized = false;
        bool detach_norm = true;
        std::uint64_t seed = 0;
    };
    struct Cache {
        low_rank::Cache<T> low_rank;
        MatrixView<T> v;             ///< x (W + s B A)^T (n x out), kept for the gradient of m
    };
    struct Derived {
        Matrix<T> base_norms;        ///< ||W_o||^2 (1 x out), once
        Matrix<T> a_w;               ///< A W^T (rank x out)
        Matrix<T> a_a;               ///< A A^T (rank x rank)
        Matrix<T> norm;              ///< n (1 x out)
        Matrix<T> ratio;             ///< c = m / n (1 x out)
    };
    static constexpr bool reads_base = true;

    explicit DoRA(LayerShape shape, const Options& options = {})
        : options_(options),
          lora_(shape, {.rank = options.rank, .alpha = options.alpha, .dropout = options.dropout, .rank_stabilized = options.rank_stabilized, .seed = options.seed}),
          magnitude_(1, shape.out) {}

    LayerShape shape() const noexcept { return lora_.shape(); }
    const Options& options() const noexcept { return options_; }

    /// Draws A and reads the magnitudes off the base, unless they were loaded. Called by adapt.
    void start(const BaseView<T>& base, std::uint64_t stream) {
        lora_.start(base, stream);
        if (magnitude_.version() != 0) return;
        Derived derived;
        update_norms(base, derived);
        magnitude_.assign(derived.norm);
    }

    void derive(const BaseView<T>& base, Derived& derived) const {
        update_norms(base, derived);
        if (derived.ratio.empty()) derived.ratio = Matrix<T>(1, shape().out);
        for (std::size_t o = 0; o < shape().out; ++o) {
            const T m = magnitude_.value()(0, o);
            const T n = derived.norm(0, o);
            if (n == T(0) && m != T(0)) {
                throw NumericError("row " + std::to_string(o) + " of W + s B A is zero and has no direction",
                                   {.subject = "dora: magnitude", .expected = "0", .found = detail::to_text(m)});
            }
            derived.ratio(0, o) = n == T(0) ? T(1) : m / n;
        }
    }

    void adapt_output(const Call<DoRA>& call, MatrixView<const T> x, MatrixView<T> y) const {
        ArenaScope scope(call.scratch);
        const auto delta = scope.matrix<T>(y.rows(), y.cols());
        fill<T>(T(0), delta);
        low_rank::forward(call, lora_.factors(), lora_.scale(), mask(call), x, delta, call.cache.low_rank);
        const std::span<const T> bias = call.base.bias();
        if (call.training) {
            call.cache.v = call.keep.template matrix<T>(y.rows(), y.cols());
            without_bias_plus<T>(y, bias, delta, call.cache.v);
        }
        rescale_rows_forward<T>(call.derived.ratio.flat(), bias, delta, y);
    }

    void backward_output(const Call<DoRA>& call, MatrixView<const T> x, MatrixView<T> dy, MatrixView<T> dx) {
        const auto out = shape().out;
        ArenaScope scope(call.scratch);
        const auto dots = scope.matrix<T>(1, out);                 // sum_t dy v, per output
        fill<T>(T(0), dots);
        add_column_dots<T>(dy, call.cache.v, dots.row_span(0));
        for (std::size_t o = 0; o < out; ++o) {
            if (call.derived.norm(0, o) != T(0)) magnitude_.grad()(0, o) += dots(0, o) / call.derived.norm(0, o);
        }
        if (!options_.detach_norm) norm_gradient(call, dots);
        scale_columns<T>(call.derived.ratio.flat(), dy);
        low_rank::backward(call, lora_.factors(), lora_.gradients(), lora_.scale(), mask(call), x, MatrixView<const T>(dy), dx, call.cache.low_rank);
    }

    PlanPointer<T> plan(const BaseView<T>&, const Derived& derived) const {
        return std::make_shared<Plan>(lora_.factors(), lora_.scale(), magnitude_.flat(), derived.ratio.flat());
    }

    template <class Self, class Visitor> static void each_tensor(Self& self, Visitor&& visit) {
        LoRA<T>::each_tensor(self.lora_, visit);
        visit("lora_magnitude_vector", self.magnitude_, Role::trained, TensorShape::of(self.magnitude_.cols()));
    }

private:
    /// W' = diag(c) (W + s B A)
    class Plan final : public MergePlan<T> {
    public:
        Plan(low_rank::Factors<T> f, T scale, std::span<const T> magnitude, std::span<const T> ratio)
            : delta_(f, scale), magnitude_finite_(all_finite(magnitude)), ratio_(MatrixView<const T>(ratio.data(), 1, ratio.size())) {}
        LayerShape shape() const noexcept override { return delta_.shape(); }
        const char* non_finite() const noexcept override {
            if (!magnitude_finite_) return "lora_magnitude_vector";
            return delta_.non_finite();
        }
        void prepare(std::size_t first, MatrixView<T> work) const override { delta_.prepare(first, work); }
        bool touches(std::size_t first, MatrixView<const T> work, std::size_t i) const noexcept override {
            return !is_finite(ratio_(0, first + i)) || ratio_(0, first + i) != T(1) || delta_.touches(first, work, i);
        }
        void apply(std::size_t first, MatrixView<const T> work, MatrixView<T> rows) const override {
            delta_.apply(first, work, rows);
            for (std::size_t i = 0; i < rows.rows(); ++i) scale<T>(ratio_(0, first + i), rows.row_span(i));
        }
        void revert(std::size_t first, MatrixView<const T> work, MatrixView<T> rows) const override {
            for (std::size_t i = 0; i < rows.rows(); ++i) {
                const T c = ratio_(0, first + i);
                if (c == T(0)) continue;
                for (std::size_t j = 0; j < rows.cols(); ++j) rows(i, j) /= c;
            }
            delta_.revert(first, work, rows);
        }

    private:
        low_rank::Plan<T> delta_;
        bool magnitude_finite_;
        Matrix<T> ratio_;
    };

    DropoutMask mask(const Call<DoRA>& call) const { return low_rank::mask_of(call, options_.dropout, options_.seed); }

    void update_norms(const BaseView<T>& base, Derived& derived) const {
        const LayerShape s = shape();
        const std::size_t rank = options_.rank;
        if (derived.base_norms.empty()) {
            derived.base_norms = Matrix<T>(1, s.out);
            derived.a_w = Matrix<T>(rank, s.out);
            derived.a_a = Matrix<T>(rank, rank);
            derived.norm = Matrix<T>(1, s.out);
            constexpr std::size_t block = 32;
            for (std::size_t first = 0; first < s.out; first += block) {
                const std::size_t count = s.out - first < block ? s.out - first : block;
                ArenaScope scope;
                const auto rows = scope.template matrix<T>(count, s.in);
                base.read_rows(first, rows);
                row_squared_norms<T>(rows, derived.base_norms.flat().subspan(first, count));
            }
        }
        const auto f = lora_.factors();
        base.product(f.a, derived.a_w);
        multiply_nt<T, T>(f.a, f.a, derived.a_a);
        ArenaScope scope;
        const auto b_aa = scope.template matrix<T>(s.out, rank);        // s B (A A^T) + 2 (W A^T), to be dotted with s B
        multiply_nn<T, T>(f.b, std::as_const(derived.a_a).view(), b_aa, {.scale = lora_.scale(), .accumulate = false, .bias = {}});
        for (std::size_t o = 0; o < s.out; ++o) {
            T cross = 0;
            for (std::size_t k = 0; k < rank; ++k) cross += f.b(o, k) * (b_aa(o, k) + T(2) * derived.a_w(k, o));
            const T squared = derived.base_norms(0, o) + lora_.scale() * cross;
            derived.norm(0, o) = squared > T(0) ? std::sqrt(squared) : (squared <= T(0) ? T(0) : squared);
        }
    }

    /// What flows through n: dn_o = -(m_o / n_o^2) sum_t dy v; dn_o/dB_o = s (W_o A^T + s B_o A A^T) / n_o and
    /// dn_o/dA = s B_o^T (W_o + s B_o A) / n_o.
    void norm_gradient(const Call<DoRA>& call, MatrixView<const T> dots) {
        const auto f = lora_.factors();
        const T s = lora_.scale();
        const std::size_t rank = options_.rank;
        ArenaScope scope(call.scratch);
        const auto weighted = scope.template matrix<T>(rank, shape().out);          // (diag(dn / n) B)^T
        const auto b_aa = scope.template matrix<T>(shape().out, rank);
        multiply_nn<T, T>(f.b, call.derived.a_a.view(), b_aa, {.scale = s, .accumulate = false, .bias = {}});
        const auto gradients = lora_.gradients();
        for (std::size_t o = 0; o < shape().out; ++o) {
            const T n = call.derived.norm(0, o);
            const T factor = n == T(0) ? T(0) : -s * call.derived.ratio(0, o) * dots(0, o) / (n * n);
            for (std::size_t k = 0; k < rank; ++k) {
                gradients.b(o, k) += factor * (call.derived.a_w(k, o) + b_aa(o, k));
                weighted(k, o) = factor * f.b(o, k);
            }
        }
        call.base.transposed_product(weighted, gradients.a);                         // += (D B)^T W
        const auto core = scope.template matrix<T>(rank, rank);
        multiply_nn<T, T>(weighted, f.b, core);                                      // (D B)^T B
        multiply_nn<T, T>(core, f.a, gradients.a, {.scale = s, .accumulate = true, .bias = {}});
    }


    Options options_;
    LoRA<T> lora_;
    Parameter<T> magnitude_;
};

PEFT_ISA_END

PEFT_BEGIN

template <Scalar T> struct hf_format<DoRA<T>> {
    using O = typename DoRA<T>::Options;
    static constexpr std::string_view peft_type = "LORA";
    static constexpr std::array keys{TensorKey{"lora_A", "lora_A.weight"}, TensorKey{"lora_B", "lora_B.weight"},
                                     TensorKey{"lora_magnitude_vector", "lora_magnitude_vector"}};
    static constexpr std::tuple fields{ConfigField{"r", &O::rank, Scope::rank}, ConfigField{"lora_alpha", &O::alpha, Scope::alpha},
                                       ConfigField{"lora_dropout", &O::dropout}, ConfigField{"use_rslora", &O::rank_stabilized},
                                       FixedField{"use_dora", true}, FixedField{"lora_bias", false}};
    static bool claims(const ConfigView& config) { return config.flag("use_dora"); }
    static void verify(const ConfigView& config) { LoRAFormat::verify(config); }
};

PEFT_END
