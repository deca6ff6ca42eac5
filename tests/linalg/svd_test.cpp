#include <peft/core/threads.hpp>
#include <peft/linalg/qr.hpp>
#include <peft/linalg/svd.hpp>

#include "linalg/checks.hpp"
#include "support/catch.hpp"

#include <limits>

using namespace peft;
using namespace peft::test;

namespace {

template <class T> Matrix<T> recomposed(const Svd<T>& f) {
    Matrix<T> us = f.u;
    for (std::size_t i = 0; i < us.rows(); ++i)
        for (std::size_t j = 0; j < us.cols(); ++j) us(i, j) *= f.s(0, j);
    return product(us, f.vt);
}
template <class T> void check(const Matrix<T>& a) {
    const Svd<T> f = svd(a);
    const std::size_t k = std::min(a.rows(), a.cols());
    REQUIRE(f.u.rows() == a.rows());
    REQUIRE(f.u.cols() == k);
    REQUIRE(f.s.rows() == 1);
    REQUIRE(f.s.cols() == k);
    REQUIRE(f.vt.rows() == k);
    REQUIRE(f.vt.cols() == a.cols());
    CHECK(relative_error(a, recomposed(f)) < 6);
    CHECK(orthonormality_error(f.u) < 6);
    CHECK(orthonormality_error(transposed(f.vt)) < 6);
    bool falling = true;
    for (std::size_t i = 0; i < k; ++i) falling = falling && f.s(0, i) >= 0 && (i == 0 || f.s(0, i) <= f.s(0, i - 1));
    CHECK(falling);
}

}  // namespace

TEMPLATE_TEST_CASE("svd: the factors multiply to a, are orthonormal, and the values fall", "", float, double) {
    for (const Extent extent : extents()) {
        INFO(extent.rows << " x " << extent.cols);
        check(random_matrix<TestType>(extent.rows, extent.cols, 5));
    }
    for (const Named& hard : hard_matrices()) {
        INFO(hard.name);
        check(as<TestType>(hard.a));
    }
}

TEMPLATE_TEST_CASE("svd: known values", "", float, double) {
    using T = TestType;
    const auto f = svd(Matrix<T>::from({{0, -2, 0}, {1, 0, 0}}));
    CHECK(f.s(0, 0) == Approx(2));
    CHECK(f.s(0, 1) == Approx(1));
    CHECK(std::fabs(f.vt(0, 1)) == Approx(1));
    CHECK(f.u(0, 0) * f.vt(0, 1) == Approx(-1));
    CHECK(svd(Matrix<T>::from({{-3}})).s(0, 0) == T(3));
    // eigenvalues of the second difference matrix
    Matrix<T> second(30, 30);
    for (std::size_t i = 0; i < 30; ++i) {
        second(i, i) = 2;
        if (i > 0) second(i, i - 1) = second(i - 1, i) = -1;
    }
    const auto g = svd(second);
    for (std::size_t i = 0; i < 30; ++i) {
        const double wanted = 2 + 2 * std::cos(3.14159265358979323846 * static_cast<double>(i + 1) / 31);
        CHECK(std::fabs(static_cast<double>(g.s(0, i)) - wanted) < 20 * static_cast<double>(std::numeric_limits<T>::epsilon()) * 4);
    }
    CHECK(norm(svd(Matrix<T>(5, 4)).s) == 0);
}

TEMPLATE_TEST_CASE("svd: large and small numbers change the values only, by the same factor", "", float, double) {
    using T = TestType;
    const auto a = random_matrix<T>(33, 21, 3);
    const auto f = svd(a);
    const int far = std::numeric_limits<T>::max_exponent - 8;
    for (const int exponent : {100, -100, far, -far}) {
        Matrix<T> scaled = a;
        for (T& value : scaled.flat()) value = std::ldexp(value, exponent);
        const auto g = svd(scaled);
        INFO("2^" << exponent);
        if (exponent != -far) CHECK(distance(f.u, g.u) == 0);   // some elements become subnormal there and lose bits
        for (std::size_t i = 0; i < 21; ++i) CHECK(std::ldexp(g.s(0, i), -exponent) == Approx(f.s(0, i)).epsilon(1e-4));
    }
    Matrix<T> tiny(3, 2);
    for (T& value : tiny.flat()) value = std::numeric_limits<T>::denorm_min();
    const auto g = svd(tiny);
    CHECK(orthonormality_error(g.u) < 6);
    CHECK(g.s(0, 0) > T(0));
}

TEMPLATE_TEST_CASE("svd: converges where all singular values are equal, or many", "", float, double) {
    using T = TestType;
    for (const std::size_t n : {3u, 8u, 21u, 40u, 97u}) {
        for (std::uint64_t seed = 1; seed < 6; ++seed) {
            Matrix<T> a = qr(random_matrix<T>(n, n, seed)).q;
            for (const T factor : {T(1), T(3)}) {   // orthogonal, then with every other column three times as long
                for (std::size_t i = 0; i < n; ++i) {
                    for (std::size_t j = 0; j < n; j += 2) a(i, j) *= factor;
                }
                INFO(n << ", seed " << seed << ", factor " << factor);
                const auto f = svd(a);
                CHECK(relative_error(a, recomposed(f)) < 40);
                CHECK(orthonormality_error(f.u) < 40);
                CHECK(std::fabs(static_cast<double>(f.s(0, n - 1)) - 1) < 40 * static_cast<double>(std::numeric_limits<T>::epsilon()));
            }
        }
    }
}

TEMPLATE_TEST_CASE("svd: the leading triplets are those of the whole", "", float, double) {
    const auto a = random_matrix<TestType>(30, 45, 11);
    const auto all = svd(a), some = svd(a, 4);
    REQUIRE(some.u.cols() == 4);
    REQUIRE(some.vt.rows() == 4);
    for (std::size_t r = 0; r < 4; ++r) {
        CHECK(some.s(0, r) == all.s(0, r));
        for (std::size_t i = 0; i < 30; ++i) CHECK(some.u(i, r) == all.u(i, r));
        for (std::size_t j = 0; j < 45; ++j) CHECK(some.vt(r, j) == all.vt(r, j));
    }
    CHECK_THROWS_AS(svd(a, 0), OptionError);
    CHECK_THROWS_AS(svd(a, 31), OptionError);
}

TEMPLATE_TEST_CASE("svd: the same bits for one and for two threads", "", float, double) {
    const auto a = random_matrix<TestType>(420, 400, 12);   // large enough for threads in every part
    set_threads(1);
    const auto one = svd(a);
    set_threads(2);
    const auto two = svd(a);
    set_threads(0);
    CHECK(distance(one.u, two.u) == 0);
    CHECK(distance(one.s, two.s) == 0);
    CHECK(distance(one.vt, two.vt) == 0);
    CHECK(relative_error(a, recomposed(one)) < 6);
}

TEST_CASE("svd: refuses what is empty, not finite, or too large") {
    CHECK_THROWS_AS(svd(Matrix<float>(0, 3)), ShapeError);
    CHECK_THROWS_AS(svd(Matrix<float>(3, 0), 1), ShapeError);
    auto a = random_matrix<float>(5, 4, 1);
    a(4, 3) = std::numeric_limits<float>::quiet_NaN();
    CHECK_THROWS_AS(svd(a), NumericError);
    a(4, 3) = std::numeric_limits<float>::infinity();
    CHECK_THROWS_AS(svd(a), NumericError);
    for (float& value : a.flat()) value = 3e38f;
    CHECK_THROWS_AS(svd(a), NumericError);
}
