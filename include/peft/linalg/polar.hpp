#pragma once
#include <peft/core/matrix.hpp>
#include <peft/linalg/svd.hpp>

#include <type_traits>

PEFT_ISA_BEGIN

/// The factor U (m x n) of the polar decomposition a = U H (m >= n: U^T U = 1) or a = H U (m < n: U U^T = 1), H symmetric
/// and positive semidefinite: of all such U the nearest to a. If a has full rank it is unique, else one of many.
/// Throws as svd. Source: Higham 1986, "Computing the polar decomposition - with applications", section 2.
template <Scalar T> Matrix<T> polar(std::type_identity_t<MatrixView<const T>> a) {
    const Svd<T> parts = svd<T>(a);
    Matrix<T> u(a.rows(), a.cols());
    multiply_nn<T>(parts.u, parts.vt, u);
    return u;
}
template <Scalar T> Matrix<T> polar(const Matrix<T>& a) { return polar<T>(a.view()); }

PEFT_ISA_END
