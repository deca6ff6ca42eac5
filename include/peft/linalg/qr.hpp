#pragma once
#include <peft/core/matrix.hpp>
#include <peft/linalg/balance.hpp>
#include <peft/linalg/reflectors.hpp>

#include <algorithm>
#include <cstddef>
#include <span>

PEFT_BEGIN

/// a = q r: q (m x k) has orthonormal columns, r (k x n) is upper triangular, k = min(m, n).
template <Scalar T> struct Qr {
    Matrix<T> q;
    Matrix<T> r;
};

PEFT_END

PEFT_ISA_DETAIL_BEGIN

/// q (k x m) = Q^T with a^T = r^T Q^T, for the rows at (n x m), k = min(m, n). at is used up.
template <class T> void orthonormal_rows(const MatrixView<T>& at, const MatrixView<T>& q, const MatrixView<T>& r) {
    ArenaScope scope;
    const auto tau = scope.vector<T>(q.rows());
    factor_rows<T>(at, tau, r);
    form_rows<T>(at.rows(0, q.rows()), tau, 0, q);
}

PEFT_ISA_DETAIL_END

PEFT_ISA_BEGIN

/// Thin QR by blocked Householder reflections. a (m x n) of any rank: q is orthonormal even if a is zero.
/// Signs are those of LAPACK, and so of numpy.linalg.qr and torch.linalg.qr: r_jj = -sign(x_0) |x| for the column x that step j
/// reduces, and r_jj = x_0 where nothing but zeros follows x_0. |a - q r| and |q^T q - 1| are of the order of epsilon.
/// Throws ShapeError if a is empty, NumericError if it holds NaN or infinity or if r overflows.
template <Scalar T> Qr<T> qr(std::type_identity_t<MatrixView<const T>> a) {
    const int exponent = detail::balancing_exponent<T>(a, "qr");
    const std::size_t k = std::min(a.rows(), a.cols());
    Matrix<T> at(a.cols(), a.rows()), qt(k, a.rows());
    detail::copy_balanced<T>(StridedView<const T>(a).transposed(), exponent, at);
    Qr<T> result{Matrix<T>(a.rows(), k), Matrix<T>(k, a.cols())};
    detail::orthonormal_rows<T>(at, qt, result.r);
    transpose<T>(StridedView<const T>(qt.view()).transposed(), result.q.view());
    if (exponent != 0) {
        detail::scale_exactly<T>(exponent, result.r);
        if (!detail::is_finite(max_abs<T>(result.r.flat()))) throw NumericError("r is larger than the type can hold", {.subject = "qr"});
    }
    return result;
}
template <Scalar T> Qr<T> qr(const Matrix<T>& a) { return qr<T>(a.view()); }

PEFT_ISA_END
