#pragma once
#include <peft/core/arena.hpp>
#include <peft/core/matrix_access.hpp>
#include <peft/core/scalar.hpp>
#include <peft/kernels/elementwise.hpp>
#include <peft/kernels/matmul.hpp>

#include <cstring>
#include <span>

PEFT_BEGIN

/// A weight in memory, either as W (out x in) or, when `transposed`, as W^T (in x out): the layout of GPT-2's Conv1D
/// and of a column-major matrix. What all dense bases are views of.
template <class S> struct WeightView {
    MatrixView<S> stored;
    bool transposed = false;

    PEFT_INLINE std::size_t in() const noexcept { return transposed ? stored.rows() : stored.cols(); }
    PEFT_INLINE std::size_t out() const noexcept { return transposed ? stored.cols() : stored.rows(); }
    /// As the matrix W (out x in), whatever the layout.
    PEFT_INLINE std::size_t rows() const noexcept { return out(); }
    PEFT_INLINE std::size_t cols() const noexcept { return in(); }
    PEFT_INLINE S& operator()(std::size_t i, std::size_t j) const noexcept { return transposed ? stored(j, i) : stored(i, j); }
    PEFT_INLINE WeightView<const S> read_only() const noexcept { return {stored, transposed}; }
};

PEFT_END

PEFT_ISA_DETAIL_BEGIN

// The arithmetic of dense bases. Free functions, so that the bases themselves are vocabulary and may cross units.

/// y = x W^T + bias
template <Scalar T, StorageScalar S> void weight_forward(WeightView<const S> w, std::span<const T> bias, MatrixView<const T> x, MatrixView<T> y) {
    expect_columns("forward: x", x.cols(), w.in(), "in");
    expect_shape("forward: y", y.rows(), y.cols(), x.rows(), w.out());
    if (w.transposed) multiply_nn<T, S>(x, w.stored, y, {.scale = 1, .accumulate = false, .bias = bias});
    else multiply_nt<T, S>(x, w.stored, y, {.scale = 1, .accumulate = false, .bias = bias});
}

/// dx += dy W
template <Scalar T, StorageScalar S> void weight_backward_input(WeightView<const S> w, MatrixView<const T> dy, MatrixView<T> dx) {
    expect_columns("backward: dy", dy.cols(), w.out(), "out");
    expect_shape("backward: dx", dx.rows(), dx.cols(), dy.rows(), w.in());
    if (w.transposed) multiply_nt<T, S>(dy, w.stored, dx, {.scale = 1, .accumulate = true, .bias = {}});
    else multiply_nn<T, S>(dy, w.stored, dx, {.scale = 1, .accumulate = true, .bias = {}});
}

/// Throws ShapeError unless rows has `in` columns and W has rows first .. first + rows.rows().
inline void expect_rows(std::string_view what, std::size_t first, std::size_t rows, std::size_t cols, LayerShape shape) {
    expect_columns(what, cols, shape.in, "in");
    if (rows <= shape.out && first <= shape.out - rows) return;
    throw ShapeError("the weight has no such rows", {.subject = std::string(what), .expected = "rows below out = " + std::to_string(shape.out),
                                                     .found = std::to_string(rows) + " rows from row " + std::to_string(first)});
}

/// Rows first .. first + rows.rows() of W as they are stored.
template <StorageScalar S> void weight_read_stored(WeightView<const S> w, std::size_t first, MatrixView<S> rows) {
    expect_rows("read_rows", first, rows.rows(), rows.cols(), {w.in(), w.out()});
    for (std::size_t i = 0; i < rows.rows(); ++i) {
        if (w.transposed) {
            for (std::size_t j = 0; j < rows.cols(); ++j) rows(i, j) = w.stored(j, first + i);
        } else if (rows.cols() != 0) {
            std::memcpy(static_cast<void*>(rows.row(i)), w.stored.row(first + i), rows.cols() * sizeof(S));
        }
    }
}

template <StorageScalar S> void weight_write_stored(WeightView<S> w, std::size_t first, MatrixView<const S> rows) {
    expect_rows("write_rows", first, rows.rows(), rows.cols(), {w.in(), w.out()});
    for (std::size_t i = 0; i < rows.rows(); ++i) {
        if (w.transposed) {
            for (std::size_t j = 0; j < rows.cols(); ++j) w.stored(j, first + i) = rows(i, j);
        } else if (rows.cols() != 0) {
            std::memcpy(static_cast<void*>(w.stored.row(first + i)), rows.row(i), rows.cols() * sizeof(S));
        }
    }
}

/// Rows of W as numbers of the compute type.
template <Scalar T, StorageScalar S> void weight_read_rows(WeightView<const S> w, std::size_t first, MatrixView<T> rows) {
    if constexpr (std::is_same_v<T, S>) {
        weight_read_stored<S>(w, first, rows);
    } else {
        ArenaScope scope;
        const auto stored = scope.matrix<S>(rows.rows(), rows.cols());
        weight_read_stored<S>(w, first, stored);
        for (std::size_t i = 0; i < rows.rows(); ++i) widen(std::span<const S>(stored.row_span(i)), rows.row_span(i));
    }
}

/// Replaces rows of W, rounding once to the storage type.
template <Scalar T, StorageScalar S> void weight_write_rows(WeightView<S> w, std::size_t first, MatrixView<const T> rows) {
    if constexpr (std::is_same_v<T, S>) {
        weight_write_stored<S>(w, first, rows);
    } else {
        ArenaScope scope;
        const auto stored = scope.matrix<S>(rows.rows(), rows.cols());
        for (std::size_t i = 0; i < rows.rows(); ++i) round_to_storage(rows.row_span(i), stored.row_span(i));
        weight_write_stored<S>(w, first, MatrixView<const S>(stored));
    }
}

/// A matrix of numbers as one of storage type S, rounded once.
template <StorageScalar S, Scalar T> Matrix<S> to_storage(StridedView<const T> source) {
    Matrix<S> result(source.rows(), source.cols());
    for (std::size_t i = 0; i < source.rows(); ++i) {
        for (std::size_t j = 0; j < source.cols(); ++j) result(i, j) = round_to<S>(source(i, j));
    }
    return result;
}

PEFT_ISA_DETAIL_END
