#include "support/catch.hpp"

#include <peft/adapters/channel/ia3.hpp>
#include <peft/adapters/channel/ssf.hpp>
#include <peft/adapters/full/trained.hpp>
#include <peft/adapters/low_rank/dora.hpp>
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/adapters/low_rank/olora.hpp>
#include <peft/adapters/low_rank/pissa.hpp>
#include <peft/adapters/shared_basis/nola.hpp>
#include <peft/adapters/shared_basis/vera.hpp>
#include <peft/adapters/sparse/sara.hpp>
#include <peft/layers/adapted.hpp>
#include <peft/linear/dense.hpp>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

using peft::bfloat16;
using peft::float16;
using peft::LayerShape;
using peft::Matrix;

namespace {

template <class S> inline constexpr const char* type_name = "?";
template <> inline constexpr const char* type_name<float> = "float";
template <> inline constexpr const char* type_name<double> = "double";
template <> inline constexpr const char* type_name<bfloat16> = "bfloat16";
template <> inline constexpr const char* type_name<float16> = "float16";
template <class S> using Compute = std::conditional_t<std::is_same_v<S, double>, double, float>;
template <class S> using Bits = peft::detail::bits_t<S>;

/// Numbers drawn one after the other.
class Draw {
public:
    explicit Draw(std::uint64_t seed) : random_({.seed = seed, .stream = 0, .purpose = peft::Purpose::data, .step = 0}) {}
    std::uint32_t below(std::uint32_t n) { return random_.bits(at_++) % n; }
    double uniform() { return random_.uniform(at_++); }
    double normal() { return random_.normal(at_++); }

private:
    peft::CounterRandom random_;
    std::uint64_t at_ = 0;
};

template <class S> peft::DenseLinear<Compute<S>, S> random_base(LayerShape shape, std::uint64_t seed, double deviation) {
    using T = Compute<S>;
    Draw draw(seed);
    peft::DenseLinear<T, S> base(shape);
    for (std::size_t i = 0; i < base.stored().size(); ++i) base.stored().data()[i] = peft::round_to<S>(static_cast<T>(deviation * draw.normal()));
    for (T& value : base.bias()) value = static_cast<T>(draw.normal());
    return base;
}

/// A tenth of the weights become -0, subnormals and the smallest numbers.
template <class Base> void plant_small(Base& base, std::uint64_t seed) {
    using S = typename Base::storage_type;
    constexpr auto sign = static_cast<Bits<S>>(Bits<S>{1} << (8 * sizeof(S) - 1));
    Draw draw(seed);
    for (std::size_t i = 0; i < base.stored().size(); ++i) {
        if (draw.below(10) != 0) continue;
        const auto magnitude = static_cast<Bits<S>>(draw.below(3) == 0 ? 0 : draw.below(100));
        base.stored().data()[i] = std::bit_cast<S>(static_cast<Bits<S>>(magnitude | (draw.below(2) == 0 ? sign : 0)));
    }
}

/// NaNs with payloads, quiet and signalling, of both signs, and infinities.
template <class Base> void plant_non_finite(Base& base, const std::vector<std::size_t>& rows, std::uint64_t seed) {
    using S = typename Base::storage_type;
    constexpr auto infinity = std::is_same_v<S, float> ? 0x7f800000u : std::is_same_v<S, double> ? 0x7ff0000000000000u : std::is_same_v<S, bfloat16> ? 0x7f80u : 0x7c00u;
    constexpr auto sign = std::uint64_t{1} << (8 * sizeof(S) - 1);
    Draw draw(seed);
    for (const std::size_t row : rows) {
        for (std::size_t j = 0; j < base.shape().in; ++j) {
            if (draw.below(2) != 0) continue;
            const std::uint64_t payload = ((std::uint64_t{draw.below(1u << 31)} << 31) | draw.below(1u << 31)) & (infinity ^ (sign - 1));
            base.stored()(row, j) = std::bit_cast<S>(static_cast<Bits<S>>(infinity | payload | (draw.below(2) == 0 ? sign : 0)));
        }
    }
}

/// A layer of any method over one base.
template <class T> struct AnyLayer {
    virtual ~AnyLayer() = default;
    virtual void prepare() = 0;
    virtual Matrix<T> forward(const Matrix<T>& x) const = 0;
    virtual peft::MergeReport merge() = 0;
    virtual void unmerge() = 0;
    virtual peft::ParameterList<T> parameters() = 0;
};
template <class T, class Layer> struct LayerModel final : AnyLayer<T> {
    Layer layer;
    explicit LayerModel(Layer l) : layer(std::move(l)) {}
    void prepare() override { layer.prepare(); }
    Matrix<T> forward(const Matrix<T>& x) const override { return layer.forward(x); }
    peft::MergeReport merge() override { return layer.merge(); }
    void unmerge() override { layer.unmerge(); }
    peft::ParameterList<T> parameters() override { return layer.parameters(); }
};

/// Adds `scale` * N(0, 1) to the parameters; rows named in `spared` (of B, or of a factor per output) keep the change from
/// touching W: zeros, or ones.
template <class T, class Base, class Method>
std::unique_ptr<AnyLayer<T>> make_layer(Base& base, Method method, std::uint64_t seed, double scale, const std::vector<std::size_t>& spared) {
    auto layer = peft::adapt(base, std::move(method), seed);
    Draw draw(seed);
    for (const auto& parameter : layer.parameters()) {
        for (T& value : parameter.value()) value += static_cast<T>(scale * draw.normal());
        for (const std::size_t row : spared) {
            const std::size_t width = parameter.size() / base.shape().out;
            if (parameter.name == "lora_B") std::fill_n(parameter.value().begin() + static_cast<std::ptrdiff_t>(row * width), width, T(0));
            if (parameter.name == "ia3_l" || parameter.name == "ssf_scale") parameter.value()[row] = 1;
            if constexpr (requires { layer.method().positions(); }) {
                for (std::size_t k = 0; k < parameter.size(); ++k) {
                    if (static_cast<std::size_t>(layer.method().positions()[k]) / base.shape().in == row) parameter.value()[k] = 0;
                }
            }
        }
        parameter.touch();
    }
    layer.prepare();
    return std::make_unique<LayerModel<T, decltype(layer)>>(std::move(layer));
}

/// The base with everything that may be merged into it.
template <class S> struct Stack {
    using T = Compute<S>;
    peft::DenseLinear<T, S> base;
    std::vector<std::unique_ptr<AnyLayer<T>>> layers;
    std::unique_ptr<AnyLayer<T>> with_nan;
    std::unique_ptr<AnyLayer<T>> overflowing;
    std::vector<std::size_t> special;   // rows of non-finite numbers

    /// `sparing`: only methods that leave some rows alone, and NaN in those.
    Stack(LayerShape shape, bool sparing) : base(random_base<S>(shape, 1, 0.5)) {
        plant_small(base, 2);
        if (sparing) special = {0, 17, 255, 256, shape.out - 1};
        const auto add = [&](auto method, double scale) { layers.push_back(make_layer<T>(base, std::move(method), 10 + layers.size(), scale, special)); };
        add(peft::LoRA<T>(shape, {.rank = 1, .alpha = 0.25}), 0.4);
        add(peft::LoRA<T>(shape, {.rank = 4, .alpha = 4, .bias = true}), 0.1);
        add(peft::LoRA<T>(shape, {.rank = 16, .alpha = 0.5, .rank_stabilized = true}), 0.3);
        add(peft::IA3<T>(shape), 0.2);
        add(peft::SSF<T>(shape), 0.1);
        add(peft::SaRA<T>(shape, {.threshold = 0.05}), 0.1);
        if (!sparing) {
            add(peft::DoRA<T>(shape, {.rank = 2, .alpha = 1}), 0.1);
            add(peft::IA3<T>(shape, {.feedforward = true}), 0.2);
            add(peft::Trained<T>(shape), 0.1);
            add(peft::NOLA<T>(shape, {.rank = 4, .basis_a = 20, .basis_b = 30}), 0.3);
            add(peft::PiSSA<T>(shape, {.rank = 3, .alpha = 6}), 0.1);
            add(peft::OLoRA<T>(shape, {.rank = 3, .alpha = 3}), 0.1);
            add(peft::VeRA<T>(shape, {.rank = 5}), 0.3);
        }
        with_nan = make_layer<T>(base, peft::LoRA<T>(shape, {.rank = 2}), 30, 0.1, special);
        with_nan->parameters()[1].value()[2 * shape.out - 1] = std::numeric_limits<T>::quiet_NaN();
        // all is well up to a row near the end, where the sum leaves the range of the storage type
        overflowing = make_layer<T>(base, peft::LoRA<T>(shape, {.rank = 2}), 31, 0.1, special);
        const auto parameters = overflowing->parameters();
        parameters[0].value()[5] = std::is_same_v<S, double> ? T(1e200) : T(1e20);
        parameters[1].value()[2 * (shape.out - 3)] = std::is_same_v<S, double> ? static_cast<T>(1e200L) : T(1e20);
        plant_non_finite(base, special, 3);
    }
    std::vector<unsigned char> bytes() const {
        std::vector<unsigned char> all(base.stored().size() * sizeof(S) + base.bias().size_bytes());
        std::memcpy(all.data(), base.stored().data(), base.stored().size() * sizeof(S));
        std::memcpy(all.data() + base.stored().size() * sizeof(S), base.bias().data(), base.bias().size_bytes());
        return all;
    }
};

/// Compares the outputs before and after a merge: rounding of W' to its storage, and of the sums.
template <class S, class Base, class T> bool same_map(const Base& base, const Matrix<T>& before, const Matrix<T>& after, const Matrix<T>& x) {
    const double unit = std::is_same_v<S, bfloat16> ? 0x1p-8 : std::is_same_v<S, float16> ? 0x1p-11 : static_cast<double>(std::numeric_limits<T>::epsilon()) / 2;
    // a subnormal of the storage type is rounded to a fixed step
    const double step = std::is_same_v<S, float16> ? 0x1p-25 : 0.0;
    const double sums = static_cast<double>(std::numeric_limits<T>::epsilon()) * static_cast<double>(base.shape().in + 40);
    for (std::size_t o = 0; o < base.shape().out; ++o) {
        double size = std::fabs(static_cast<double>(base.bias()[o])) + 1;
        double inputs = 0;
        for (std::size_t i = 0; i < base.shape().in; ++i) {
            size += std::fabs(static_cast<double>(x(0, i)) * static_cast<double>(peft::widen(base.weight()(o, i))));
            inputs += std::fabs(static_cast<double>(x(0, i)));
        }
        // 4: terms that cancelled in W' are larger than W'
        if (!peft::is_finite(static_cast<double>(size))) continue;
        const double error = std::fabs(static_cast<double>(before(0, o)) - static_cast<double>(after(0, o)));
        if (!(error <= (unit + 4 * sums) * size + step * inputs)) return false;
    }
    return true;
}

}  // namespace

TEMPLATE_TEST_CASE("undo: a thousand cycles of merging and unmerging leave every byte as it was", "", float, double, bfloat16, float16) {
    using S = TestType;
    using T = Compute<S>;
    constexpr LayerShape shape{41, 300};   // two blocks of rows
    Stack<S> stacks[] = {{shape, false}, {shape, true}};
    const std::vector<unsigned char> originals[] = {stacks[0].bytes(), stacks[1].bytes()};
    const Matrix<T> x = [&] {
        Draw draw(77);
        Matrix<T> result(1, shape.in);
        for (T& value : result.flat()) value = static_cast<T>(draw.normal());
        return result;
    }();
    Draw draw(5);
    std::size_t merges = 0;
    std::size_t refused = 0;
    std::size_t out_of_order = 0;
    double journal_bytes = 0;
    for (int cycle = 1; cycle <= 1000; ++cycle) {
        CAPTURE(cycle);
        const std::size_t which = draw.below(2);
        Stack<S>& stack = stacks[which];
        // a random subset in random order
        std::vector<std::size_t> order(stack.layers.size());
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
        for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[draw.below(static_cast<std::uint32_t>(i))]);
        order.resize(1 + draw.below(4));
        for (std::size_t depth = 0; depth < order.size(); ++depth) {
            AnyLayer<T>& layer = *stack.layers[order[depth]];
            layer.prepare();
            const Matrix<T> before = layer.forward(x);
            const peft::MergeReport report = layer.merge();
            ++merges;
            journal_bytes += static_cast<double>(report.journal_bytes);
            if (report.journal_bytes > shape.in * shape.out * sizeof(S)) FAIL("the journal is larger than a copy");
            if (cycle % 16 == 1 && !same_map<S>(stack.base, before, layer.forward(x), x)) FAIL("merged and unmerged differ, layer " << order[depth]);
        }
        if (cycle % 10 == 0) {
            const std::vector<unsigned char> now = stack.bytes();
            AnyLayer<T>& failing = cycle % 20 == 0 ? *stack.with_nan : *stack.overflowing;
            CHECK_THROWS_AS(failing.merge(), peft::NumericError);
            ++refused;
            if (stack.bytes() != now) FAIL("a merge that failed changed the base");
        }
        if (order.size() > 1) {
            const std::vector<unsigned char> now = stack.bytes();
            const std::size_t early = draw.below(static_cast<std::uint32_t>(order.size() - 1));
            CHECK_THROWS_AS(stack.layers[order[early]]->unmerge(), peft::StateError);
            ++out_of_order;
            if (stack.bytes() != now) FAIL("an unmerge out of order changed the base");
        }
        for (std::size_t depth = order.size(); depth-- > 0;) stack.layers[order[depth]]->unmerge();
        if (stack.bytes() != originals[which]) FAIL("the base is not what it was");
    }
    CHECK(refused == 100);
    CHECK(out_of_order > 500);
    std::printf("undo %-8s: %zu merges in 1000 cycles, every byte restored; journal %.2f bits a weight on average, copies of trained layers included\n",
                type_name<S>, merges, 8 * journal_bytes / static_cast<double>(merges * shape.in * shape.out));
}

TEMPLATE_TEST_CASE("undo: adding and subtracting is no undo", "", float, double, bfloat16, float16) {
    using S = TestType;
    using T = Compute<S>;
    constexpr LayerShape shape{64, 64};
    auto base = random_base<S>(shape, 1, 0.02);
    Draw draw(2);
    const Matrix<S> before = base.stored();
    std::size_t changed = 0;
    for (std::size_t i = 0; i < before.size(); ++i) {
        const T delta = static_cast<T>(0.001 * draw.normal());
        S& w = base.stored().data()[i];
        w = peft::round_to<S>(static_cast<T>(peft::widen(w)) + delta);
        w = peft::round_to<S>(static_cast<T>(peft::widen(w)) - delta);
        changed += std::bit_cast<Bits<S>>(w) != std::bit_cast<Bits<S>>(before.data()[i]) ? 1 : 0;
    }
    // the comparison of the test above would fail in its first cycle
    CHECK(std::memcmp(base.stored().data(), before.data(), before.size() * sizeof(S)) != 0);
    CHECK(changed > before.size() / 50);
}

TEMPLATE_TEST_CASE("undo: the journal is at most an eighth of the weight while the change is at most 0.3 of it", "", float, double, bfloat16, float16) {
    using S = TestType;
    using T = Compute<S>;
    constexpr LayerShape shape{512, 512};
    constexpr std::size_t rank = 32;
    std::printf("journal of %-8s, bits a weight (a copy has %zu, the promise is %zu):", type_name<S>, 8 * sizeof(S), sizeof(S));
    for (const double share : {0.003, 0.03, 0.3, 3.0}) {
        auto base = random_base<S>(shape, 1, 0.02);
        const Matrix<S> before = base.stored();
        peft::LoRA<T> lora(shape, {.rank = rank, .alpha = rank});
        Draw draw(9);
        const double each = std::sqrt(0.02 * share / std::sqrt(static_cast<double>(rank)));
        for (T& value : lora.a().state()->value.flat()) value = static_cast<T>(each * draw.normal());
        for (T& value : lora.b().state()->value.flat()) value = static_cast<T>(each * draw.normal());
        lora.a().touch();
        auto layer = peft::adapt(base, std::move(lora));
        const peft::MergeReport report = layer.merge();
        std::printf("  %.2f at |D|/|W| = %g%%", report.journal_bits_per_weight(), 100 * share);
        CAPTURE(share, report.journal_bits_per_weight());
        CHECK(report.journal_bytes <= before.size() * sizeof(S));
        if (share <= 0.3) CHECK(8 * report.journal_bytes <= before.size() * sizeof(S));
        layer.unmerge();
        CHECK(std::memcmp(base.stored().data(), before.data(), before.size() * sizeof(S)) == 0);
    }
    for (const double deviation : {0.02, 0.3}) {   // |D| / |W| of a factor N(1, deviation^2)
        for (const bool input : {false, true}) {
            auto base = random_base<S>(shape, 1, 0.02);
            const Matrix<S> before = base.stored();
            auto layer = peft::adapt(base, peft::IA3<T>(shape, {.feedforward = input}));
            Draw draw(9);
            for (T& value : layer.parameters()[0].value()) value += static_cast<T>(deviation * draw.normal());
            const peft::MergeReport report = layer.merge();
            std::printf("  %.2f scaling %s by 1 +- %g", report.journal_bits_per_weight(), input ? "columns" : "rows", deviation);
            CAPTURE(deviation, input, report.journal_bits_per_weight());
            CHECK(8 * report.journal_bytes <= before.size() * sizeof(S));
            layer.unmerge();
            CHECK(std::memcmp(base.stored().data(), before.data(), before.size() * sizeof(S)) == 0);
        }
    }
    std::printf("\n");
}

TEMPLATE_TEST_CASE("undo: a base that a start was taken out of gets its bytes back, merged in between or not", "", float, double, bfloat16, float16) {
    using S = TestType;
    using T = Compute<S>;
    constexpr LayerShape shape{41, 300};
    peft::DenseLinear<T, S> base = random_base<S>(shape, 1, 0.5);
    plant_small(base, 2);
    const Matrix<S> before = base.stored();
    const auto same = [&](const Matrix<S>& now) { return std::memcmp(before.data(), now.data(), before.size() * sizeof(S)) == 0; };
    for (std::size_t cycle = 0; cycle < 5; ++cycle) {
        auto layer = peft::adapt(base, peft::PiSSA<T>(shape, {.rank = 1 + 4 * cycle, .alpha = 2, .rebase = true}));
        CHECK_FALSE(same(base.stored()));
        const Matrix<S> residual = base.stored();
        layer.merge();
        layer.unmerge();
        CHECK(std::memcmp(residual.data(), base.stored().data(), residual.size() * sizeof(S)) == 0);
        layer.restore_base();
        CHECK(same(base.stored()));
    }
}
