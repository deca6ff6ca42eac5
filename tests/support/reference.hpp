#pragma once
#include <peft/core/matrix_view.hpp>
#include <peft/core/scalar.hpp>

#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

// Plain loops that kernels are compared with, in long double, and the error a kernel in T may make.

namespace peft::test {

/// A matrix of sums together with the sums of the magnitudes of their terms and the number of terms.
struct Expected {
    Expected(std::size_t row_count, std::size_t col_count)
        : rows(row_count), cols(col_count), value(rows * cols, 0.0L), magnitude(rows * cols, 0.0L) {}

    void add(std::size_t i, std::size_t j, long double term) {
        value[i * cols + j] += term;
        magnitude[i * cols + j] += std::fabs(term);
    }

    std::size_t rows, cols, terms = 0;
    std::vector<long double> value, magnitude;
};

/// sum_k left(i, k) * right(k, j) times scale; left and right are callables that give long double.
template <class Left, class Right>
Expected expected_product(std::size_t rows, std::size_t cols, std::size_t depth, long double scale, const Left& left, const Right& right) {
    Expected result(rows, cols);
    result.terms = depth;
    for (std::size_t i = 0; i < rows; ++i)
        for (std::size_t j = 0; j < cols; ++j)
            for (std::size_t k = 0; k < depth; ++k) result.add(i, j, scale * left(i, k) * right(k, j));
    return result;
}

template <class S> long double exact(S value) { return static_cast<long double>(widen(value)); }

/// Empty if every element of `actual` lies within the rounding of a sum of `terms` products, in any order; else the first
/// that does not. NaN and infinity must be met as they are.
template <class T> std::string difference(MatrixView<const T> actual, const Expected& expected) {
    if (actual.rows() != expected.rows || actual.cols() != expected.cols) return "shapes differ";
    for (std::size_t i = 0; i < actual.rows(); ++i) {
        for (std::size_t j = 0; j < actual.cols(); ++j) {
            const auto found = static_cast<long double>(actual(i, j));
            const long double wanted = expected.value[i * expected.cols + j];
            // each of the terms is rounded once as a product and at most `terms` times in sums; 4: scale, bias, store
            const long double bound = static_cast<long double>(std::numeric_limits<T>::epsilon()) *
                                      static_cast<long double>(expected.terms + 4) * expected.magnitude[i * expected.cols + j];
            const bool both_nan = std::isnan(found) && std::isnan(wanted);
            const bool equal = both_nan || found == wanted || std::fabs(found - wanted) <= bound;
            if (!equal) {
                return "(" + std::to_string(i) + ", " + std::to_string(j) + "): found " + std::to_string(found) + ", expected " +
                       std::to_string(wanted) + " +- " + std::to_string(bound);
            }
        }
    }
    return {};
}

}  // namespace peft::test
