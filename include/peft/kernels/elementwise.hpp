#pragma once
#include <peft/core/matrix_view.hpp>
#include <peft/core/random.hpp>
#include <peft/core/scalar.hpp>
#include <peft/core/strided_view.hpp>

#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>

PEFT_ISA_BEGIN

// T is deduced from the result (the last or only mutable argument).

/// dst = src
template <class T> void copy(std::type_identity_t<MatrixView<const T>> src, MatrixView<T> dst) {
    for (std::size_t i = 0; i < dst.rows(); ++i)
        for (std::size_t j = 0; j < dst.cols(); ++j) dst(i, j) = src(i, j);
}
template <class T> void copy(std::type_identity_t<std::span<const T>> src, std::span<T> dst) {
    for (std::size_t i = 0; i < dst.size(); ++i) dst[i] = src[i];
}
/// dst += src
template <Scalar T> void add(std::type_identity_t<MatrixView<const T>> src, MatrixView<T> dst) {
    for (std::size_t i = 0; i < dst.rows(); ++i)
        for (std::size_t j = 0; j < dst.cols(); ++j) dst(i, j) += src(i, j);
}
template <Scalar T> void add(std::type_identity_t<std::span<const T>> src, std::span<T> dst) {
    for (std::size_t i = 0; i < dst.size(); ++i) dst[i] += src[i];
}
/// dst += scale * src
template <Scalar T> void axpy(std::type_identity_t<T> scale, std::type_identity_t<MatrixView<const T>> src, MatrixView<T> dst) {
    for (std::size_t i = 0; i < dst.rows(); ++i)
        for (std::size_t j = 0; j < dst.cols(); ++j) dst(i, j) += scale * src(i, j);
}
template <Scalar T> void axpy(std::type_identity_t<T> scale, std::type_identity_t<std::span<const T>> src, std::span<T> dst) {
    for (std::size_t i = 0; i < dst.size(); ++i) dst[i] += scale * src[i];
}
/// y *= s
template <Scalar T> void scale(std::type_identity_t<T> s, MatrixView<T> y) {
    for (std::size_t i = 0; i < y.rows(); ++i)
        for (std::size_t j = 0; j < y.cols(); ++j) y(i, j) *= s;
}
template <Scalar T> void scale(std::type_identity_t<T> s, std::span<T> y) {
    for (T& value : y) value *= s;
}
/// y_ij *= g_j
template <Scalar T> void scale_columns(std::type_identity_t<std::span<const T>> g, MatrixView<T> y) {
    for (std::size_t i = 0; i < y.rows(); ++i)
        for (std::size_t j = 0; j < y.cols(); ++j) y(i, j) *= g[j];
}
/// y_ij = y_ij * g_j + b_j
template <Scalar T>
void scale_shift_columns(std::type_identity_t<std::span<const T>> g, std::type_identity_t<std::span<const T>> b, MatrixView<T> y) {
    for (std::size_t i = 0; i < y.rows(); ++i)
        for (std::size_t j = 0; j < y.cols(); ++j) y(i, j) = y(i, j) * g[j] + b[j];
}
/// y_ij += b_j
template <Scalar T> void add_rows(std::type_identity_t<std::span<const T>> b, MatrixView<T> y) {
    for (std::size_t i = 0; i < y.rows(); ++i)
        for (std::size_t j = 0; j < y.cols(); ++j) y(i, j) += b[j];
}
/// dst_ij = a_ij * b_ij
template <Scalar T>
void multiply_into(std::type_identity_t<MatrixView<const T>> a, std::type_identity_t<MatrixView<const T>> b, MatrixView<T> dst) {
    for (std::size_t i = 0; i < dst.rows(); ++i)
        for (std::size_t j = 0; j < dst.cols(); ++j) dst(i, j) = a(i, j) * b(i, j);
}
template <Scalar T>
void multiply_into(std::type_identity_t<std::span<const T>> a, std::type_identity_t<std::span<const T>> b, std::span<T> dst) {
    for (std::size_t i = 0; i < dst.size(); ++i) dst[i] = a[i] * b[i];
}
/// Element i = bound * (2 u_i - 1), u_i = CounterRandom(key).uniform(i): uniform in [-bound, bound).
template <Scalar T> void fill_uniform(const StreamKey& key, double bound, std::span<T> dst) {
    const CounterRandom random(key);
    for (std::size_t i = 0; i < dst.size(); ++i) dst[i] = static_cast<T>(bound * (2 * random.uniform(i) - 1));
}
/// Element i = mean + stddev * CounterRandom(key).normal(i).
template <Scalar T> void fill_normal(const StreamKey& key, double mean, double stddev, std::span<T> dst) {
    const CounterRandom random(key);
    for (std::size_t i = 0; i < dst.size(); ++i) dst[i] = static_cast<T>(mean + stddev * random.normal(i));
}
/// dst = widen(src), exactly.
template <Scalar T, StorageScalar S> void widen(std::span<const S> src, std::span<T> dst) {
    for (std::size_t i = 0; i < dst.size(); ++i) dst[i] = static_cast<T>(widen(src[i]));
}
/// dst = round_to<S>(src), to nearest, ties to even.
template <Scalar T, StorageScalar S> void round_to_storage(std::span<const T> src, std::span<S> dst) {
    for (std::size_t i = 0; i < dst.size(); ++i) dst[i] = round_to<S>(src[i]);
}
/// dst_ij = src_ij from any strides: a gather, made in blocks.
template <class T> void transpose(std::type_identity_t<StridedView<const T>> src, MatrixView<T> dst) {
    for (std::size_t i = 0; i < dst.rows(); ++i)
        for (std::size_t j = 0; j < dst.cols(); ++j) dst(i, j) = src(i, j);
}
/// dst_ij = src_ij into any strides: the inverse scatter.
template <class T> void transpose(std::type_identity_t<MatrixView<const T>> src, StridedView<T> dst) {
    for (std::size_t i = 0; i < dst.rows(); ++i)
        for (std::size_t j = 0; j < dst.cols(); ++j) dst(i, j) = src(i, j);
}
/// True if no element is infinite or NaN, by the exponent bits.
template <StorageScalar S> bool all_finite(std::span<const S> values) {
    for (const S value : values)
        if (!is_finite(value)) return false;
    return true;
}

PEFT_ISA_END
