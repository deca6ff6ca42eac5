#pragma once
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/kernels/channel.hpp>
#include <peft/kernels/elementwise.hpp>
#include <peft/kernels/random_basis.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <tuple>

PEFT_BEGIN

/// Defaults: class LoRA of gpt/src/model_nola.py in UCDvision/NOLA.
struct NOLAOptions {
    std::size_t rank = 16;
    std::size_t basis_a = 1024;   ///< k_A, matrices that A is mixed from
    std::size_t basis_b = 1024;   ///< k_B
    double alpha = 1;
    double dropout = 0;
    std::uint64_t seed = 0;
};

PEFT_END

PEFT_ISA_BEGIN

/// A basis that is never stored. Number j of A_i is (2 u - 1) / sqrt(k_A) with u = CounterRandom(key).uniform(i * rank * in + j),
/// key = {seed, stream, Purpose::basis, 0}; B_i has step 1; A0 is (2 u - 1) / sqrt(in) of step 2; B0 is 0. The stream becomes
/// the layer's at the first adapt() and is kept in files, so that a layer of another name or weight makes the same basis.
class SeededBasis {
public:
    SeededBasis(LayerShape shape, const NOLAOptions& options) : shape_(shape), options_(options), stream_(1, 2) {}

    template <class T> void start(const BaseView<T>&, std::uint64_t stream) {
        if (stream_.version() != 0) return;
        stream_.value()(0, 0) = static_cast<std::int32_t>(static_cast<std::uint32_t>(stream));
        stream_.value()(0, 1) = static_cast<std::int32_t>(static_cast<std::uint32_t>(stream >> 32));
        stream_.touch();
    }
    /// False before the first adapt() of a basis that was not loaded.
    bool settled() const noexcept { return stream_.version() != 0; }
    /// a = A0 + sum_i alpha_i A_i, b = sum_j beta_j B_j.
    template <Scalar T> void expand(std::span<const T> alpha, std::span<const T> beta, std::span<T> a, std::span<T> b) const {
        constexpr T one = 1;
        std::fill(a.begin(), a.end(), T(0));
        std::fill(b.begin(), b.end(), T(0));
        add_combination<T>(start_a(), std::span<const T>(&one, 1), a);
        add_combination<T>(basis_a(), alpha, a);
        add_combination<T>(basis_b(), beta, b);
    }
    /// d_alpha_i += <da, A_i>, d_beta_j += <db, B_j>.
    template <Scalar T> void project(std::span<const T> da, std::span<const T> db, std::span<T> d_alpha, std::span<T> d_beta) const {
        add_projections<T>(basis_a(), da, d_alpha);
        add_projections<T>(basis_b(), db, d_beta);
    }

    RandomBasis basis_a() const noexcept { return {key(0), options_.rank * shape_.in, 1 / std::sqrt(static_cast<double>(options_.basis_a))}; }
    RandomBasis basis_b() const noexcept { return {key(1), options_.rank * shape_.out, 1 / std::sqrt(static_cast<double>(options_.basis_b))}; }
    RandomBasis start_a() const noexcept { return {key(2), options_.rank * shape_.in, 1 / std::sqrt(static_cast<double>(shape_.in))}; }

    template <class Self, class Visitor> static void each_tensor(Self& self, Visitor&& visit) {
        visit("nola_stream", self.stream_, Role::index, TensorShape::of(2));
    }

private:
    StreamKey key(std::uint64_t tensor) const noexcept {
        const auto words = stream_.flat();
        const std::uint64_t stream = static_cast<std::uint32_t>(words[0]) | std::uint64_t{static_cast<std::uint32_t>(words[1])} << 32;
        return {options_.seed, stream, Purpose::basis, tensor};
    }

    LayerShape shape_;
    NOLAOptions options_;
    Parameter<std::int32_t> stream_;   ///< lower and upper half
};

/// A basis in memory and in files: A_i are the rows of a() (k_A x rank*in), B_j those of b() (k_B x out*rank), A0 (rank x in)
/// and B0 (out x rank). Where they are assigned they may be anything; the first adapt() fills what nobody assigned with the
/// numbers SeededBasis would make.
template <Scalar T> class StoredBasis {
public:
    StoredBasis(LayerShape shape, const NOLAOptions& options)
        : drawn_(shape, options), a_(options.basis_a, detail::checked_size(options.rank, shape.in, sizeof(T))),
          b_(options.basis_b, detail::checked_size(options.rank, shape.out, sizeof(T))), a0_(options.rank, shape.in), b0_(shape.out, options.rank) {}

    void start(const BaseView<T>& base, std::uint64_t stream) {
        drawn_.start(base, stream);
        draw(drawn_.basis_a(), a_);
        draw(drawn_.basis_b(), b_);
        draw(drawn_.start_a(), a0_);
    }
    bool settled() const noexcept { return a_.version() != 0 && b_.version() != 0 && a0_.version() != 0; }
    void expand(std::span<const T> alpha, std::span<const T> beta, std::span<T> a, std::span<T> b) const {
        mix(a0_, a_, alpha, a);
        mix(b0_, b_, beta, b);
    }
    void project(std::span<const T> da, std::span<const T> db, std::span<T> d_alpha, std::span<T> d_beta) const {
        multiply_nt<T, T>(MatrixView<const T>(da.data(), 1, da.size()), a_.value(), row(d_alpha), {.scale = 1, .accumulate = true, .bias = {}});
        multiply_nt<T, T>(MatrixView<const T>(db.data(), 1, db.size()), b_.value(), row(d_beta), {.scale = 1, .accumulate = true, .bias = {}});
    }

    Parameter<T>& a() noexcept { return a_; }
    Parameter<T>& b() noexcept { return b_; }
    Parameter<T>& a0() noexcept { return a0_; }
    Parameter<T>& b0() noexcept { return b0_; }

    template <class Self, class Visitor> static void each_tensor(Self& self, Visitor&& visit) {
        visit("nola_basis_A", self.a_, Role::frozen, TensorShape::of(self.a_.rows(), self.a0_.rows(), self.a0_.cols()));
        visit("nola_basis_B", self.b_, Role::frozen, TensorShape::of(self.b_.rows(), self.b0_.rows(), self.b0_.cols()));
        visit("nola_A0", self.a0_, Role::frozen, TensorShape{});
        visit("nola_B0", self.b0_, Role::frozen, TensorShape{});
    }

private:
    static MatrixView<T> row(std::span<T> values) noexcept { return {values.data(), 1, values.size()}; }
    static void draw(const RandomBasis& basis, Parameter<T>& to) {
        if (to.version() != 0) return;
        fill_uniform<T>(basis.key, basis.scale, to.state()->value.flat());
        to.touch();
    }
    /// to = start + sum_i c_i basis_i
    static void mix(const Parameter<T>& start, const Parameter<T>& basis, std::span<const T> c, std::span<T> to) {
        copy<T>(start.flat(), to);
        multiply_nn<T, T>(MatrixView<const T>(c.data(), 1, c.size()), basis.value(), row(to), {.scale = 1, .accumulate = true, .bias = {}});
    }

    SeededBasis drawn_;
    Parameter<T> a_, b_, a0_, b0_;
};

/// NOLA: W' = W + s B A with A = A0 + sum_i alpha_i A_i, B = B0 + sum_j beta_j B_j and s = alpha / rank: LoRA whose factors are
/// mixed from frozen random matrices, U(-1, 1) / sqrt(k), so that the number of trained coefficients, k_A + k_B, depends
/// neither on the rank nor on the layer. They start at 0: a fresh adapter changes nothing, and since B is 0 then, the first
/// gradient of the alpha_i is exactly 0. A and B are derived values (expanded by prepare() and by each training forward);
/// backward projects their gradients on the basis. SeededBasis makes the basis anew each time, StoredBasis<T> holds it.
/// Throws OptionError as LoRA does, and when k_A or k_B is 0.
/// Source: Koohpayegani et al. 2023, arXiv:2310.02556, eqs. 2 and 3; A0 and the factor 1 / sqrt(k) from gpt/src/model_nola.py
/// in UCDvision/NOLA, whose random stream is torch's: their adapters are read with a StoredBasis.
template <Scalar T, class Basis = SeededBasis> class NOLA {
public:
    using value_type = T;
    using Options = NOLAOptions;
    using Cache = low_rank::Cache<T>;
    struct Derived {
        Matrix<T> a;   ///< A (rank x in)
        Matrix<T> b;   ///< B (out x rank)
    };

    explicit NOLA(LayerShape shape, const Options& options = {})
        : shape_(shape), options_(checked(options)), alpha_(1, options.basis_a), beta_(1, options.basis_b), basis_(shape, options), scale_(LoRA<T>::scale_of(lora_options())) {}

    LayerShape shape() const noexcept { return shape_; }
    const Options& options() const noexcept { return options_; }
    T scale() const noexcept { return scale_; }
    Parameter<T>& alpha() noexcept { return alpha_; }
    Parameter<T>& beta() noexcept { return beta_; }
    Basis& basis() noexcept { return basis_; }
    const Basis& basis() const noexcept { return basis_; }

    /// Settles the basis, unless it was loaded. Called by adapt.
    void start(const BaseView<T>& base, std::uint64_t stream) { basis_.start(base, stream); }

    void derive(const BaseView<T>&, Derived& derived) const {
        if (derived.a.empty()) derived = {Matrix<T>(options_.rank, shape_.in), Matrix<T>(shape_.out, options_.rank)};
        basis_.expand(alpha_.flat(), beta_.flat(), derived.a.flat(), derived.b.flat());
    }

    void adapt_output(const Call<NOLA>& call, MatrixView<const T> x, MatrixView<T> y) const {
        low_rank::forward(call, factors(call.derived), scale_, low_rank::mask_of(call, options_.dropout, options_.seed), x, y, call.cache);
    }
    void backward_output(const Call<NOLA>& call, MatrixView<const T> x, MatrixView<const T> dy, MatrixView<T> dx) {
        ArenaScope scope(call.scratch);
        const MatrixView<T> da = scope.matrix<T>(options_.rank, shape_.in);
        const MatrixView<T> db = scope.matrix<T>(shape_.out, options_.rank);
        fill<T>(T(0), da);
        fill<T>(T(0), db);
        low_rank::backward(call, factors(call.derived), low_rank::Gradients<T>{da, db}, scale_, low_rank::mask_of(call, options_.dropout, options_.seed), x, dy, dx, call.cache);
        basis_.project(std::span<const T>(da.data(), da.rows() * da.cols()), std::span<const T>(db.data(), db.rows() * db.cols()), alpha_.state()->grad.flat(), beta_.state()->grad.flat());
    }
    PlanPointer<T> plan(const BaseView<T>&, const Derived& derived) const { return std::make_shared<low_rank::Plan<T>>(factors(derived), scale_); }

    /// The same change as a plain LoRA that holds the expanded factors: what upstream can read. Throws StateError before the
    /// first adapt().
    LoRA<T> to_lora() const {
        if (!basis_.settled()) throw StateError("the basis is settled by the first adapt()", {.subject = "nola: to_lora"});
        LoRA<T> lora(shape_, lora_options());
        Derived derived;
        derive({}, derived);
        lora.a().assign(derived.a);
        lora.b().assign(derived.b);
        return lora;
    }

    template <class Self, class Visitor> static void each_tensor(Self& self, Visitor&& visit) {
        visit("nola_alpha", self.alpha_, Role::trained, TensorShape::of(self.alpha_.cols()));
        visit("nola_beta", self.beta_, Role::trained, TensorShape::of(self.beta_.cols()));
        Basis::each_tensor(self.basis_, visit);
    }

private:
    static low_rank::Factors<T> factors(const Derived& derived) noexcept { return {derived.a, derived.b}; }
    typename LoRA<T>::Options lora_options() const {
        return {.rank = options_.rank, .alpha = options_.alpha, .dropout = options_.dropout, .seed = options_.seed};
    }
    static const Options& checked(const Options& options) {
        static_cast<void>(LoRA<T>::checked({.rank = options.rank, .alpha = options.alpha, .dropout = options.dropout}));
        if (options.basis_a == 0) throw OptionError("a basis of 0 matrices trains nothing", {.subject = "nola: basis_a", .expected = "at least 1", .found = "0"});
        if (options.basis_b == 0) throw OptionError("a basis of 0 matrices trains nothing", {.subject = "nola: basis_b", .expected = "at least 1", .found = "0"});
        return options;
    }

    LayerShape shape_;
    Options options_;
    Parameter<T> alpha_;
    Parameter<T> beta_;
    Basis basis_;
    T scale_;
};

PEFT_ISA_END

PEFT_BEGIN

/// Upstream has no NOLA: the type, the keys and the name of the generator are ours.
struct NOLAFormat {
    using O = NOLAOptions;
    static constexpr std::string_view peft_type = "X_NOLA";
    static constexpr std::string_view generator = "peft-counter-v1";
    static constexpr std::tuple fields{ConfigField{"r", &O::rank, Scope::rank}, ConfigField{"lora_alpha", &O::alpha, Scope::alpha}, ConfigField{"lora_dropout", &O::dropout},
                                       ConfigField{"num_basis_A", &O::basis_a, Scope::extent}, ConfigField{"num_basis_B", &O::basis_b, Scope::extent}, ConfigField{"seed", &O::seed}};
    static bool stored(const ConfigView& config) { return config.flag("stored_basis"); }
    static void verify(const ConfigView& config) { config.expect_flag("stored_basis"); }
};

template <Scalar T> struct hf_format<NOLA<T, SeededBasis>> : NOLAFormat {
    static constexpr std::array keys{TensorKey{"nola_alpha", "nola_alpha"}, TensorKey{"nola_beta", "nola_beta"}, TensorKey{"nola_stream", "nola_stream"}};
    static Value write_generator(const O&) { return Value(generator); }
    static void read_generator(const Value&, O&) {}   // verify() has looked at it
    static constexpr std::tuple fields =
        std::tuple_cat(NOLAFormat::fields, std::tuple{FixedField{"stored_basis", false}, ComputedField<O>{"prng", &write_generator, &read_generator}});
    static bool claims(const ConfigView& config) { return !stored(config); }
    /// The numbers of the basis are in no file: they are those of a generator that has to be known.
    static void verify(const ConfigView& config) {
        NOLAFormat::verify(config);
        const Value* named = config.value().find("prng");
        if (config.text("prng") == generator) return;
        throw UnsupportedError("the basis comes from another generator", {.subject = "prng", .expected = std::string(generator), .found = named == nullptr ? "nothing" : named->describe()});
    }
};

template <Scalar T> struct hf_format<NOLA<T, StoredBasis<T>>> : NOLAFormat {
    static constexpr std::array keys{TensorKey{"nola_alpha", "nola_alpha"}, TensorKey{"nola_beta", "nola_beta"}, TensorKey{"nola_basis_A", "nola_basis_A"},
                                     TensorKey{"nola_basis_B", "nola_basis_B"}, TensorKey{"nola_A0", "nola_A0"}, TensorKey{"nola_B0", "nola_B0"}};
    static constexpr std::tuple fields = std::tuple_cat(NOLAFormat::fields, std::tuple{FixedField{"stored_basis", true}});
    static bool claims(const ConfigView& config) { return stored(config); }
    template <class Context> static void expect(LayerShape shape, const O& options, const Context& context) {
        context.expect_tensor("nola_basis_A", TensorShape::of(options.basis_a, options.rank, shape.in));
        context.expect_tensor("nola_basis_B", TensorShape::of(options.basis_b, shape.out, options.rank));
    }
};

PEFT_END
