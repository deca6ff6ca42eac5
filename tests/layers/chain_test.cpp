#include "contract/contract.hpp"
#include "support/allocation_counter.hpp"

#include <peft/adapters/channel/ia3.hpp>
#include <peft/adapters/channel/ssf.hpp>
#include <peft/adapters/full/trained.hpp>
#include <peft/adapters/low_rank/dora.hpp>
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/layers/chain.hpp>
#include <peft/layers/per_row.hpp>
#include <peft/optim/sgd.hpp>

#include <vector>

namespace {

using namespace peft_test;
using Any = peft::AnyAdapter<double>;

constexpr LayerShape shape{13, 9};

peft::DenseLinear<double> base_layer() {
    return peft::DenseLinear<double>(random_matrix<double>(shape.out, shape.in, 1), random_matrix<double>(1, shape.out, 2));
}

double largest_difference(const Matrix<double>& a, const Matrix<double>& b) {
    REQUIRE(a.size() == b.size());
    double largest = 0;
    for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a.data()[i] - b.data()[i]));
    return largest;
}

std::vector<Any> parts(bool with_dora) {
    std::vector<Any> list;
    list.push_back(peft::LoRA<double>(shape, {.rank = 2}));
    list.push_back(peft::IA3<double>(shape, {.feedforward = true}));
    if (with_dora) list.push_back(peft::DoRA<double>(shape, {.rank = 2, .detach_norm = false}));
    list.push_back(peft::Trained<double>(shape, {.weight = false}));
    list.push_back(peft::IA3<double>(shape, {.feedforward = true}));
    list.push_back(peft::SSF<double>(shape));
    list.push_back(peft::LoRA<double>(shape, {.rank = 3, .bias = true}));
    return list;
}

}  // namespace

TEST_CASE("chain: is the same map as nested layers", "") {
    auto fc = base_layer();
    auto nested_base = base_layer();
    auto inner = peft::adapt(nested_base, peft::LoRA<double>(shape, {.rank = 2}), 5);
    auto middle = peft::adapt(inner, peft::IA3<double>(shape, {.feedforward = true}), 6);
    auto outer = peft::adapt(middle, peft::SSF<double>(shape), 7);
    std::vector<Any> list;
    list.push_back(peft::LoRA<double>(shape, {.rank = 2}));
    list.push_back(peft::IA3<double>(shape, {.feedforward = true}));
    list.push_back(peft::SSF<double>(shape));
    auto chain = peft::adapt(fc, Any(peft::Chain<double>(std::move(list))), 5);
    disturb(outer, 100);
    disturb(chain, 100);
    const auto x = random_matrix<double>(4, shape.in, 3), dy = random_matrix<double>(4, shape.out, 4);
    const double bound = 1e3 * std::numeric_limits<double>::epsilon();   // sums of 13 terms below 10 in another order
    CHECK(largest_difference(outer.forward(x), chain.forward(x)) <= bound);

    Matrix<double> y(4, shape.out), dx(4, shape.in), nested_dx(4, shape.in);
    auto tape = chain.make_tape();
    auto nested_tape = outer.make_tape();
    chain.forward(x, y, tape);
    chain.backward(dy, dx, tape);
    outer.forward(x, y, nested_tape);
    outer.backward(dy, nested_dx, nested_tape);
    CHECK(largest_difference(dx, nested_dx) <= bound);
    auto mine = peft::parameters(chain), theirs = peft::parameters(outer);
    REQUIRE(mine.size() == theirs.size());
    for (std::size_t k = 0; k < mine.size(); ++k) {
        for (std::size_t i = 0; i < mine[k].size(); ++i) CHECK(std::abs(mine[k].grad()[i] - theirs[k].grad()[i]) <= bound);
    }
}

TEST_CASE("chain: gradients of all parts agree with central differences", "") {
    auto fc = base_layer();
    auto layer = peft::adapt(fc, Any(peft::Chain<double>(parts(true))), 5);
    disturb(layer, 100);
    check_gradients(layer, random_matrix<double>(4, shape.in, 3), 4);
}

TEST_CASE("chain: the gradient passes through input methods above a layer trained in full", "") {
    std::vector<Any> list;
    list.push_back(peft::Trained<double>(shape));
    list.push_back(peft::IA3<double>(shape, {.feedforward = true}));
    auto fc = base_layer(), bare = base_layer();
    auto chain = peft::adapt(fc, Any(peft::Chain<double>(std::move(list))), 5);
    auto inner = peft::adapt(bare, peft::Trained<double>(shape), 5);
    auto nested = peft::adapt(inner, peft::IA3<double>(shape, {.feedforward = true}), 6);
    disturb(chain, 100);
    disturb(nested, 100);
    const auto x = random_matrix<double>(4, shape.in, 3), dy = random_matrix<double>(4, shape.out, 4);
    Matrix<double> y(4, shape.out), dx(4, shape.in), wanted(4, shape.in);
    auto chain_tape = chain.make_tape();
    auto nested_tape = nested.make_tape();
    chain.forward(x, y, chain_tape);
    chain.backward(dy, dx, chain_tape);
    nested.forward(x, y, nested_tape);
    nested.backward(dy, wanted, nested_tape);
    const double bound = 1e3 * std::numeric_limits<double>::epsilon();
    CHECK(largest_difference(dx, wanted) <= bound);
    const auto have = chain.parameters(), want = nested.parameters();
    REQUIRE(have.size() == want.size());
    for (std::size_t i = 0; i < have.size(); ++i) {
        INFO(have[i].name);
        CHECK(largest_difference(have[i].state->grad, want[i].state->grad) <= bound);
    }
}

TEST_CASE("chain: merged equals unmerged, and unmerge restores every byte", "") {
    for (const bool with_dora : {false, true}) {   // a DoRA above what leaves the bias alone
        auto fc = base_layer();
        const auto weight = fc.stored();
        const Matrix<double> bias(MatrixView<const double>(fc.bias().data(), 1, shape.out));
        auto list = parts(false);
        if (with_dora) {
            list.clear();
            list.push_back(peft::LoRA<double>(shape, {.rank = 2}));
            list.push_back(peft::DoRA<double>(shape, {.rank = 2}));
        }
        auto layer = peft::adapt(fc, Any(peft::Chain<double>(std::move(list))), 5);
        disturb(layer, 100);
        const auto x = random_matrix<double>(4, shape.in, 3);
        const auto before = layer.forward(x);
        layer.merge();
        CHECK(largest_difference(layer.forward(x), before) <= 1e3 * std::numeric_limits<double>::epsilon());
        CHECK_FALSE(same_bytes(fc.stored(), weight));
        layer.unmerge();
        CHECK(same_bytes(fc.stored(), weight));
        CHECK(same_bytes<double>(std::as_const(fc).bias(), bias.flat()));
    }
}

TEST_CASE("chain: a trained bias above methods that change the bias merges to what forward computes", "") {
    for (const bool ssf : {false, true}) {
        std::vector<Any> list;
        if (ssf) list.push_back(peft::SSF<double>(shape));
        else list.push_back(peft::LoRA<double>(shape, {.rank = 2, .bias = true}));
        list.push_back(peft::Trained<double>(shape, {.weight = false}));
        auto fc = base_layer();
        auto layer = peft::adapt(fc, Any(peft::Chain<double>(std::move(list))), 5);
        disturb(layer, 100);
        const auto x = random_matrix<double>(4, shape.in, 3);
        const auto before = layer.forward(x);
        layer.merge();
        CHECK(largest_difference(layer.forward(x), before) <= 1e3 * std::numeric_limits<double>::epsilon());
    }
}

TEST_CASE("chain: a sum of low-rank methods is added to the weight and rounded once", "") {
    std::vector<Any> list;
    list.push_back(peft::LoRA<double>(shape, {.rank = 2}));
    list.push_back(peft::LoRA<double>(shape, {.rank = 3}));
    auto fc = base_layer();
    auto layer = peft::adapt(fc, Any(peft::Chain<double>(std::move(list))), 5);
    disturb(layer, 100);
    CHECK(layer.plan()->additive());
    const auto report = layer.merge();
    CHECK(report.relative_error < std::numeric_limits<double>::epsilon() * 10);
    CHECK(report.changing == shape.in * shape.out);
}

TEST_CASE("chain: a sum of changes that is no number is refused, not skipped", "") {
    const auto huge = [](double sign) {
        peft::LoRA<double> method(shape, {.rank = 1, .alpha = 1});
        Matrix<double> a(1, shape.in), b(shape.out, 1);
        peft::fill<double>(1e200, a.view());
        peft::fill<double>(sign * 1e200, b.view());
        method.a().assign(a);
        method.b().assign(b);
        return method;
    };
    std::vector<Any> list;
    list.push_back(huge(1));    // changes by infinity ...
    list.push_back(huge(-1));   // ... and back: NaN
    auto fc = base_layer();
    const auto weight = fc.stored();
    auto layer = peft::adapt(fc, Any(peft::Chain<double>(std::move(list))), 5);
    CHECK_THROWS_AS(layer.merge(), peft::NumericError);
    CHECK(same_bytes(fc.stored(), weight));
}

TEST_CASE("chain: a second inference and a second training step allocate nothing, however long the names", "") {
    auto fc = base_layer();
    std::vector<Any> list;
    list.push_back(peft::DoRA<double>(shape, {.rank = 2}));   // "0.lora_magnitude_vector" does not fit a short string
    list.push_back(peft::Trained<double>(shape, {.weight = false}));
    auto layer = peft::adapt(fc, Any(peft::Chain<double>(std::move(list))), 5);
    const auto x = random_matrix<double>(4, shape.in, 3), dy = random_matrix<double>(4, shape.out, 4);
    Matrix<double> y(4, shape.out), dx(4, shape.in);
    auto tape = layer.make_tape();
    for (int round = 0; round < 2; ++round) {
        const AllocationCount count;
        layer.forward(x, y);
        layer.forward(x, y, tape);
        layer.backward(dy, dx, tape);
        if (round == 1) CHECK(count.so_far() == 0);
    }
}

TEST_CASE("chain: refuses what has no meaning", "") {
    CHECK_THROWS_AS(peft::Chain<double>({}), peft::OptionError);
    std::vector<Any> late;
    late.push_back(peft::LoRA<double>(shape));
    late.push_back(peft::Trained<double>(shape));
    CHECK_THROWS_AS(peft::Chain<double>(std::move(late)), peft::OptionError);
    std::vector<Any> above;
    above.push_back(peft::SSF<double>(shape));
    above.push_back(peft::DoRA<double>(shape));
    CHECK_THROWS_AS(peft::Chain<double>(std::move(above)), peft::OptionError);
    std::vector<Any> below;
    below.push_back(peft::DoRA<double>(shape));
    below.push_back(peft::SSF<double>(shape));
    CHECK_NOTHROW(peft::Chain<double>(std::move(below)));
    std::vector<Any> mixed;
    mixed.push_back(peft::LoRA<double>(shape));
    mixed.push_back(peft::LoRA<double>(LayerShape{5, 5}));
    CHECK_THROWS_AS(peft::Chain<double>(std::move(mixed)), peft::ShapeError);
}

TEST_CASE("any adapter: copies are independent and keep what the method is", "") {
    Any one = peft::LoRA<double>(shape, {.rank = 2});
    auto fc = base_layer();
    one.start(peft::detail::base_view(fc), 3);
    Any two = one;
    auto* lora = two.get_if<peft::LoRA<double>>();
    REQUIRE(lora != nullptr);
    CHECK(two.get_if<peft::SSF<double>>() == nullptr);
    lora->a().value()(0, 0) += 1;
    CHECK(one.get_if<peft::LoRA<double>>()->a().value()(0, 0) != lora->a().value()(0, 0));
    CHECK(one.describe().peft_type == "LORA");
}

TEST_CASE("any adapter: a nested layer infers after merge and unmerge without prepare", "") {
    auto fc = base_layer();
    auto inner = peft::adapt(fc, peft::LoRA<double>(shape, {.rank = 2}), 5);
    auto outer = peft::adapt(inner, Any(peft::LoRA<double>(shape, {.rank = 2})), 6);
    disturb(outer, 100);
    const auto x = random_matrix<double>(4, shape.in, 3);
    const auto before = outer.forward(x);
    outer.merge();
    outer.unmerge();
    CHECK(same_bytes(outer.forward(x), before));
    outer.method().get_if<peft::LoRA<double>>()->b().value()(0, 0) = std::numeric_limits<double>::infinity();
    CHECK_THROWS_AS(outer.merge(), peft::NumericError);
    CHECK_FALSE(inner.merged());
    CHECK_NOTHROW(outer.forward(x));
}

TEST_CASE("any adapter: a base that cannot be read is refused at run time where the method reads it", "") {
    auto fc = base_layer();
    auto inner = peft::adapt(fc, peft::LoRA<double>(shape));
    CHECK_THROWS_AS(peft::adapt(inner, Any(peft::DoRA<double>(shape))), peft::StateError);
    CHECK_NOTHROW(peft::adapt(fc, Any(peft::DoRA<double>(shape))));
}

TEST_CASE("per row: each row goes through the adapter it names", "") {
    auto fc = base_layer();
    std::vector<Any> methods;
    methods.push_back(peft::LoRA<double>(shape, {.rank = 2}));
    methods.push_back(peft::IA3<double>(shape, {.feedforward = true}));
    methods.push_back(peft::DoRA<double>(shape, {.rank = 2}));
    methods.push_back(peft::Chain<double>(parts(false)));
    methods.push_back(peft::Trained<double>(shape));
    const auto x = random_matrix<double>(11, shape.in, 3);
    peft::PerRow<peft::DenseLinear<double>> mixed(fc);
    std::vector<Matrix<double>> alone;
    for (auto& method : methods) {
        auto layer = peft::adapt(fc, method, 5);
        disturb(layer, 100);
        alone.push_back(layer.forward(x));
        CHECK(mixed.add(layer.method()) == alone.size() - 1);
    }
    Matrix<double> plain(11, shape.out);
    fc.forward(x, plain);
    const std::size_t base = mixed.base_only;
    for (const std::vector<std::size_t>& which : {std::vector<std::size_t>{0, 1, 2, 3, 4, base, 3, 2, 1, 0, base},
                                                  std::vector<std::size_t>{0, 0, 0, 1, 1, 1, 3, 3, 3, base, base},
                                                  std::vector<std::size_t>(11, base)}) {
        Matrix<double> y(11, shape.out);
        mixed.forward(x, y, which);
        for (std::size_t i = 0; i < 11; ++i) {
            const Matrix<double>& want = which[i] == base ? plain : alone[which[i]];
            for (std::size_t j = 0; j < shape.out; ++j) CHECK(std::abs(y(i, j) - want(i, j)) <= 1e3 * std::numeric_limits<double>::epsilon());
        }
    }
    Matrix<double> y(11, shape.out);
    std::vector<std::size_t> wrong(11, 0);
    wrong[4] = 7;
    CHECK_THROWS_AS(mixed.forward(x, y, wrong), peft::OptionError);
    CHECK_THROWS_AS(mixed.forward(x, y, std::vector<std::size_t>(3, 0)), peft::ShapeError);
    CHECK_THROWS_AS(mixed.add(peft::LoRA<double>(LayerShape{3, 3})), peft::ShapeError);
}

TEST_CASE("per row: a base that another layer merged into asks for prepare", "") {
    auto fc = base_layer();
    auto single = peft::adapt(fc, peft::DoRA<double>(shape, {.rank = 2}));
    disturb(single, 100);
    peft::PerRow mixed(fc);
    const std::vector<std::size_t> which(3, mixed.add(single.method()));
    auto other = peft::adapt(fc, peft::LoRA<double>(shape, {.rank = 2}), 9);
    disturb(other, 200);
    other.merge();
    const auto x = random_matrix<double>(3, shape.in, 3);
    Matrix<double> y(3, shape.out);
    CHECK_THROWS_AS(mixed.forward(x, y, which), peft::StateError);
    mixed.prepare();
    single.prepare();
    mixed.forward(x, y, which);
    CHECK(largest_difference(y, single.forward(x)) <= 1e3 * std::numeric_limits<double>::epsilon());
}
