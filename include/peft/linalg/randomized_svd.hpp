#pragma once
#include <peft/core/concepts.hpp>
#include <peft/core/random.hpp>
#include <peft/linalg/qr.hpp>
#include <peft/linalg/svd.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>

PEFT_BEGIN

/// How randomized_svd looks for the leading triplets.
struct RandomizedSvdOptions {
    std::size_t rank = 1;              ///< triplets wanted, 1 to min(out, in)
    std::size_t oversample = 10;       ///< more directions than wanted: 5 or 10 suffice (Halko et al. 2011, section 1.3)
    std::size_t power_iterations = 4;  ///< products with W^T W; each sharpens a slow decay (scikit-learn's randomized_svd takes 4)
    StreamKey key{.purpose = Purpose::basis};   ///< of the random directions
};

PEFT_END

PEFT_ISA_DETAIL_BEGIN

/// A matrix W (out x in) with the interface of a base.
template <class T> struct MatrixOperations {
    static const MatrixView<const T>& self(const void* w) { return *static_cast<const MatrixView<const T>*>(w); }
    static LayerShape shape(const void* w) { return {.in = self(w).cols(), .out = self(w).rows()}; }
    static std::span<const T> bias(const void*) { return {}; }
    static void product(const void* w, MatrixView<const T> x, MatrixView<T> y) { multiply_nt<T>(x, self(w), y); }
    static void transposed_product(const void* w, MatrixView<const T> dy, MatrixView<T> dx) { multiply_nn<T>(dy, self(w), dx, {.accumulate = true}); }
    static constexpr typename BaseView<T>::Operations table{&shape, &bias, &product, &transposed_product, nullptr};
};

/// q = orthonormal rows that span those of y (used up). Throws NumericError if y holds NaN or infinity.
template <class T> void orthonormalize(const MatrixView<T>& y, const MatrixView<T>& q) {
    scale_exactly<T>(-balancing_exponent<T>(y, "randomized_svd"), y);
    ArenaScope scope;
    orthonormal_rows<T>(y, q, scope.matrix<T>(y.rows(), y.rows()));
}

PEFT_ISA_DETAIL_END

PEFT_ISA_BEGIN

/// The leading triplets of W (out x in), given by its products alone: u (out x rank), s (1 x rank), vt (rank x in).
/// u and vt are orthonormal; s_i never exceeds the singular value i by more than rounding. The directions are made orthonormal
/// between all products. Costs 2 power_iterations + 2 products with rank + oversample rows, and memory for a few of these rows;
/// where they reach min(out, in) it is as exact as svd.
/// Throws ShapeError if W is empty, OptionError unless 1 <= rank <= min(out, in), NumericError if W gives NaN or infinity.
/// Source: Halko, Martinsson, Tropp 2011, arXiv:0909.4061, algorithms 4.4 and 5.1.
template <Scalar T> Svd<T> randomized_svd(const BaseView<T>& w, const RandomizedSvdOptions& options) {
    const LayerShape shape = w.shape();
    const std::size_t most = std::min(shape.in, shape.out);
    if (most == 0) throw ShapeError("the matrix is empty", {.subject = "randomized_svd", .expected = "at least 1 x 1"});
    if (options.rank == 0 || options.rank > most) {
        std::string range("1 to ");
        range += std::to_string(most);
        throw OptionError("the matrix has no such rank", {.subject = "randomized_svd", .expected = range, .found = std::to_string(options.rank)});
    }
    const std::size_t rows = options.rank + std::min(options.oversample, most - options.rank);
    Matrix<T> in_rows(rows, shape.in), in_basis(rows, shape.in), out_rows(rows, shape.out), out_basis(rows, shape.out);
    fill_normal(options.key, 0, 1, in_basis.flat());
    for (std::size_t step = 0;; ++step) {
        w.product(in_basis, out_rows);
        detail::orthonormalize<T>(out_rows, out_basis);
        in_rows.set_zero();
        w.transposed_product(out_basis, in_rows);
        if (step == options.power_iterations) break;
        detail::orthonormalize<T>(in_rows, in_basis);
    }
    // W ~ out_basis^T (out_basis W)
    Svd<T> small = svd<T>(in_rows);
    Svd<T> result{Matrix<T>(shape.out, options.rank), Matrix<T>(small.s.view().block(0, 0, 1, options.rank)), Matrix<T>(small.vt.rows(0, options.rank))};
    const Matrix<T> leading(small.u.view().block(0, 0, rows, options.rank));
    multiply_tn<T>(out_basis, leading, result.u);
    return result;
}
/// The same for a matrix.
template <Scalar T> Svd<T> randomized_svd(std::type_identity_t<MatrixView<const T>> w, const RandomizedSvdOptions& options) {
    return randomized_svd<T>(BaseView<T>(&w, &detail::MatrixOperations<T>::table), options);
}
template <Scalar T> Svd<T> randomized_svd(const Matrix<T>& w, const RandomizedSvdOptions& options) { return randomized_svd<T>(w.view(), options); }

PEFT_ISA_END
