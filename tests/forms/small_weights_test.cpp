#include <peft/forms/small_weights.hpp>
#include <peft/linear/dense.hpp>

#include "support/catch.hpp"

#include <peft/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

using namespace peft;

namespace {

/// Weights of few distinct magnitudes, of both signs and with both zeros, or uniform ones.
template <class T, class S = T> DenseLinear<T, S> weights(LayerShape shape, bool few, std::uint64_t seed) {
    const CounterRandom random({.seed = seed, .purpose = Purpose::data});
    DenseLinear<T, S> base(shape, false);
    for (std::size_t i = 0; i < base.stored().size(); ++i) {
        const double uniform = 2 * random.uniform(i) - 1;
        base.stored().data()[i] = round_to<S>(static_cast<T>(few ? std::copysign(0.25 * std::floor(std::fabs(4 * uniform)), uniform) : uniform));
    }
    return base;
}

template <class Base> std::vector<double> magnitudes(const Base& base) {
    std::vector<double> result;
    for (const auto w : base.stored().flat()) result.push_back(std::fabs(static_cast<double>(widen(w))));
    return result;
}

template <class T> std::vector<std::int32_t> positions(const sparse::Selection<T>& selection) {
    const auto flat = selection.indices.flat();
    return {flat.begin(), flat.end()};
}

/// The first `count` places of a stable sort by magnitude, in rising order.
std::vector<std::int32_t> smallest(const std::vector<double>& values, std::size_t count) {
    std::vector<std::int32_t> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return values[static_cast<std::size_t>(a)] < values[static_cast<std::size_t>(b)]; });
    order.resize(count);
    std::sort(order.begin(), order.end());
    return order;
}

template <class T, class S> void check_shares(const DenseLinear<T, S>& base) {
    const std::vector<double> values = magnitudes(base);
    const auto view = detail::base_view(base);
    for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{2}, values.size() / 10, values.size() / 3, values.size() - 1, values.size()}) {
        if (count > values.size()) continue;
        INFO("count " << count);
        const auto found = sparse::select<T>(view, sparse::smallest_weights<T>(view, count));
        CHECK(positions(found) == smallest(values, count));
        CHECK(static_cast<double>(found.smallest) == *std::min_element(values.begin(), values.end()));
    }
}

}  // namespace

TEMPLATE_TEST_CASE("small weights: a share is exact and takes equal ones row by row", "", float, double) {
    using T = TestType;
    for (const LayerShape shape : {LayerShape{1, 1}, LayerShape{7, 1}, LayerShape{1, 19}, LayerShape{37, 50}}) {
        INFO("in " << shape.in << ", out " << shape.out);
        check_shares(weights<T>(shape, true, 1));
        check_shares(weights<T>(shape, false, 2));
    }
}

TEST_CASE("small weights: half-precision storage is judged by the numbers it holds") {
    check_shares(weights<float, bfloat16>({33, 40}, false, 3));
    check_shares(weights<float, float16>({33, 40}, false, 4));
    const auto base = weights<float, bfloat16>({33, 40}, false, 5);
    const auto view = detail::base_view(base);
    const std::vector<double> values = magnitudes(base);
    std::vector<std::int32_t> wanted;
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (values[i] < 0.05) wanted.push_back(static_cast<std::int32_t>(i));
    }
    REQUIRE(wanted.size() > 10);
    CHECK(positions(sparse::select<float>(view, sparse::below_threshold<float>(0.05))) == wanted);
}

TEMPLATE_TEST_CASE("small weights: the threshold is strict, and exact where T does not hold it", "", float, double) {
    using T = TestType;
    const T infinity = std::numeric_limits<T>::infinity();
    const T nan = std::numeric_limits<T>::quiet_NaN();
    const T least = std::numeric_limits<T>::denorm_min();
    const auto selected = [](const std::vector<T>& w, double threshold) {
        DenseLinear<T> base(LayerShape{w.size(), 1}, false);
        std::copy(w.begin(), w.end(), base.stored().data());
        return positions(sparse::select<T>(detail::base_view(base), sparse::below_threshold<T>(threshold)));
    };
    using List = std::vector<std::int32_t>;
    CHECK(selected({T(0.5), T(-0.5), std::nextafter(T(0.5), T(0)), -std::nextafter(T(0.5), T(0))}, 0.5) == List{2, 3});
    CHECK(selected({T(0), T(-0.0), least, nan, -nan, infinity, -infinity}, 1e-3) == List{0, 1, 2});
    CHECK(selected({std::numeric_limits<T>::max(), infinity, -infinity, nan, T(1)}, 1e308) == (sizeof(T) == 4 ? List{0, 4} : List{4}));
    const float up = 0.1f;   // above 0.1
    const float down = std::nextafter(up, 0.0f);
    CHECK(selected({static_cast<T>(up), static_cast<T>(down)}, 0.1) == List{1});
    CHECK(selected({static_cast<T>(0.3f)}, 0.3) == List{});    // 0.3f is above 0.3, 0.7f below 0.7
    CHECK(selected({static_cast<T>(0.7f)}, 0.7) == List{0});
}
