#include "contract/contract.hpp"

#include <peft/adapters/channel/ia3.hpp>
#include <peft/adapters/channel/ssf.hpp>
#include <peft/adapters/full/trained.hpp>
#include <peft/adapters/low_rank/dora.hpp>
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/core/threads.hpp>
#include <peft/layers/adapted.hpp>
#include <peft/linear/dense_view.hpp>

#include <cfenv>
#include <stdexcept>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

using namespace peft_test;
using peft::bfloat16;
using peft::float16;
using peft::MergeMode;

namespace {

/// Restores the thread count.
struct Threads {
    explicit Threads(int count) { peft::set_threads(count); }
    ~Threads() { peft::set_threads(0); }
};

/// N(0, deviation^2) rounded to the storage type.
template <class S> Matrix<S> normal_matrix(std::size_t rows, std::size_t cols, std::uint64_t seed, double deviation) {
    const peft::CounterRandom random({.seed = seed, .stream = 1, .purpose = peft::Purpose::data, .step = 0});
    Matrix<S> result(rows, cols);
    for (std::size_t i = 0; i < result.size(); ++i) result.data()[i] = peft::round_to<S>(static_cast<float>(deviation * random.normal(i)));
    return result;
}

/// A LoRA with random factors; the deviation of B A is `deviation`.
template <class T> peft::LoRA<T> random_lora(LayerShape shape, std::size_t rank, std::uint64_t seed, double deviation) {
    peft::LoRA<T> lora(shape, {.rank = rank, .alpha = static_cast<double>(rank)});
    const double each = std::sqrt(deviation / std::sqrt(static_cast<double>(rank)));
    lora.a().assign(normal_matrix<T>(rank, shape.in, seed, each));
    lora.b().assign(normal_matrix<T>(shape.out, rank, seed + 1, each));
    return lora;
}

/// Many blocks of rows, the last one short.
constexpr LayerShape many_blocks{1024, 64 * 9 + 5};

/// A layer of somebody else's: only what WritableLinear asks, with a bias that cannot be written, failing when told to.
struct Foreign {
    using value_type = float;
    Matrix<float> w;
    std::vector<float> b;
    std::size_t fail_from = static_cast<std::size_t>(-1);   // row at which writes throw
    int failures = 1;                                       // how many of them
    explicit Foreign(Matrix<float> weight, bool with_bias = false) : w(std::move(weight)), b(with_bias ? w.rows() : 0, 1.0f) {}
    LayerShape shape() const { return {w.cols(), w.rows()}; }
    std::span<const float> bias() const { return b; }
    void forward(MatrixView<const float> x, MatrixView<float> y) const { peft::multiply_nt<float>(x, w.view(), y, {.scale = 1, .accumulate = false, .bias = bias()}); }
    void backward_input(MatrixView<const float> dy, MatrixView<float> dx) const { peft::multiply_nn<float>(dy, w.view(), dx, {.scale = 1, .accumulate = true, .bias = {}}); }
    void read_rows(std::size_t first, MatrixView<float> rows) const { peft::copy<float>(w.rows(first, rows.rows()), rows); }
    void write_rows(std::size_t first, MatrixView<const float> rows) {
        for (std::size_t i = 0; i < rows.rows(); ++i) {
            if (first + i >= fail_from && failures > 0) {
                --failures;
                throw std::runtime_error("the disk is full");
            }
            std::memcpy(w.row(first + i), rows.row(i), rows.cols() * sizeof(float));
        }
    }
};

}  // namespace

TEMPLATE_TEST_CASE("merge: a fault in the last block leaves every byte as it was, whatever the mode", "", float, bfloat16, float16) {
    const Threads threads(2);
    for (const MergeMode mode : {MergeMode::journal, MergeMode::copy, MergeMode::discard}) {
        for (const int fault : {0, 1, 2}) {
            CAPTURE(static_cast<int>(mode), fault);
            peft::DenseLinear<float, TestType> base(normal_matrix<TestType>(many_blocks.out, many_blocks.in, 1, 0.02));
            auto lora = random_lora<float>(many_blocks, 2, 2, 0.002);
            Matrix<float> b(lora.b().value());
            if (fault == 0) base.stored()(many_blocks.out - 1, 3) = peft::round_to<TestType>(std::numeric_limits<float>::infinity());
            if (fault == 1) b(many_blocks.out - 1, 0) = 1e38f;          // W + D leaves the range
            if (fault == 2) b(many_blocks.out - 1, 0) = std::numeric_limits<float>::quiet_NaN();
            lora.b().assign(b);
            if (fault == 1) {
                Matrix<float> a(lora.a().value());
                a(0, 7) = 1e4f;
                lora.a().assign(a);
            }
            auto layer = peft::adapt(base, lora);
            const Matrix<TestType> before = base.stored();
            CHECK_THROWS_AS(layer.merge(mode), peft::NumericError);
            CHECK(same_bytes(base.stored(), before));
            CHECK_FALSE(layer.merged());
            CHECK(base.merge_token() == 0);
            // and after the fault is mended, it merges
            layer.method().b().assign(normal_matrix<float>(many_blocks.out, 2, 3, 0.02));
            if (fault == 0) base.stored()(many_blocks.out - 1, 3) = TestType{};
            const Matrix<TestType> mended = base.stored();
            if (fault == 1) layer.method().a().assign(normal_matrix<float>(2, many_blocks.in, 3, 0.02));
            layer.merge();
            CHECK_FALSE(same_bytes(base.stored(), mended));
            layer.unmerge();
            CHECK(same_bytes(base.stored(), mended));
        }
    }
}

TEST_CASE("merge: the message of a fault names the tensor or the rows") {
    peft::DenseLinear<float> base(normal_matrix<float>(33, 17, 1, 1));
    auto layer = peft::adapt(base, random_lora<float>({17, 33}, 2, 2, 1));
    layer.method().a().value()(1, 1) = std::numeric_limits<float>::infinity();
    CHECK_THROWS_WITH(layer.merge(), Catch::Matchers::ContainsSubstring("lora_A"));
    layer.method().a().value()(1, 1) = 0;
    base.stored()(20, 5) = std::numeric_limits<float>::quiet_NaN();
    CHECK_THROWS_WITH(layer.merge(), Catch::Matchers::ContainsSubstring("rows 0 to 32") && Catch::Matchers::ContainsSubstring("base already holds"));
}

TEST_CASE("merge: two merges, an unmerge too many and training while merged are state errors that change nothing") {
    peft::DenseLinear<float> base(normal_matrix<float>(33, 17, 1, 1), Matrix<float>(1, 33));
    auto layer = peft::adapt(base, random_lora<float>({17, 33}, 2, 2, 1));
    const Matrix<float> before = base.stored();
    const Matrix<float> x = random_matrix<float>(3, 17, 4);
    Matrix<float> y(3, 33);
    Matrix<float> dx(3, 17);
    auto tape = layer.make_tape();

    CHECK_THROWS_AS(layer.unmerge(), peft::StateError);
    CHECK(same_bytes(base.stored(), before));
    layer.forward(x, y, tape);
    layer.merge();
    const Matrix<float> merged = base.stored();
    CHECK_THROWS_AS(layer.merge(), peft::StateError);
    CHECK_THROWS_AS(layer.forward(x, y, tape), peft::StateError);
    CHECK_THROWS_AS(layer.backward(y, dx, tape), peft::StateError);   // of the forward before the merge
    CHECK(same_bytes(base.stored(), merged));
    layer.unmerge();
    CHECK(same_bytes(base.stored(), before));
    CHECK_THROWS_AS(layer.unmerge(), peft::StateError);
    layer.backward(y, dx, tape);
}

TEST_CASE("merge: what others wrote to the merged base is found before anything is changed") {
    const Threads threads(2);
    for (const MergeMode mode : {MergeMode::journal, MergeMode::copy}) {
        peft::DenseLinear<float> base(normal_matrix<float>(many_blocks.out, many_blocks.in, 1, 0.02), Matrix<float>(1, many_blocks.out));
        auto layer = peft::adapt(base, peft::LoRA<float>(many_blocks, {.rank = 2, .bias = true}));
        disturb(layer, 3);
        const Matrix<float> before = base.stored();
        layer.merge(mode);
        float& touched = base.stored()(many_blocks.out - 1, 9);
        const float old = touched;
        touched = old + 1;
        const Matrix<float> written = base.stored();
        CHECK_THROWS_AS(layer.unmerge(), peft::StateError);
        CHECK(same_bytes(base.stored(), written));
        CHECK(layer.merged());
        touched = old;
        const float old_bias = base.bias()[4];
        base.bias()[4] = 9;
        CHECK_THROWS_AS(layer.unmerge(), peft::StateError);
        base.bias()[4] = old_bias;
        layer.unmerge();
        CHECK(same_bytes(base.stored(), before));
    }
}

TEST_CASE("merge: merges into one base come off in reverse order only") {
    peft::DenseLinear<float> base(normal_matrix<float>(33, 17, 1, 1));
    const Matrix<float> before = base.stored();
    auto one = peft::adapt(base, random_lora<float>({17, 33}, 2, 2, 1));
    auto two = peft::adapt(base, random_lora<float>({17, 33}, 3, 5, 1));
    one.merge();
    two.merge();
    const Matrix<float> both = base.stored();
    CHECK_THROWS_AS(one.unmerge(), peft::StateError);
    CHECK(same_bytes(base.stored(), both));
    CHECK(one.merged());
    auto moved = std::move(two);      // a layer may move while merged
    moved.unmerge();
    one.unmerge();
    CHECK(same_bytes(base.stored(), before));

    // a record that has been used up does not work twice
    auto record = peft::merge_into(base, one.plan());
    auto copy = record;
    peft::unmerge_from(base, record);
    CHECK_THROWS_AS(peft::unmerge_from(base, copy), peft::StateError);
    CHECK_THROWS_AS(peft::unmerge_from(base, record), peft::StateError);
    CHECK(same_bytes(base.stored(), before));
}

TEST_CASE("merge: what was discarded cannot be undone") {
    peft::DenseLinear<float> base(normal_matrix<float>(33, 17, 1, 1));
    auto layer = peft::adapt(base, random_lora<float>({17, 33}, 2, 2, 1));
    CHECK(layer.merge(MergeMode::discard).journal_bytes == 0);
    const Matrix<float> merged = base.stored();
    CHECK_THROWS_AS(layer.unmerge(), peft::StateError);
    CHECK(same_bytes(base.stored(), merged));
    CHECK(layer.merged());
}

TEMPLATE_TEST_CASE("merge: modes and thread counts give the same bits, and merged_copy too", "", float, double, bfloat16, float16) {
    using T = std::conditional_t<std::is_same_v<TestType, double>, double, float>;
    const Matrix<TestType> weight = normal_matrix<TestType>(many_blocks.out, many_blocks.in, 1, 0.02);
    auto lora = random_lora<T>(many_blocks, 3, 2, 0.002);
    const auto merged = [&](MergeMode mode, int threads_merging, int threads_unmerging) {
        peft::DenseLinear<T, TestType> base(weight);
        auto layer = peft::adapt(base, lora);
        {
            const Threads threads(threads_merging);
            layer.merge(mode);
        }
        Matrix<TestType> result = base.stored();
        if (mode != MergeMode::discard) {
            const Threads threads(threads_unmerging);
            layer.unmerge();
            CHECK(same_bytes(base.stored(), weight));
        }
        return result;
    };
    const Matrix<TestType> expected = merged(MergeMode::journal, 1, 2);
    CHECK(same_bytes(merged(MergeMode::copy, 1, 8), expected));
    CHECK(same_bytes(merged(MergeMode::discard, 1, 1), expected));
    for (const int count : {2, 3, 8}) {
        CAPTURE(count);
        CHECK(same_bytes(merged(MergeMode::journal, count, 1), expected));
    }
    CHECK(same_bytes(merged(MergeMode::discard, 2, 1), expected));
    peft::DenseLinear<T, TestType> base(weight);
    const auto copy = peft::merged_copy<TestType>(peft::adapt(base, lora));
    CHECK(same_bytes(copy.stored(), expected));
    CHECK(same_bytes(base.stored(), weight));
}

TEST_CASE("merge: the report says what bfloat16 loses of a small change") {
    // A delta of 0.3 % of the weights: about 47 % of the weights do not move and half of the change is lost.
    constexpr LayerShape shape{512, 512};
    for (const auto& [share, unmoved, error] : {std::tuple{0.003, 0.47, 0.49}, std::tuple{0.3, 0.0, 0.005}}) {
        CAPTURE(share);
        peft::DenseLinear<float, bfloat16> base(normal_matrix<bfloat16>(shape.out, shape.in, 1, 0.02));
        auto layer = peft::adapt(base, random_lora<float>(shape, 64, 2, 0.02 * share));
        const peft::MergeReport report = layer.merge();
        CHECK(report.weights == shape.in * shape.out);
        CHECK(report.changing == report.weights);
        CAPTURE(report.unmoved_share(), report.relative_error);
        CHECK(std::fabs(report.unmoved_share() - unmoved) < 0.03);
        CHECK(std::fabs(report.relative_error - error) < 0.03);
        CHECK(report.journal_bytes > 0);
        CHECK(report.journal_bytes == layer.merge_record()->report.journal_bytes);
    }
    peft::DenseLinear<float> base(normal_matrix<float>(512, 512, 1, 0.02));
    const peft::MergeReport report = peft::adapt(base, random_lora<float>(shape, 8, 2, 0.02 * 0.003)).merge();
    CHECK(report.unmoved_share() < 1e-3);
    CHECK(report.relative_error < 1e-4);
}

TEST_CASE("merge: NaN and infinity in rows that the change does not touch stay, bit for bit") {
    constexpr LayerShape shape{17, 300};
    const auto plant = [](auto& base) {
        base.stored()(3, 5) = std::bit_cast<float>(0x7fa12345u);      // a signalling NaN with a payload
        base.stored()(290, 5) = std::bit_cast<float>(0xffc54321u);
        base.stored()(3, 6) = -0.0f;
        base.stored()(3, 7) = -std::numeric_limits<float>::infinity();
    };
    const auto check = [&](auto method, auto spare) {
        peft::DenseLinear<float> base(normal_matrix<float>(shape.out, shape.in, 1, 1), Matrix<float>(1, shape.out));
        plant(base);
        auto layer = peft::adapt(base, std::move(method), 7);
        disturb(layer, 3);
        for (const std::size_t row : {std::size_t{3}, std::size_t{290}}) spare(layer, row);
        layer.prepare();
        const Matrix<float> before = base.stored();
        layer.merge();
        CHECK_FALSE(same_bytes(base.stored(), before));
        CHECK(same_bytes<float>(base.stored().rows(3, 1), before.rows(3, 1)));
        CHECK(same_bytes<float>(base.stored().rows(290, 1), before.rows(290, 1)));
        layer.unmerge();
        CHECK(same_bytes(base.stored(), before));
        // touched, they are refused
        for (const auto& parameter : layer.parameters()) {
            for (float& value : parameter.value()) value += 0.25f;
            parameter.touch();
        }
        CHECK_THROWS_AS(layer.merge(), peft::NumericError);
        CHECK(same_bytes(base.stored(), before));
    };
    check(peft::LoRA<float>(shape, {.rank = 2}), [](auto& layer, std::size_t row) {
        for (std::size_t k = 0; k < 2; ++k) layer.method().b().value()(row, k) = k == 0 ? 0.0f : -0.0f;
    });
    check(peft::SSF<float>(shape), [](auto& layer, std::size_t row) { layer.parameters()[0].value()[row] = 1; });
    check(peft::IA3<float>(shape), [](auto& layer, std::size_t row) { layer.parameters()[0].value()[row] = 1; });

    // the input form of IA3 touches every row, unless all factors are one
    peft::DenseLinear<float> base(normal_matrix<float>(shape.out, shape.in, 1, 1));
    plant(base);
    const Matrix<float> before = base.stored();
    auto layer = peft::adapt(base, peft::IA3<float>(shape, {.feedforward = true}), 7);
    layer.merge();
    CHECK(same_bytes(base.stored(), before));
    layer.unmerge();
    disturb(layer, 3);
    CHECK_THROWS_AS(layer.merge(), peft::NumericError);
    CHECK(same_bytes(base.stored(), before));
}

TEST_CASE("merge: a bias is created where the base can, dropped again, and refused where it cannot") {
    constexpr LayerShape shape{17, 33};
    const auto check = [&](auto method) {
        peft::DenseLinear<float> base(normal_matrix<float>(shape.out, shape.in, 1, 1));
        const Matrix<float> before = base.stored();
        auto layer = peft::adapt(base, method);
        disturb(layer, 3);
        const Matrix<float> x = random_matrix<float>(3, shape.in, 4);
        const Matrix<float> y = layer.forward(x);
        layer.merge();
        CHECK(base.bias().size() == shape.out);
        const Matrix<float> merged = layer.forward(x);
        for (std::size_t i = 0; i < y.size(); ++i) CHECK(std::fabs(y.data()[i] - merged.data()[i]) < 1e-4f);
        layer.unmerge();
        CHECK(base.bias().empty());
        CHECK(same_bytes(base.stored(), before));
        // a failing merge takes it back too
        base.stored()(5, 5) = std::numeric_limits<float>::infinity();
        CHECK_THROWS_AS(layer.merge(), peft::NumericError);
        CHECK(base.bias().empty());

        Matrix<float> memory = before;
        peft::DenseLinearView<float> view(memory);
        auto refusing = peft::adapt(view, method);
        disturb(refusing, 3);
        CHECK_THROWS_AS(refusing.merge(), peft::StateError);
        CHECK(same_bytes(memory, before));
        CHECK_FALSE(refusing.merged());
    };
    check(peft::SSF<float>(shape));
    check(peft::LoRA<float>(shape, {.rank = 2, .bias = true}));

    // IA3 scales a bias where there is one and needs none
    Matrix<float> memory = normal_matrix<float>(shape.out, shape.in, 1, 1);
    const Matrix<float> before = memory;
    peft::DenseLinearView<float> view(memory);
    auto layer = peft::adapt(view, peft::IA3<float>(shape));
    disturb(layer, 3);
    layer.merge();
    layer.unmerge();
    CHECK(same_bytes(memory, before));

    std::vector<float> bias(shape.out, 0.5f);
    peft::DenseLinearView<float> with_bias(memory, std::span<float>(bias));
    auto scaled = peft::adapt(with_bias, peft::IA3<float>(shape));
    disturb(scaled, 3);
    scaled.merge();
    CHECK(bias[7] != 0.5f);
    scaled.unmerge();
    CHECK(bias == std::vector<float>(shape.out, 0.5f));
}

TEST_CASE("merge: a bias that cannot be written is refused instead of forgotten") {
    Foreign base(normal_matrix<float>(33, 17, 1, 1), true);
    const Matrix<float> before = base.w;
    auto layer = peft::adapt(base, peft::IA3<float>({17, 33}));
    disturb(layer, 3);
    CHECK_THROWS_AS(layer.merge(), peft::StateError);
    CHECK(same_bytes(base.w, before));
    auto lora = peft::adapt(base, random_lora<float>({17, 33}, 2, 2, 1));   // leaves the bias alone
    lora.merge();
    lora.unmerge();
    CHECK(same_bytes(base.w, before));
}

TEST_CASE("merge: a base that throws in the middle of a merge or unmerge is put back") {
    for (const int count : {1, 2}) {
        const Threads threads(count);
        for (const MergeMode mode : {MergeMode::journal, MergeMode::copy, MergeMode::discard}) {
            CAPTURE(count, static_cast<int>(mode));
            Foreign base(normal_matrix<float>(many_blocks.out, many_blocks.in, 1, 1));
            const Matrix<float> before = base.w;
            auto layer = peft::adapt(base, random_lora<float>(many_blocks, 2, 2, 1));
            base.fail_from = many_blocks.out / 2 + 3;      // inside a block
            CHECK_THROWS_AS(layer.merge(mode), std::runtime_error);
            CHECK_FALSE(layer.merged());
            if (mode == MergeMode::discard) continue;      // nothing was kept
            CHECK(same_bytes(base.w, before));
            base.failures = 0;
            layer.merge(mode);
            const Matrix<float> merged = base.w;
            base.failures = 1000;   // a block that fails is tried again
            CHECK_THROWS_AS(layer.unmerge(), std::runtime_error);
            CHECK(same_bytes(base.w, merged));
            CHECK(layer.merged());
            base.failures = 0;
            layer.unmerge();
            CHECK(same_bytes(base.w, before));
        }
    }
}

TEST_CASE("merge: the caller's rounding mode and treatment of subnormals do not reach the weights") {
    constexpr LayerShape shape{64, 64};
    const Matrix<float> weight = normal_matrix<float>(shape.out, shape.in, 1, 1e-38);   // subnormals, most of them
    peft::DenseLinear<float> base(weight);
    auto layer = peft::adapt(base, random_lora<float>(shape, 2, 2, 1e-38));
    layer.merge();
    const Matrix<float> expected = base.stored();
    layer.unmerge();
    const int old = std::fegetround();
    for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
        std::fesetround(mode);
        layer.merge();
        std::fesetround(old);
        CHECK(same_bytes(base.stored(), expected));
        layer.unmerge();
        CHECK(same_bytes(base.stored(), weight));
        layer.merge();
        std::fesetround(mode);
        layer.unmerge();
        CHECK(std::fegetround() == mode);      // and it is given back
        std::fesetround(old);
        CHECK(same_bytes(base.stored(), weight));
    }
#if defined(__SSE2__)
    const unsigned saved = _mm_getcsr();
    _mm_setcsr(saved | 0x8040u);               // flush subnormals, as a program linked with -ffast-math does
    layer.merge();
    _mm_setcsr(saved);
    CHECK(same_bytes(base.stored(), expected));
    _mm_setcsr(saved | 0x8040u);
    layer.unmerge();
    CHECK((_mm_getcsr() & 0x8040u) == 0x8040u);
    _mm_setcsr(saved);
    CHECK(same_bytes(base.stored(), weight));
#endif
}

TEST_CASE("merge: a plan for another shape is refused") {
    peft::DenseLinear<float> base(normal_matrix<float>(33, 17, 1, 1));
    peft::DenseLinear<float> other(normal_matrix<float>(17, 33, 1, 1));
    auto layer = peft::adapt(other, peft::LoRA<float>({33, 17}, {.rank = 2}));
    CHECK_THROWS_AS(peft::merge_into(base, layer.plan()), peft::ShapeError);
}

TEST_CASE("merge: layers without rows, without columns, and of one number") {
    for (const LayerShape shape : {LayerShape{0, 5}, LayerShape{5, 0}, LayerShape{0, 0}, LayerShape{1, 1}}) {
        CAPTURE(shape.in, shape.out);
        peft::DenseLinear<float> base(normal_matrix<float>(shape.out, shape.in, 1, 1));
        const Matrix<float> before = base.stored();
        auto layer = peft::adapt(base, peft::LoRA<float>(shape, {.rank = 2}));
        disturb(layer, 3);
        const Matrix<float> x = random_matrix<float>(2, shape.in, 4);
        CHECK(layer.forward(x).rows() == 2);
        layer.merge();
        CHECK(layer.forward(x).cols() == shape.out);
        layer.unmerge();
        CHECK(same_bytes(base.stored(), before));
    }
}

TEMPLATE_TEST_CASE("merge: integers merge exactly, rounding once", "", float, double, bfloat16, float16) {
    // r max|A| max|B| s + max|W| fits the fraction of every storage type: no rounding at all, so the bytes are known.
    using T = std::conditional_t<std::is_same_v<TestType, double>, double, float>;
    constexpr LayerShape shape{40, 70};
    const auto integers = [](std::size_t rows, std::size_t cols, std::uint64_t seed, int range) {
        const peft::CounterRandom random({.seed = seed, .stream = 0, .purpose = peft::Purpose::data, .step = 0});
        Matrix<T> result(rows, cols);
        for (std::size_t i = 0; i < result.size(); ++i) result.data()[i] = static_cast<T>(static_cast<int>(random.bits(i) % static_cast<unsigned>(2 * range + 1)) - range);
        return result;
    };
    const Matrix<T> w = integers(shape.out, shape.in, 1, 64);
    peft::DenseLinear<T, TestType> base(peft::MatrixView<const T>(w.view()));
    peft::LoRA<T> lora(shape, {.rank = 3, .alpha = 6});
    lora.a().assign(integers(3, shape.in, 2, 3));
    lora.b().assign(integers(shape.out, 3, 3, 3));
    auto layer = peft::adapt(base, lora);
    layer.merge();
    bool exact = true;
    for (std::size_t o = 0; o < shape.out; ++o) {
        for (std::size_t i = 0; i < shape.in; ++i) {
            T sum = w(o, i);
            for (std::size_t k = 0; k < 3; ++k) sum += 2 * lora.b().value()(o, k) * lora.a().value()(k, i);
            exact = exact && std::bit_cast<peft::detail::bits_t<TestType>>(base.stored()(o, i)) == std::bit_cast<peft::detail::bits_t<TestType>>(peft::round_to<TestType>(sum));
        }
    }
    CHECK(exact);
}

TEST_CASE("merge: merged_copy refuses what its storage type cannot hold, and knows the bias of nested layers") {
    constexpr LayerShape shape{17, 33};
    peft::DenseLinear<float> base(normal_matrix<float>(shape.out, shape.in, 1, 1));
    auto inner = peft::adapt(base, peft::SSF<float>(shape));
    disturb(inner, 3);
    auto outer = peft::adapt(inner, random_lora<float>(shape, 2, 4, 1));
    const auto copy = peft::merged_copy(outer);
    CHECK(base.bias().empty());
    outer.merge();
    CHECK(same_bytes(copy.stored(), base.stored()));
    CHECK(same_bytes(copy.bias(), std::as_const(base).bias()));
    const auto again = peft::merged_copy(outer);
    CHECK(same_bytes(again.stored(), base.stored()));
    CHECK(same_bytes(again.bias(), std::as_const(base).bias()));
    outer.unmerge();

    base.stored()(2, 3) = 1e5f;    // above the largest binary16
    CHECK_THROWS_AS(peft::merged_copy<float16>(outer), peft::NumericError);
    CHECK_NOTHROW(peft::merged_copy<bfloat16>(outer));
}

TEST_CASE("merge: an allocation that fails during merge or unmerge changes nothing, and trying again works") {
    for (const int count : {1, 2}) {
        const Threads threads(count);
        for (const bool for_good : {false, true}) {
            for (const bool nested : {false, true}) {
                CAPTURE(count, for_good, nested);
                constexpr LayerShape shape{16, 1500};         // six blocks
                peft::DenseLinear<float> base(normal_matrix<float>(shape.out, shape.in, 1, 1));
                const Matrix<float> before = base.stored();
                auto inner = peft::adapt(base, peft::SSF<float>(shape));
                disturb(inner, 3);
                auto outer = peft::adapt(inner, random_lora<float>(shape, 2, 4, 1));
                const auto merge = [&] {
                    if (nested) outer.merge();
                    else inner.merge();
                };
                const auto unmerge = [&] {
                    if (nested) outer.unmerge();
                    else inner.unmerge();
                };
                merge();
                const Matrix<float> merged = base.stored();
                unmerge();
                std::size_t points = 0;
                for (std::size_t k = 1;; ++k) {
                    bool failed = false;
                    bool happened = false;
                    const std::size_t live = live_blocks();
                    {
                        const AllocationFailure failure(k, for_good);
                        try {
                            merge();
                        } catch (const std::bad_alloc&) {
                            failed = true;
                        }
                        happened = failure.happened();
                    }
                    if (failed) {
                        if (!same_bytes(base.stored(), before) || !base.bias().empty() || inner.merged() || outer.merged()) FAIL("merge changed something, k = " << k);
                        if (count == 1 && live_blocks() > live + 4) FAIL("leak, k = " << k);
                        merge();
                    }
                    if (!same_bytes(base.stored(), merged)) FAIL("another result, k = " << k);
                    unmerge();
                    if (!happened) break;
                    ++points;
                }
                CHECK(points > 3);
                points = 0;
                for (std::size_t k = 1;; ++k) {
                    bool failed = false;
                    bool happened = false;
                    merge();
                    {
                        const AllocationFailure failure(k, for_good);
                        try {
                            unmerge();
                        } catch (const std::bad_alloc&) {
                            failed = true;
                        }
                        happened = failure.happened();
                    }
                    if (failed) {
                        const bool whole = same_bytes(base.stored(), merged) && inner.merged() && outer.merged() == nested;
                        if (!whole) FAIL("unmerge changed something, k = " << k);
                        unmerge();
                    }
                    if (!same_bytes(base.stored(), before) || !base.bias().empty()) FAIL("unmerge, k = " << k);
                    if (!happened) break;
                    ++points;
                }
                if (count == 1) CHECK(points == 0);   // with its scratch there, unmerging allocates nothing
            }
        }
    }
}
