#pragma once
#include <peft/core/matrix.hpp>
#include <peft/linalg/balance.hpp>
#include <peft/linalg/bidiagonal.hpp>
#include <peft/linalg/reflectors.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <type_traits>

PEFT_BEGIN

/// a = u diag(s) vt: u (m x k) with orthonormal columns, s (1 x k) >= 0 in falling order, vt (k x n) with orthonormal rows.
template <Scalar T> struct Svd {
    Matrix<T> u;
    Matrix<T> s;
    Matrix<T> vt;
};

PEFT_END

PEFT_ISA_DETAIL_BEGIN

/// a (m x n, m >= n, used up) = L diag(s) R^T; left(i, j) = L(j, i) and right(i, j) = R(j, i), written through any strides.
template <class T>
void decompose(const MatrixView<T>& a, const StridedView<T>& left, std::span<double> s, const StridedView<T>& right) {
    const std::size_t m = a.rows(), n = a.cols();
    ArenaScope scope;
    const auto tau = scope.matrix<T>(2, n);
    const auto d = scope.vector<double>(n), e = scope.vector<double>(n - 1);
    // Reflectors first, then panels of vectors: the two do not live at the same time.
    Matrix<T> left_memory(1, Panels<T>::size(n, m)), right_memory(1, Panels<T>::size(n, n));
    const MatrixView<T> h(left_memory.data(), n, m), g(right_memory.data(), n, n);
    bidiagonalize<T>(a, d, e, h, tau.row_span(0), g, tau.row_span(1));
    const Panels<T> l{left_memory.data(), n, m}, r{right_memory.data(), n, n};
    {
        Matrix<T> rows(n, m);
        form_rows<T>(h, tau.row_span(0), 0, rows);
        l.fill(rows);
        const MatrixView<T> packed(rows.data(), n, n);
        form_rows<T>(g.rows(0, n - 1), tau.row_span(1), 1, packed);
        r.fill(packed);
    }
    RotationQueue<T> queue(scope, l, r);
    diagonalize<T>(d, e, queue);

    const auto order = scope.vector<std::size_t>(n);
    const auto sign = scope.matrix<T>(2, n);
    for (std::size_t i = 0; i < n; ++i) {   // by insertion: they come nearly in order, and std::sort costs 0.1 s of compilation
        std::size_t at = i;
        for (; at > 0 && std::fabs(d[order[at - 1]]) < std::fabs(d[i]); --at) order[at] = order[at - 1];
        order[at] = i;
    }
    for (std::size_t i = 0; i < n; ++i) {
        s[i] = std::fabs(d[order[i]]);
        sign(0, i) = T(1);
        sign(1, i) = d[order[i]] < 0 ? T(-1) : T(1);
    }
    l.copy_to(order, sign.row_span(0), left);
    r.copy_to(order, sign.row_span(1), right);
}

PEFT_ISA_DETAIL_END

PEFT_ISA_BEGIN

/// Thin singular value decomposition of a (m x n), k = min(m, n). u and vt are orthonormal whatever the rank of a; the sign of
/// a pair of vectors is arbitrary. Errors are of the order of epsilon * s_0, so singular values below that are noise.
/// Takes six times the memory of a, results included.
/// Throws ShapeError if a is empty, NumericError if it holds NaN or infinity or if s overflows.
/// Method: Householder bidiagonalisation (after a QR if one side is much longer), then implicit QR iteration.
template <Scalar T> Svd<T> svd(std::type_identity_t<MatrixView<const T>> a) {
    const int exponent = detail::balancing_exponent<T>(a, "svd");
    const bool tall = a.rows() >= a.cols();
    const StridedView<const T> upright = tall ? StridedView<const T>(a) : StridedView<const T>(a).transposed();
    const std::size_t m = upright.rows(), n = upright.cols();
    Svd<T> result{Matrix<T>(a.rows(), n), Matrix<T>(1, n), Matrix<T>(n, a.cols())};
    // The vectors of the upright matrix as rows, wherever they belong.
    const StridedView<T> u = StridedView<T>(result.u.view()).transposed(), vt(result.vt.view());
    const StridedView<T> left = tall ? u : vt, right = tall ? vt : u;
    ArenaScope scope;
    const auto s = scope.vector<double>(n);
    if (5 * m >= 8 * n && n > 1) {   // 1.6: LAPACK's ilaenv takes the way through QR from there on
        Matrix<T> at(n, m), qt(n, m), r(n, n), inner(n, n);
        detail::copy_balanced<T>(upright.transposed(), exponent, at);
        const auto tau = scope.vector<T>(n);
        detail::factor_rows<T>(at, tau, r);
        detail::form_rows<T>(at, tau, 0, qt);
        detail::decompose<T>(r, StridedView<T>(inner.view()), s, right);
        multiply_nn<T>(inner, qt, at);
        transpose<T>(at, left);
    } else {
        Matrix<T> work(m, n);
        detail::copy_balanced<T>(upright, exponent, work);
        detail::decompose<T>(work, left, s, right);
    }
    if (std::ldexp(s[0], exponent) > static_cast<double>(std::numeric_limits<T>::max())) {
        throw NumericError("a singular value is larger than the type can hold", {.subject = "svd"});
    }
    for (std::size_t i = 0; i < n; ++i) result.s(0, i) = static_cast<T>(std::ldexp(s[i], exponent));
    return result;
}
template <Scalar T> Svd<T> svd(const Matrix<T>& a) { return svd<T>(a.view()); }

/// The first `rank` triplets of svd(a): u (m x rank), s (1 x rank), vt (rank x n). It costs as much as all of them; see
/// randomized_svd for less. Throws OptionError unless 1 <= rank <= min(m, n), else as svd(a).
template <Scalar T> Svd<T> svd(std::type_identity_t<MatrixView<const T>> a, std::size_t rank) {
    const std::size_t k = std::min(a.rows(), a.cols());
    if (k != 0 && (rank == 0 || rank > k)) {
        std::string range("1 to ");
        range += std::to_string(k);
        throw OptionError("the matrix has no such rank", {.subject = "svd", .expected = range, .found = std::to_string(rank)});
    }
    const Svd<T> all = svd<T>(a);
    return {Matrix<T>(all.u.view().block(0, 0, a.rows(), rank)), Matrix<T>(all.s.view().block(0, 0, 1, rank)), Matrix<T>(all.vt.rows(0, rank))};
}
template <Scalar T> Svd<T> svd(const Matrix<T>& a, std::size_t rank) { return svd<T>(a.view(), rank); }

PEFT_ISA_END
