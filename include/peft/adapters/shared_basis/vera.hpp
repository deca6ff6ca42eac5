#pragma once
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/adapters/shared_basis/shared_projection.hpp>
#include <peft/core/hf_format.hpp>
#include <peft/forms/low_rank.hpp>

#include <cstdint>
#include <memory>
#include <string>

PEFT_ISA_BEGIN

/// VeRA: W' = W + diag(b) B diag(d) A with random A, B that all layers of the model share and two trained vectors for each
/// layer. b (out) starts at zero, so a fresh adapter changes nothing; d (rank) at d_initial. Trains out + rank numbers.
/// A layer reads the first `in` columns of A and the first `out` rows of B. Without a projection that was given, a layer makes
/// its own of its own shape from projection_seed; layers to be saved in one file must be given one:
///   auto shared = SharedProjection<float>::seeded(rank, largest, seed);
///   VeRA<float>(shape, {.rank = rank}, shared);
/// Throws OptionError when rank is 0, dropout outside [0, 1), d_initial not finite, or when save_projection is false and the
/// projection given is not that of projection_seed; ShapeError when the projection is too small.
/// Source: Kopiczko et al. 2024, arXiv:2310.11454, eq. 2.
template <Scalar T> class VeRA {
public:
    using value_type = T;
    struct Options {
        std::size_t rank = 256;
        double d_initial = 0.1;
        double dropout = 0;
        bool save_projection = true;         ///< false: files keep the seed alone, so a projection that is given must be made from it
        std::uint64_t projection_seed = 0;
        std::uint64_t seed = 0;              ///< of dropout
    };
    using Cache = low_rank::Cache<T>;
    using Projection = std::shared_ptr<SharedProjection<T>>;

    explicit VeRA(LayerShape shape, const Options& options = {}, Projection projection = nullptr)
        : shape_(shape), options_(options) {
        if (options.rank == 0) throw OptionError("a rank of 0 trains nothing", {.subject = "vera: rank", .expected = "at least 1", .found = "0"});
        if (!(options.dropout >= 0 && options.dropout < 1)) {
            throw OptionError("not a probability", {.subject = "vera: dropout", .expected = "a number in [0, 1)", .found = detail::to_text(options.dropout)});
        }
        if (!is_finite(options.d_initial) || !is_finite(static_cast<T>(options.d_initial))) {
            throw OptionError("not finite", {.subject = "vera: d_initial", .expected = "a finite number", .found = detail::to_text(options.d_initial)});
        }
        detail::checked_size(options.rank, shape.in > shape.out ? shape.in : shape.out, sizeof(T));
        b_ = Parameter<T>(1, shape.out);
        d_ = Parameter<T>(1, options.rank);
        fill<T>(static_cast<T>(options.d_initial), d_.value());
        if (projection != nullptr) share(std::move(projection));
    }

    LayerShape shape() const noexcept { return shape_; }
    const Options& options() const noexcept { return options_; }
    const Projection& projection() const noexcept { return projection_; }

    /// Takes the projection of the model. Throws ShapeError when it is smaller than the layer or of another rank, OptionError when
    /// files would leave it out and make another one from the seed.
    void share(Projection projection) {
        const LayerShape largest = projection->largest();
        if (projection->rank() != options_.rank || largest.in < shape_.in || largest.out < shape_.out) {
            throw ShapeError("the shared projection does not fit the layer", {.subject = "vera: projection",
                             .expected = text(options_.rank, shape_) + " at least", .found = text(projection->rank(), largest)});
        }
        if (!options_.save_projection && projection->seed != options_.projection_seed) {
            throw OptionError("files would leave out a projection that the seed does not make", {.subject = "vera: projection_seed", .expected = std::to_string(options_.projection_seed),
                              .found = projection->seed ? std::to_string(*projection->seed) : "matrices that were given"});
        }
        projection_ = std::move(projection);
    }

    /// The same map as a plain LoRA of the same rank: A' = diag(d) A, B' = diag(b) B. Throws StateError before there is a projection.
    LoRA<T> to_lora() const {
        if (projection_ == nullptr) throw StateError("the projection is made when the method is put on a layer", {.subject = "vera: to_lora"});
        LoRA<T> result(shape_, {.rank = options_.rank, .alpha = static_cast<double>(options_.rank), .seed = options_.seed});
        const auto f = factors();
        copy<T>(f.a, result.a().value());
        copy<T>(f.b, result.b().value());
        for (std::size_t k = 0; k < options_.rank; ++k) peft::scale<T>(d_.flat()[k], result.a().value().row_span(k));
        for (std::size_t o = 0; o < shape_.out; ++o) peft::scale<T>(b_.flat()[o], result.b().value().row_span(o));
        result.a().touch();
        result.b().touch();
        return result;
    }

    /// Makes a projection where none was given. Called by adapt.
    void start(const BaseView<T>&, std::uint64_t) {
        if (projection_ == nullptr) projection_ = SharedProjection<T>::seeded(options_.rank, shape_, options_.projection_seed);
    }

    void adapt_output(const Call<VeRA>& call, MatrixView<const T> x, MatrixView<T> y) const {
        low_rank::forward(call, factors(), diagonals(), mask(call), x, y, call.cache);
    }
    void backward_output(const Call<VeRA>& call, MatrixView<const T> x, MatrixView<const T> dy, MatrixView<T> dx) {
        low_rank::backward(call, factors(), diagonals(), d_.grad().row_span(0), b_.grad().row_span(0), mask(call), x, dy, dx, call.cache);
    }
    PlanPointer<T> plan(const BaseView<T>&, const detail::Nothing&) const { return std::make_shared<low_rank::Plan<T>>(factors(), diagonals()); }

    template <class Self, class Visitor> static void each_tensor(Self& self, Visitor&& visit) {
        visit("vera_lambda_b", self.b_, Role::trained, TensorShape::of(self.b_.cols()));
        visit("vera_lambda_d", self.d_, Role::trained, TensorShape::of(self.d_.cols()));
        if (self.projection_ == nullptr) return;
        const Role role = self.options_.save_projection ? Role::shared : Role::rebuilt;
        if constexpr (std::is_const_v<Self>) {
            visit("vera_A", std::as_const(self.projection_->a), role);
            visit("vera_B", std::as_const(self.projection_->b), role);
        } else {
            visit("vera_A", self.projection_->a, role);
            visit("vera_B", self.projection_->b, role);
        }
    }

private:
    static std::string text(std::size_t rank, LayerShape shape) {
        return "rank " + std::to_string(rank) + ", in " + std::to_string(shape.in) + ", out " + std::to_string(shape.out);
    }
    low_rank::Factors<T> factors() const noexcept {
        const SharedProjection<T>& shared = *projection_;
        return {shared.a.value().block(0, 0, shared.rank(), shape_.in), shared.b.value().rows(0, shape_.out)};
    }
    low_rank::Diagonals<T> diagonals() const noexcept { return {d_.flat(), b_.flat()}; }
    DropoutMask mask(const Call<VeRA>& call) const { return low_rank::mask_of(call, options_.dropout, options_.seed); }

    LayerShape shape_;
    Options options_;
    Parameter<T> b_;
    Parameter<T> d_;
    Projection projection_;
};

PEFT_ISA_END

PEFT_BEGIN

template <Scalar T> struct hf_format<VeRA<T>> {
    using O = typename VeRA<T>::Options;
    static constexpr std::string_view peft_type = "VERA";
    static constexpr std::array keys{TensorKey{"vera_lambda_b", "vera_lambda_b"}, TensorKey{"vera_lambda_d", "vera_lambda_d"},
                                     TensorKey{"vera_A", "vera_A", true}, TensorKey{"vera_B", "vera_B", true}};
    static constexpr std::tuple fields{ConfigField{"r", &O::rank, Scope::extent}, ConfigField{"d_initial", &O::d_initial}, ConfigField{"vera_dropout", &O::dropout},
                                       ConfigField{"save_projection", &O::save_projection}, ConfigField{"projection_prng_key", &O::projection_seed}};
    static void verify(const ConfigView& config) {
        config.expect_flag("fan_in_fan_out");
        config.expect_number("vera_dropout", [](double p) { return p >= 0 && p < 1; }, "a number in [0, 1)");
    }
    /// The projections of the file, or those its seed stands for: their size must then come from the caller.
    template <class Context> static typename VeRA<T>::Projection shared(const O& options, Context& context) {
        const Matrix<T> a = context.read_model("vera_A");
        const Matrix<T> b = context.read_model("vera_B");
        if (!options.save_projection && !(a.empty() && b.empty())) {
            context.refuse("the file holds the shared projections and says that it leaves them out", {.subject = "save_projection", .expected = "true", .found = "false"});
        }
        if (!a.empty() && !b.empty()) return SharedProjection<T>::of(a, b);
        if (a.empty() != b.empty()) context.refuse("one of the two projections is missing", {.subject = a.empty() ? "base_model.vera_A" : "base_model.vera_B"});
        const LayerShape largest = context.options().largest;
        if (largest.in == 0 || largest.out == 0) {
            context.refuse("the file leaves the shared projections out; to make them again from the seed, say the largest in and out over all targets: load_adapter(dir, {.largest = {in, out}})",
                           {.subject = "save_projection"});
        }
        context.expect_rank("r", options.rank);
        return SharedProjection<T>::seeded(options.rank, largest, options.projection_seed);
    }
};

PEFT_END
