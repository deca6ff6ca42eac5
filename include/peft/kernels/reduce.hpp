#pragma once
#include <peft/core/matrix_view.hpp>
#include <peft/core/scalar.hpp>

#include <cstddef>
#include <span>
#include <type_traits>

PEFT_ISA_BEGIN

/// db_j += sum_i dy_ij
template <Scalar T> void add_column_sums(std::type_identity_t<MatrixView<const T>> dy, std::span<T> db) {
    for (std::size_t i = 0; i < dy.rows(); ++i)
        for (std::size_t j = 0; j < dy.cols(); ++j) db[j] += dy(i, j);
}
/// g_j += sum_i a_ij * b_ij
template <Scalar T>
void add_column_dots(std::type_identity_t<MatrixView<const T>> a, std::type_identity_t<MatrixView<const T>> b, std::span<T> g) {
    for (std::size_t i = 0; i < a.rows(); ++i)
        for (std::size_t j = 0; j < a.cols(); ++j) g[j] += a(i, j) * b(i, j);
}
/// out_i = sum_j w_ij^2
template <Scalar T> void row_squared_norms(std::type_identity_t<MatrixView<const T>> w, std::span<T> out) {
    for (std::size_t i = 0; i < w.rows(); ++i) {
        T sum = 0;
        for (std::size_t j = 0; j < w.cols(); ++j) sum += w(i, j) * w(i, j);
        out[i] = sum;
    }
}
/// sum_i a_i b_i
template <Scalar T> T dot(std::span<const T> a, std::type_identity_t<std::span<const T>> b) {
    T sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
}
template <Scalar T> T dot(std::span<T> a, std::type_identity_t<std::span<const T>> b) { return dot<T>(std::span<const T>(a), b); }
/// sum_i v_i^2 in double.
template <Scalar T> double sum_of_squares(std::span<const T> values) {
    double sum = 0;
    for (const T value : values) sum += static_cast<double>(value) * static_cast<double>(value);
    return sum;
}
template <Scalar T> double sum_of_squares(std::span<T> values) { return sum_of_squares(std::span<const T>(values)); }
/// max_i |v_i|, 0 for none; NaN if there is one.
template <Scalar T> T max_abs(std::span<const T> values) {
    T result = 0;
    for (const T value : values) {
        const T magnitude = value < 0 ? -value : value;
        if (magnitude > result || magnitude != magnitude) result = magnitude;
        if (result != result) return result;
    }
    return result;
}
template <Scalar T> T max_abs(std::span<T> values) { return max_abs(std::span<const T>(values)); }

PEFT_ISA_END
