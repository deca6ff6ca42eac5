#pragma once
#include <peft/core/matrix.hpp>
#include <peft/core/scalar.hpp>
#include <peft/core/strided_view.hpp>

PEFT_BEGIN

/// How a type outside the library shows its memory. ext/eigen.hpp and ext/xtensor.hpp specialise it; so may you:
///   static constexpr bool is_matrix = true;
///   static StridedView<T> view(X& x);     // const X& gives StridedView<const T>
/// A specialisation with is_matrix = false may carry `static constexpr bool is_expression = true`, which gives a
/// better message than "not a matrix".
template <class X> struct matrix_access {
    static constexpr bool is_matrix = false;
};

template <class T> struct matrix_access<Matrix<T>> {
    static constexpr bool is_matrix = true;
    static StridedView<T> view(Matrix<T>& x) noexcept { return x.view(); }
    static StridedView<const T> view(const Matrix<T>& x) noexcept { return x.view(); }
};
template <class T> struct matrix_access<MatrixView<T>> {
    static constexpr bool is_matrix = true;
    static StridedView<T> view(const MatrixView<T>& x) noexcept { return x; }
};
template <class T> struct matrix_access<StridedView<T>> {
    static constexpr bool is_matrix = true;
    static StridedView<T> view(const StridedView<T>& x) noexcept { return x; }
};

namespace detail {

template <class X> inline constexpr bool is_matrix_v = matrix_access<std::remove_cvref_t<X>>::is_matrix;

template <class X> consteval bool is_expression() {
    if constexpr (requires { matrix_access<std::remove_cvref_t<X>>::is_expression; }) return true;
    else return false;
}

/// The memory of x as read-only numbers of type T.
template <class T, class X> StridedView<const T> read_view(const X& x) {
    static_assert(!is_expression<X>(), "peft: this argument is an expression without memory of its own; evaluate it into a matrix first");
    static_assert(is_expression<X>() || is_matrix_v<X>,
                  "peft: this argument is not a matrix; pass peft::Matrix, a MatrixView, or include peft/ext/eigen.hpp or peft/ext/xtensor.hpp");
    if constexpr (is_matrix_v<X>) {
        using Element = std::remove_const_t<std::remove_pointer_t<decltype(matrix_access<X>::view(x).data())>>;
        static_assert(std::is_same_v<Element, T>, "peft: the matrix holds another number type than the layer computes in");
        return matrix_access<X>::view(x);
    } else {
        return {};
    }
}

/// The memory of y as numbers of type T that may be overwritten.
template <class T, class Y> StridedView<T> write_view(Y&& y) {
    using Plain = std::remove_cvref_t<Y>;
    static_assert(!is_expression<Y>(), "peft: this argument is an expression without memory of its own; pass the matrix that shall hold the result");
    static_assert(is_expression<Y>() || is_matrix_v<Y>,
                  "peft: this argument is not a matrix; pass peft::Matrix, a MatrixView, or include peft/ext/eigen.hpp or peft/ext/xtensor.hpp");
    if constexpr (is_matrix_v<Y>) {
        using Element = std::remove_pointer_t<decltype(matrix_access<Plain>::view(y).data())>;
        static_assert(!std::is_const_v<Element>, "peft: the result would be written into a read-only matrix");
        static_assert(std::is_same_v<std::remove_const_t<Element>, T>, "peft: the matrix holds another number type than the layer computes in");
        if constexpr (std::is_same_v<Element, T>) return matrix_access<Plain>::view(y);
        else return {};
    } else {
        return {};
    }
}

}  // namespace detail

PEFT_END
