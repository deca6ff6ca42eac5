#pragma once
#include <peft/core/matrix_view.hpp>
#include <peft/core/scalar.hpp>

#include <span>

PEFT_ISA_BEGIN

template <Scalar T> void fill(T value, MatrixView<T> y) {
    for (std::size_t i = 0; i < y.rows(); ++i) {
        for (std::size_t j = 0; j < y.cols(); ++j) y(i, j) = value;
    }
}

/// y_ij += s * b_j
template <Scalar T> void axpy_rows(T s, std::span<const T> b, MatrixView<T> y) {
    for (std::size_t i = 0; i < y.rows(); ++i) {
        for (std::size_t j = 0; j < y.cols(); ++j) y(i, j) += s * b[j];
    }
}

/// y_ij += (c_j - 1) * (y_ij - b_j) + c_j * d_ij: the output of a layer whose weight rows are scaled by c after d has
/// been added, from the output y of the frozen layer with bias b (may be empty). With c = 1 and d = 0, y stays as it is, bit for bit.
template <Scalar T> void rescale_rows_forward(std::span<const T> c, std::span<const T> b, MatrixView<const T> d, MatrixView<T> y) {
    for (std::size_t i = 0; i < y.rows(); ++i) {
        for (std::size_t j = 0; j < y.cols(); ++j) {
            const T base = b.empty() ? y(i, j) : y(i, j) - b[j];
            y(i, j) += (c[j] - T(1)) * base + c[j] * d(i, j);
        }
    }
}

/// v_ij = y_ij - b_j + d_ij
template <Scalar T> void without_bias_plus(MatrixView<const T> y, std::span<const T> b, MatrixView<const T> d, MatrixView<T> v) {
    for (std::size_t i = 0; i < y.rows(); ++i) {
        for (std::size_t j = 0; j < y.cols(); ++j) v(i, j) = (b.empty() ? y(i, j) : y(i, j) - b[j]) + d(i, j);
    }
}

PEFT_ISA_END
