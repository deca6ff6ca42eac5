#pragma once
#include <peft/core/matrix_view.hpp>
#include <peft/core/scalar.hpp>
#include <peft/simd/dispatch.hpp>
#include <peft/simd/loop.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <span>
#include <type_traits>

PEFT_ISA_DETAIL_BEGIN

/// sums_j += sum_i a_ij (* b_ij), rows in order; b null: only a.
template <class T, bool products> struct AddColumns {
    template <class L>
    PEFT_INLINE static void run(const MatrixView<const T>& a, const MatrixView<const T>& b, T* sums) noexcept {
        constexpr std::size_t step = 4;   // rows read for each time the sums are read and written
        for (std::size_t first = 0; first < a.rows(); first += step) {
            const std::size_t last = std::min(first + step, a.rows());
            for_vectors<L::template lanes<T>>(0, a.cols(), [&](auto at) PEFT_INLINE_LAMBDA {
                auto sum = at.load(sums);
                for (std::size_t i = first; i < last; ++i) {
                    if constexpr (products) sum.add_product(at.load(a.row(i)), at.load(b.row(i)));
                    else sum += at.load(a.row(i));
                }
                at.store(sums, sum);
            });
        }
    }
};

template <class T, bool products> void add_columns(const MatrixView<const T>& a, const MatrixView<const T>& b, T* sums) {
    constexpr std::size_t width = 512;   // columns a task: 4 rows of them and the sums fit in L1
    parallel_for((a.cols() + width - 1) / width, a.size() >= parallel_elements, [&](std::size_t part) {
        const std::size_t first = part * width;
        const std::size_t cols = std::min(width, a.cols() - first);
        run_kernel<AddColumns<T, products>, const MatrixView<const T>&, const MatrixView<const T>&, T*>(
            a.block(0, first, a.rows(), cols), products ? b.block(0, first, b.rows(), cols) : b, sums + first);
    });
}

/// sum_i a_i b_i in Sum, four chains of vectors: a fixed order for a given length and level.
template <class Sum, class T> struct Dot {
    template <class L> PEFT_INLINE static Sum run(const T* a, const T* b, std::size_t count) noexcept {
        constexpr std::size_t n = L::template lanes<Sum>;
        using V = Vec<Sum, n>;
        V chain[4];
        PEFT_UNROLL
        for (std::size_t u = 0; u < 4; ++u) chain[u] = V::zero();
        std::size_t i = 0;
        for (; i + 4 * n <= count; i += 4 * n) {
            PEFT_UNROLL
            for (std::size_t u = 0; u < 4; ++u) chain[u].add_product(load_as<Sum, n>(a + i + u * n), load_as<Sum, n>(b + i + u * n));
        }
        for_vectors<n>(i, count, [&](auto at) PEFT_INLINE_LAMBDA {
            chain[0].add_product(at.template load_as<Sum>(a), at.template load_as<Sum>(b));
        });
        return sum_lanes((chain[0] + chain[1]) + (chain[2] + chain[3]));
    }
};
template <class T> struct RowNorms {
    template <class L> PEFT_INLINE static void run(const MatrixView<const T>& w, T* out) noexcept {
        for (std::size_t i = 0; i < w.rows(); ++i) out[i] = Dot<T, T>::template run<L>(w.row(i), w.row(i), w.cols());
    }
};

/// The largest magnitude by its bits: those of a NaN are above all others.
template <class T> struct MaxMagnitude {
    template <class L> PEFT_INLINE static UintOf<T> run(const T* values, std::size_t count) noexcept {
        using U = UintOf<T>;
        constexpr std::size_t n = L::template lanes<T>;
        constexpr U magnitude = static_cast<U>(~U{0}) >> 1;
        Vec<U, n> largest = Vec<U, n>::zero();
        for_vectors<n>(0, count, [&](auto at) PEFT_INLINE_LAMBDA {
            const Vec<U, n> bits{bits_as<U>(at.load(values)).raw & magnitude};
            largest = select(PEFT_MASK(U, n, bits.raw > largest.raw), bits, largest);
        });
        U lane[n];
        largest.store(lane);
        U result = 0;
        for (const U bits : lane) result = std::max(result, bits);
        return result;
    }
};

PEFT_ISA_DETAIL_END

PEFT_ISA_BEGIN

/// db_j += sum_i dy_ij, dy (n x out).
template <Scalar T> void add_column_sums(std::type_identity_t<MatrixView<const T>> dy, std::span<T> db) {
    PEFT_EXPECTS(db.size() == dy.cols());
    detail::add_columns<T, false>(dy, dy, db.data());
}
/// g_j += sum_i a_ij * b_ij, both (n x out).
template <Scalar T>
void add_column_dots(std::type_identity_t<MatrixView<const T>> a, std::type_identity_t<MatrixView<const T>> b, std::span<T> g) {
    PEFT_EXPECTS(a.rows() == b.rows() && a.cols() == b.cols() && g.size() == a.cols());
    detail::add_columns<T, true>(a, b, g.data());
}
/// out_i = sum_j w_ij^2
template <Scalar T> void row_squared_norms(std::type_identity_t<MatrixView<const T>> w, std::span<T> out) {
    PEFT_EXPECTS(out.size() == w.rows());
    constexpr std::size_t rows = 16;
    parallel_for((w.rows() + rows - 1) / rows, w.size() >= detail::parallel_elements, [&](std::size_t part) {
        const std::size_t first = part * rows;
        detail::run_kernel<detail::RowNorms<T>, const MatrixView<const T>&, T*>(w.rows(first, std::min(rows, w.rows() - first)),
                                                                                out.data() + first);
    });
}
/// sum_i a_i b_i
template <Scalar T> T dot(std::span<const T> a, std::type_identity_t<std::span<const T>> b) {
    PEFT_EXPECTS(a.size() == b.size());
    return detail::run_kernel<detail::Dot<T, T>, const T*, const T*, std::size_t>(a.data(), b.data(), a.size());
}
template <Scalar T> T dot(std::span<T> a, std::type_identity_t<std::span<const T>> b) { return dot<T>(std::span<const T>(a), b); }
/// sum_i v_i^2 in double.
template <Scalar T> double sum_of_squares(std::span<const T> values) {
    return detail::run_kernel<detail::Dot<double, T>, const T*, const T*, std::size_t>(values.data(), values.data(), values.size());
}
template <Scalar T> double sum_of_squares(std::span<T> values) { return sum_of_squares(std::span<const T>(values)); }
/// max_i |v_i|, 0 for none; NaN if there is one, under -ffast-math too.
template <Scalar T> T max_abs(std::span<const T> values) {
    return std::bit_cast<T>(detail::run_kernel<detail::MaxMagnitude<T>, const T*, std::size_t>(values.data(), values.size()));
}
template <Scalar T> T max_abs(std::span<T> values) { return max_abs(std::span<const T>(values)); }

PEFT_ISA_END
