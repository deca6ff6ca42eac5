#include <peft/linalg/randomized_svd.hpp>
#include <peft/linear/dense.hpp>

#include "linalg/checks.hpp"
#include "support/catch.hpp"

#include <limits>

using namespace peft;
using namespace peft::test;

namespace {

/// out x in with singular values decay^i.
template <class T> Matrix<T> with_decay(std::size_t out, std::size_t in, double decay) {
    const auto f = svd(random_matrix<double>(out, in, 21));
    Matrix<double> us = f.u;
    for (std::size_t i = 0; i < out; ++i)
        for (std::size_t j = 0; j < us.cols(); ++j) us(i, j) *= std::pow(decay, static_cast<double>(j));
    return as<T>(product(us, f.vt));
}
template <class T> void check_triplets(const Matrix<T>& w, const Svd<T>& f, std::size_t rank, double tolerance) {
    REQUIRE(f.u.rows() == w.rows());
    REQUIRE(f.u.cols() == rank);
    REQUIRE(f.s.cols() == rank);
    REQUIRE(f.vt.rows() == rank);
    REQUIRE(f.vt.cols() == w.cols());
    CHECK(orthonormality_error(f.u) < 12);
    CHECK(orthonormality_error(transposed(f.vt)) < 12);
    const auto exact = svd(w);
    const auto image = product(w, transposed(f.vt));   // W v_i = s_i u_i
    for (std::size_t r = 0; r < rank; ++r) {
        CHECK(std::fabs(static_cast<double>(f.s(0, r) - exact.s(0, r))) <= tolerance * static_cast<double>(exact.s(0, 0)));
        double off = 0;
        for (std::size_t i = 0; i < w.rows(); ++i) off = std::max(off, static_cast<double>(std::fabs(image(i, r) - f.s(0, r) * f.u(i, r))));
        CHECK(off <= tolerance * static_cast<double>(exact.s(0, 0)));
    }
}

}  // namespace

TEMPLATE_TEST_CASE("randomized svd: finds the leading triplets of a matrix and of a layer", "", float, double) {
    using T = TestType;
    for (const Extent extent : {Extent{120, 80}, Extent{80, 120}, Extent{64, 64}}) {
        INFO(extent.rows << " x " << extent.cols);
        const auto w = with_decay<T>(extent.rows, extent.cols, 0.8);
        // the part that the first 18 leave, 0.8^18, has lost a factor 0.8^(10 * 8) against the eighth when the powers are done
        const double tolerance = 200 * static_cast<double>(std::numeric_limits<T>::epsilon()) + 2 * std::pow(0.8, 80);
        const RandomizedSvdOptions options{.rank = 8};
        const auto f = randomized_svd(w, options);
        check_triplets(w, f, 8, tolerance);
        const auto bias = random_matrix<T>(1, extent.rows, 4);   // must not matter
        const DenseLinear<T> layer(w, bias);
        const auto g = randomized_svd(detail::base_view(layer), options);
        CHECK(relative_error(f.s, g.s) < 50);
        check_triplets(w, g, 8, tolerance);
    }
}

TEMPLATE_TEST_CASE("randomized svd: is exact where the directions fill the space, or the rank is reached", "", float, double) {
    using T = TestType;
    const double tolerance = 100 * static_cast<double>(std::numeric_limits<T>::epsilon());
    const auto small = random_matrix<T>(9, 14, 3);
    check_triplets(small, randomized_svd(small, {.rank = 9, .power_iterations = 0}), 9, tolerance);
    check_triplets(small, randomized_svd(small, {.rank = 2, .oversample = 100}), 2, tolerance);
    const auto low = product(random_matrix<T>(50, 3, 1), random_matrix<T>(3, 70, 2));
    check_triplets(low, randomized_svd(low, {.rank = 6, .oversample = 0, .power_iterations = 0}), 6, tolerance);
    const Matrix<T> zero(20, 30);
    check_triplets(zero, randomized_svd(zero, {.rank = 4}), 4, 0);
}

TEMPLATE_TEST_CASE("randomized svd: power iterations sharpen a slow decay, the key names the directions", "", float, double) {
    using T = TestType;
    const auto w = with_decay<T>(150, 150, 0.97);
    const auto exact = svd(w, 5);
    double error[2];
    for (std::size_t run = 0; run < 2; ++run) error[run] = distance(randomized_svd(w, {.rank = 5, .power_iterations = 6 * run}).s, exact.s);
    CHECK(error[1] < error[0] / 5);
    const auto f = randomized_svd(w, {.rank = 5}), same = randomized_svd(w, {.rank = 5}), other = randomized_svd(w, {.rank = 5, .key = {.seed = 1}});
    CHECK(distance(f.u, same.u) == 0);
    CHECK(distance(f.u, other.u) != 0);
}

TEST_CASE("randomized svd: numbers near the limits, and refusals") {
    auto w = random_matrix<float>(30, 20, 1);
    const auto f = randomized_svd(w, {.rank = 3});
    for (const int exponent : {110, -110}) {
        Matrix<float> scaled = w;
        for (float& value : scaled.flat()) value = std::ldexp(value, exponent);
        const auto g = randomized_svd(scaled, {.rank = 3});
        for (std::size_t i = 0; i < 3; ++i) CHECK(std::ldexp(g.s(0, i), -exponent) == Approx(f.s(0, i)).epsilon(1e-5));
    }
    CHECK_THROWS_AS(randomized_svd(w, {.rank = 0}), OptionError);
    CHECK_THROWS_AS(randomized_svd(w, {.rank = 21}), OptionError);
    CHECK_THROWS_AS(randomized_svd(Matrix<float>(0, 4), {.rank = 1}), ShapeError);
    w(7, 7) = std::numeric_limits<float>::infinity();
    CHECK_THROWS_AS(randomized_svd(w, {.rank = 3}), NumericError);
}
