#pragma once
#include <peft/core/matrix.hpp>
#include <peft/core/scalar.hpp>
#include <peft/simd/dispatch.hpp>

#include <cstddef>
#include <span>
#include <type_traits>

PEFT_BEGIN

/// Options of a product: result (+)= scale * product, bias added to every row when it is not empty.
template <Scalar T> struct Product {
    T scale = 1;
    bool accumulate = false;
    std::span<const T> bias = {};
};

namespace detail {
template <class M> struct is_const_view : std::false_type {};
template <class S> struct is_const_view<MatrixView<const S>> : std::true_type {};
/// Whatever converts to a read-only view of its elements.
template <class M> concept MatrixLike = requires(const M& m) {
    typename M::value_type;
    static_cast<MatrixView<const typename M::value_type>>(m);
};
}  // namespace detail

PEFT_END

PEFT_ISA_BEGIN

/// y (n x out) (+)= scale * x (n x in) * W^T (+ bias), W (out x in) in any storage type, arithmetic in T.
/// y overlaps neither x nor W.
template <Scalar T, StorageScalar S>
void multiply_nt(std::type_identity_t<MatrixView<const T>> x, MatrixView<const S> w, MatrixView<T> y,
                 std::type_identity_t<Product<T>> options = {}) {
    for (std::size_t i = 0; i < x.rows(); ++i) {
        for (std::size_t j = 0; j < w.rows(); ++j) {
            T sum = 0;
            for (std::size_t k = 0; k < x.cols(); ++k) sum += x(i, k) * static_cast<T>(widen(w(j, k)));
            T value = options.scale * sum;
            if (!options.bias.empty()) value += options.bias[j];
            y(i, j) = options.accumulate ? y(i, j) + value : value;
        }
    }
}

/// dx (n x in) (+)= scale * dy (n x out) * W (+ bias), W (out x in) in any storage type, arithmetic in T.
/// dx overlaps neither dy nor W.
template <Scalar T, StorageScalar S>
void multiply_nn(std::type_identity_t<MatrixView<const T>> dy, MatrixView<const S> w, MatrixView<T> dx,
                 std::type_identity_t<Product<T>> options = {}) {
    for (std::size_t i = 0; i < dy.rows(); ++i) {
        for (std::size_t j = 0; j < w.cols(); ++j) {
            T sum = 0;
            for (std::size_t k = 0; k < dy.cols(); ++k) sum += dy(i, k) * static_cast<T>(widen(w(k, j)));
            T value = options.scale * sum;
            if (!options.bias.empty()) value += options.bias[j];
            dx(i, j) = options.accumulate ? dx(i, j) + value : value;
        }
    }
}

/// c (p x q) (+)= scale * a^T * b (+ bias), a (n x p), b (n x q). c overlaps neither a nor b.
template <Scalar T>
void multiply_tn(std::type_identity_t<MatrixView<const T>> a, std::type_identity_t<MatrixView<const T>> b, MatrixView<T> c,
                 std::type_identity_t<Product<T>> options = {}) {
    for (std::size_t i = 0; i < a.cols(); ++i) {
        for (std::size_t j = 0; j < b.cols(); ++j) {
            T sum = 0;
            for (std::size_t k = 0; k < a.rows(); ++k) sum += a(k, i) * b(k, j);
            T value = options.scale * sum;
            if (!options.bias.empty()) value += options.bias[j];
            c(i, j) = options.accumulate ? c(i, j) + value : value;
        }
    }
}

// The same for arguments that are not exactly views of the right constness: Matrix, or a mutable view as weight.

template <Scalar T, class W>
    requires(detail::MatrixLike<W> && !detail::is_const_view<W>::value)
PEFT_INLINE void multiply_nt(std::type_identity_t<MatrixView<const T>> x, const W& w, MatrixView<T> y,
                             std::type_identity_t<Product<T>> options = {}) {
    multiply_nt<T, typename W::value_type>(x, w, y, options);
}
template <Scalar T, class W>
    requires detail::MatrixLike<W>
PEFT_INLINE void multiply_nt(std::type_identity_t<MatrixView<const T>> x, const W& w, Matrix<T>& y,
                             std::type_identity_t<Product<T>> options = {}) {
    multiply_nt<T, typename W::value_type>(x, w, y.view(), options);
}
template <Scalar T, class W>
    requires(detail::MatrixLike<W> && !detail::is_const_view<W>::value)
PEFT_INLINE void multiply_nn(std::type_identity_t<MatrixView<const T>> dy, const W& w, MatrixView<T> dx,
                             std::type_identity_t<Product<T>> options = {}) {
    multiply_nn<T, typename W::value_type>(dy, w, dx, options);
}
template <Scalar T, class W>
    requires detail::MatrixLike<W>
PEFT_INLINE void multiply_nn(std::type_identity_t<MatrixView<const T>> dy, const W& w, Matrix<T>& dx,
                             std::type_identity_t<Product<T>> options = {}) {
    multiply_nn<T, typename W::value_type>(dy, w, dx.view(), options);
}
template <Scalar T>
PEFT_INLINE void multiply_tn(std::type_identity_t<MatrixView<const T>> a, std::type_identity_t<MatrixView<const T>> b,
                             Matrix<T>& c, std::type_identity_t<Product<T>> options = {}) {
    multiply_tn<T>(a, b, c.view(), options);
}

PEFT_ISA_END
