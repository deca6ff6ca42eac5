#include <peft/linalg/polar.hpp>

#include "linalg/checks.hpp"
#include "support/catch.hpp"

using namespace peft;
using namespace peft::test;

TEMPLATE_TEST_CASE("polar: U is orthonormal and U^T a is symmetric and positive semidefinite", "", float, double) {
    using T = TestType;
    for (const Extent extent : {Extent{1, 1}, Extent{5, 3}, Extent{3, 5}, Extent{40, 40}, Extent{20, 90}}) {
        INFO(extent.rows << " x " << extent.cols);
        const auto random = random_matrix<T>(extent.rows, extent.cols, 2);
        const bool tall = extent.rows >= extent.cols;
        const Matrix<T> a = tall ? random : transposed(random);
        const Matrix<T> u = tall ? polar(random) : transposed(polar(random));
        CHECK(orthonormality_error(u) < 12);
        const Matrix<T> h = product(transposed(u), a);
        CHECK(relative_error(h, transposed(h)) < 12);
        CHECK(relative_error(a, product(u, h)) < 12);
        for (std::size_t i = 0; i < h.rows(); ++i) CHECK(h(i, i) > T(0));
    }
}

TEMPLATE_TEST_CASE("polar: an orthogonal matrix is its own factor, whatever multiplies it", "", float, double) {
    using T = TestType;
    const auto a = Matrix<T>::from({{0, -3}, {3, 0}});
    CHECK(relative_error(Matrix<T>::from({{0, -1}, {1, 0}}), polar(a)) < 6);
    CHECK_THROWS_AS(polar(Matrix<T>()), ShapeError);
}
