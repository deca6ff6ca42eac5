#pragma once
#include <peft/core/error.hpp>
#include <peft/core/strided_view.hpp>
#include <peft/kernels/elementwise.hpp>
#include <peft/kernels/reduce.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>

PEFT_ISA_DETAIL_BEGIN

/// False for NaN and infinity, under -ffast-math too.
template <class T> bool is_finite(T value) noexcept {
    constexpr auto infinity = std::bit_cast<UintOf<T>>(std::numeric_limits<T>::infinity());
    return (std::bit_cast<UintOf<T>>(value) & infinity) != infinity;
}

/// The exponent e for which the largest magnitude of a * 2^-e lies in [1/2, 1), limited so that 2^e and 2^-e are normal numbers;
/// 0 for a zero matrix. Throws ShapeError if a is empty, NumericError if it holds NaN or infinity.
template <class T> int balancing_exponent(const MatrixView<const T>& a, const char* who) {
    if (a.empty()) {
        throw ShapeError("the matrix is empty", {.subject = who,
                                                 .expected = "at least 1 x 1",
                                                 .found = std::to_string(a.rows()) + " x " + std::to_string(a.cols())});
    }
    T largest = 0;
    for (std::size_t i = 0; i < a.rows(); ++i) {
        const T of_row = max_abs<T>(a.row_span(i));
        if (!is_finite(of_row)) {
            std::string where("row ");
            where += std::to_string(i);
            throw NumericError("the matrix holds NaN or infinity", {.subject = who, .found = where});
        }
        largest = std::max(largest, of_row);
    }
    if (largest == 0) return 0;
    int exponent = 0;
    static_cast<void>(std::frexp(largest, &exponent));
    constexpr int limit = std::numeric_limits<T>::max_exponent - 2;
    return std::clamp(exponent, -limit, limit);
}

/// values *= 2^exponent
template <class T> void scale_exactly(int exponent, const MatrixView<T>& values) {
    if (exponent == 0) return;
    const T factor = std::ldexp(T(1), exponent);
    for (std::size_t i = 0; i < values.rows(); ++i) {
        for (std::size_t j = 0; j < values.cols(); ++j) values(i, j) *= factor;
    }
}
/// dst = src * 2^-exponent: exact but where it underflows.
template <class T> void copy_balanced(const StridedView<const T>& src, int exponent, const MatrixView<T>& dst) {
    transpose<T>(src, dst);
    scale_exactly<T>(-exponent, dst);
}

PEFT_ISA_DETAIL_END
