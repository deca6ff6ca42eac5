#pragma once
#include <peft/core/arena.hpp>
#include <peft/kernels/matmul.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

// Householder reflectors H = I - tau v v^T, kept as the rows of a matrix: row i is v_i with explicit zeros before its leading
// one, so that products with many of them are plain matrix products.

PEFT_ISA_DETAIL_BEGIN

/// Reflectors applied at a time: their triangular factor costs reflector_block^2 * length, the products gain no more beyond.
inline constexpr std::size_t reflector_block = 32;

/// H x = beta e_0. The sign of beta is that of LAPACK's larfg: -sign(x_0), and H = I where x is a multiple of e_0.
struct Reflector {
    double tau;
    double beta;
};

/// Turns x, not empty, into the v of its reflector, v_0 = 1. What follows x_0 is dropped where it is so small that v could not be
/// computed: below the smallest normal number / epsilon, far below the rounding of a balanced matrix.
template <class T> Reflector make_reflector(std::span<T> x) {
    // 2^-450: where squares of doubles get near their underflow
    const double smallest = std::max(static_cast<double>(std::numeric_limits<T>::min()) / static_cast<double>(std::numeric_limits<T>::epsilon()), 0x1p-450);
    const auto tail = x.subspan(1);
    const auto head = static_cast<double>(x[0]);
    double chain[4] = {};   // in double, as the squares of floats neither overflow nor underflow there
    for (std::size_t i = 0; i < tail.size(); ++i) chain[i % 4] += static_cast<double>(tail[i]) * static_cast<double>(tail[i]);
    const double rest = (chain[0] + chain[1]) + (chain[2] + chain[3]);
    x[0] = T(1);
    if (!(rest > smallest * smallest)) {
        std::fill(tail.begin(), tail.end(), T(0));
        return {0, head};
    }
    const double norm = std::sqrt(head * head + rest);
    const double beta = head >= 0 ? -norm : norm;
    const T factor = static_cast<T>(1 / (head - beta));
    for (T& value : tail) value *= factor;
    return {(beta - head) / beta, beta};
}

/// The upper triangular t (count x count) with H_0 ... H_{count-1} = I - Y^T t Y, Y (count x length) the rows v_i.
/// Source: Schreiber and Van Loan 1989, "A storage-efficient WY representation for products of Householder transformations".
template <class T> void triangular_factor(const MatrixView<const T>& y, std::span<const T> tau, const MatrixView<T>& t) {
    ArenaScope scope;
    const auto gram = scope.matrix<T>(y.rows(), y.rows());
    multiply_nt<T>(y, y, gram);
    for (std::size_t i = 0; i < y.rows(); ++i) {
        for (std::size_t j = 0; j < y.rows(); ++j) {
            T sum = i == j ? tau[i] : T(0);
            if (j < i) {
                for (std::size_t k = j; k < i; ++k) sum -= t(j, k) * gram(k, i) * tau[i];
            }
            t(j, i) = sum;
        }
    }
}

/// z <- z (I - Y^T t Y), or with t^T: z times the product of the reflectors in rising, or falling, order.
template <class T>
void apply_reflectors(const MatrixView<const T>& y, const MatrixView<const T>& t, bool falling, const MatrixView<T>& z) {
    if (z.empty()) return;
    ArenaScope scope;
    const auto along = scope.matrix<T>(z.rows(), y.rows());
    const auto mixed = scope.matrix<T>(z.rows(), y.rows());
    multiply_nt<T>(z, y, along);
    if (falling) multiply_nt<T>(along, t, mixed);
    else multiply_nn<T>(along, t, mixed);
    multiply_nn<T>(mixed, y, z, {.scale = T(-1), .accumulate = true});
}

/// q = the first q.rows() rows of H_{count-1} ... H_0, i.e. the transposed first columns of H_0 ... H_{count-1}.
/// The leading one of row i of y stands at i + offset.
template <class T>
void form_rows(const MatrixView<const T>& y, std::span<const T> tau, std::size_t offset, const MatrixView<T>& q) {
    for (std::size_t i = 0; i < q.rows(); ++i) {
        for (std::size_t j = 0; j < q.cols(); ++j) q(i, j) = i == j ? T(1) : T(0);
    }
    ArenaScope scope;
    const auto t = scope.matrix<T>(reflector_block, reflector_block);
    for (std::size_t block = (y.rows() + reflector_block - 1) / reflector_block; block-- > 0;) {
        const std::size_t first = block * reflector_block;
        const std::size_t count = std::min(reflector_block, y.rows() - first);
        const std::size_t start = first + offset;   // rows and columns before it are still those of the identity
        if (start >= q.rows()) continue;
        const auto part = y.block(first, start, count, y.cols() - start);
        const MatrixView<T> factor = t.block(0, 0, count, count);
        triangular_factor<T>(part, tau.subspan(first, count), factor);
        apply_reflectors<T>(part, factor, true, q.block(start, start, q.rows() - start, q.cols() - start));
    }
}

/// QR of the matrix whose columns are the rows of at (n x m): at = R^T Q^T. On return the first k = min(m, n) rows of at are
/// the reflectors of Q = H_0 ... H_{k-1}, tau (k) their factors, and r (k x n) is upper triangular.
template <class T> void factor_rows(const MatrixView<T>& at, std::span<T> tau, const MatrixView<T>& r) {
    const std::size_t k = std::min(at.rows(), at.cols());
    ArenaScope scope;
    const auto t = scope.matrix<T>(reflector_block, reflector_block);
    const auto dots = scope.matrix<T>(1, reflector_block);
    for (std::size_t first = 0; first < k; first += reflector_block) {
        const std::size_t count = std::min(reflector_block, k - first);
        for (std::size_t i = first; i < first + count; ++i) {
            const auto v = at.row_span(i).subspan(i);
            const Reflector reflector = make_reflector(v);
            tau[i] = static_cast<T>(reflector.tau);
            r(i, i) = static_cast<T>(reflector.beta);
            const std::size_t below = first + count - i - 1;
            if (below == 0) continue;
            const auto rest = at.block(i + 1, i, below, v.size());
            const auto product = dots.block(0, 0, 1, below);
            const MatrixView<const T> row(v.data(), 1, v.size());
            multiply_nt<T>(row, rest, product, {.scale = -tau[i]});
            multiply_nn<T>(MatrixView<const T>(product.data(), below, 1), row, rest, {.accumulate = true});
        }
        for (std::size_t i = first; i < first + count; ++i) {
            for (std::size_t j = 0; j < i; ++j) {
                r(j, i) = at(i, j);
                r(i, j) = T(0);
                at(i, j) = T(0);
            }
        }
        if (first + count == at.rows()) continue;
        const auto y = at.block(first, first, count, at.cols() - first);
        const MatrixView<T> factor = t.block(0, 0, count, count);
        triangular_factor<T>(y, std::span<const T>(tau).subspan(first, count), factor);
        apply_reflectors<T>(y, factor, false, at.block(first + count, first, at.rows() - first - count, y.cols()));
    }
    for (std::size_t i = k; i < at.rows(); ++i) {
        for (std::size_t j = 0; j < k; ++j) r(j, i) = at(i, j);
    }
}

PEFT_ISA_DETAIL_END
