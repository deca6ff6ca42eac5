#include <peft/linalg/qr.hpp>
#include <peft/linalg/svd.hpp>

#include "linalg/checks.hpp"
#include "support/catch.hpp"

#include <Eigen/QR>
#include <Eigen/SVD>

using namespace peft;
using namespace peft::test;

// Eigen in long double as the witness: in double the error of its Jacobi method is several times that of ours. The one unit
// that pays for compiling it.

namespace {

using Wide = Eigen::Matrix<long double, Eigen::Dynamic, Eigen::Dynamic>;

template <class T> Wide to_eigen(const Matrix<T>& a) {
    Wide result(static_cast<Eigen::Index>(a.rows()), static_cast<Eigen::Index>(a.cols()));
    for (std::size_t i = 0; i < a.rows(); ++i)
        for (std::size_t j = 0; j < a.cols(); ++j) result(static_cast<Eigen::Index>(i), static_cast<Eigen::Index>(j)) = static_cast<long double>(a(i, j));
    return result;
}

template <class T> void compare_values(const Matrix<T>& a) {
    const Eigen::JacobiSVD<Wide> witness(to_eigen(a));
    const auto f = svd(a);
    double worst = 0;
    for (std::size_t i = 0; i < f.s.cols(); ++i) worst = std::max(worst, static_cast<double>(std::fabs(static_cast<long double>(f.s(0, i)) - witness.singularValues()(static_cast<Eigen::Index>(i)))));
    // Weyl: no value moves by more than the norm of the backward error, a random walk of k roundings of s_max
    const double k = static_cast<double>(f.s.cols());
    const auto largest = static_cast<double>(witness.singularValues()(0));
    CHECK(worst / (std::sqrt(k) * static_cast<double>(std::numeric_limits<T>::epsilon()) * (largest == 0 ? 1 : largest)) <= 6);
}

}  // namespace

TEMPLATE_TEST_CASE("svd: singular values agree with Eigen's Jacobi method", "", float, double) {
    for (const Extent extent : extents()) {
        INFO(extent.rows << " x " << extent.cols);
        compare_values(random_matrix<TestType>(extent.rows, extent.cols, 31));
    }
    for (const Named& hard : hard_matrices()) {
        INFO(hard.name);
        compare_values(as<TestType>(hard.a));
    }
}

TEMPLATE_TEST_CASE("qr: r agrees with Eigen's Householder method, signs included", "", float, double) {
    using T = TestType;
    for (const Extent extent : extents()) {
        INFO(extent.rows << " x " << extent.cols);
        const auto a = random_matrix<T>(extent.rows, extent.cols, 32);
        const Eigen::HouseholderQR<Wide> witness(to_eigen(a));
        const auto f = qr(a);
        double worst = 0;
        // the last columns of a square matrix are ill conditioned: compare the first half
        const std::size_t k = (f.r.rows() + 1) / 2;
        for (std::size_t i = 0; i < k; ++i)
            for (std::size_t j = i; j < k; ++j) worst = std::max(worst, static_cast<double>(std::fabs(static_cast<long double>(f.r(i, j)) - witness.matrixQR()(static_cast<Eigen::Index>(i), static_cast<Eigen::Index>(j)))));
        // a backward error of 6 epsilon |a|, times a condition of up to 5 for the half of a random matrix
        CHECK(worst <= 30 * static_cast<double>(std::numeric_limits<T>::epsilon()) * norm(a));
    }
}
