#include <peft/linalg/qr.hpp>

#include "linalg/checks.hpp"
#include "support/catch.hpp"

#include <limits>

using namespace peft;
using namespace peft::test;

namespace {

template <class T> void check(const Matrix<T>& a) {
    const Qr<T> f = qr(a);
    const std::size_t k = std::min(a.rows(), a.cols());
    REQUIRE(f.q.rows() == a.rows());
    REQUIRE(f.q.cols() == k);
    REQUIRE(f.r.rows() == k);
    REQUIRE(f.r.cols() == a.cols());
    CHECK(relative_error(a, product(f.q, f.r)) < 6);
    CHECK(orthonormality_error(f.q) < 6);
    bool upper = true;
    for (std::size_t i = 0; i < k; ++i)
        for (std::size_t j = 0; j < i; ++j) upper = upper && f.r(i, j) == T(0);
    CHECK(upper);
}

}  // namespace

TEMPLATE_TEST_CASE("qr: q r is a, q is orthonormal, r is upper triangular", "", float, double) {
    for (const Extent extent : extents()) {
        INFO(extent.rows << " x " << extent.cols);
        check(random_matrix<TestType>(extent.rows, extent.cols, 7));
    }
    for (const Named& hard : hard_matrices()) {
        INFO(hard.name);
        check(as<TestType>(hard.a));
    }
}

TEMPLATE_TEST_CASE("qr: signs are LAPACK's", "", float, double) {
    using T = TestType;
    const auto f = qr(Matrix<T>::from({{3, 1}, {4, 2}}));
    CHECK(f.r(0, 0) == Approx(-5));
    CHECK(f.q(0, 0) == Approx(-0.6));
    CHECK(f.r(0, 1) == Approx(-2.2));
    CHECK(f.r(1, 1) == Approx(0.4));   // nothing follows in the last column of a square: kept as it is
    CHECK(qr(Matrix<T>::from({{-3}, {4}})).r(0, 0) == Approx(5));
    CHECK(qr(Matrix<T>::from({{-3, 1}})).r(0, 0) == T(-3));
}

TEMPLATE_TEST_CASE("qr: reads views with gaps, and large and small numbers scale the factors exactly", "", float, double) {
    using T = TestType;
    const auto wide = random_matrix<T>(40, 60, 3);
    const auto view = wide.view().block(2, 3, 30, 20);
    const Matrix<T> dense(view);
    const auto f = qr(dense), g = qr<T>(view);
    CHECK(distance(f.q, g.q) == 0);
    for (const int exponent : {100, -100}) {
        Matrix<T> scaled = dense, r = f.r;
        for (T& value : scaled.flat()) value = std::ldexp(value, exponent);
        for (T& value : r.flat()) value = std::ldexp(value, exponent);
        const auto h = qr(scaled);
        CHECK(distance(f.q, h.q) == 0);
        CHECK(distance(r, h.r) == 0);
    }
}

TEST_CASE("qr: refuses what is empty, not finite, or too large") {
    CHECK_THROWS_AS(qr(Matrix<float>(0, 3)), ShapeError);
    CHECK_THROWS_AS(qr(Matrix<float>(3, 0)), ShapeError);
    auto a = random_matrix<float>(5, 4, 1);
    a(3, 2) = std::numeric_limits<float>::quiet_NaN();
    CHECK_THROWS_WITH(qr(a), Catch::Matchers::ContainsSubstring("row 3"));
    CHECK_THROWS_AS(qr(a), NumericError);
    a(3, 2) = -std::numeric_limits<float>::infinity();
    CHECK_THROWS_AS(qr(a), NumericError);
    for (float& value : a.flat()) value = 3e38f;
    CHECK_THROWS_AS(qr(a), NumericError);
}
