#pragma once
#include <peft/core/arena.hpp>
#include <peft/core/threads.hpp>
#include <peft/kernels/sparse_block.hpp>
#include <peft/simd/loop.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

// Products with a matrix S (out x in) that has numbers at few positions. From four batch rows on, x and dy are turned
// around in blocks of 128 bytes of batch rows, so that each number of S meets whole vectors: S is read once a block, a dot
// product over the batch or an axpy of it is two AVX-512 instructions, and a block of x^T stays in L2 (in <= 8192).
// Below that, positions are gathered one by one.

PEFT_ISA_DETAIL_BEGIN

/// A block of x^T, or of dy^T: 64 or 128 bytes of batch rows, zeros behind the last.
struct SparseBlock {
    std::size_t first = 0, count = 0;   ///< batch rows
    std::size_t width = 0;              ///< elements of a row of the block
};

inline constexpr std::size_t sparse_block_bytes = 128;

template <Scalar T> SparseBlock sparse_block(std::size_t index, std::size_t n) noexcept {
    constexpr std::size_t full = sparse_block_bytes / sizeof(T);
    const std::size_t first = index * full;
    const std::size_t count = std::min(full, n - first);
    return {first, count, count > full / 2 ? full : full / 2};
}
template <Scalar T> std::size_t sparse_blocks(std::size_t n) noexcept {
    constexpr std::size_t full = sparse_block_bytes / sizeof(T);
    return (n + full - 1) / full;
}

// Fewer batch rows than this are not worth turning x around: measured at 1024 x 1024, 2 %.
inline constexpr std::size_t sparse_direct_rows = 4;
// A second thread pays where the numbers of S meet this many numbers of x.
inline constexpr std::size_t parallel_sparse_products = std::size_t{1} << 17;

/// Rows of S a task: about 2^13 numbers of S, at least one row.
inline std::size_t sparse_rows_per_task(const SparsePattern& s) noexcept {
    constexpr std::size_t numbers = std::size_t{1} << 13;
    const std::size_t rows = s.out();
    return s.count() == 0 ? std::max<std::size_t>(rows, 1) : std::clamp<std::size_t>(numbers * rows / s.count(), 1, std::max<std::size_t>(rows, 1));
}

/// f(first row, last row) for all rows of S.
template <class F> void for_sparse_rows(const SparsePattern& s, bool parallel, const F& f) {
    if (!parallel) return f(std::size_t{0}, s.out());
    const std::size_t rows = sparse_rows_per_task(s);
    parallel_for((s.out() + rows - 1) / rows, true, [&](std::size_t part) { f(part * rows, std::min(s.out(), (part + 1) * rows)); });
}

/// y^T in pieces that stay in L1, then added to y.
template <Scalar T>
void sparse_forward_rows(const SparsePattern& s, const T* values, T scale, const T* xt, const SparseBlock& block, std::size_t first, std::size_t last,
                         MatrixView<T> y) {
    constexpr std::size_t piece = 64;
    ArenaScope scope;
    const auto yt = scope.template matrix<T>(piece, block.width);
    for (std::size_t row = first; row < last; row += piece) {
        const std::size_t end = std::min(last, row + piece);
        const SparseTask<T> task{s, values, xt, yt.data(), nullptr, block.width, row, end, scale};
        run_kernel<SparseForward<T>, const SparseTask<T>&>(task);
        const TurnTask<T> turn{yt.data(), y.row(block.first) + row, y.stride(), block.width, block.count, end - row, scale};
        run_kernel<AddTurned<T>, const TurnTask<T>&>(turn);
    }
}

/// The block of x^T (in x width).
template <Scalar T> void turn_block(MatrixView<const T> x, const SparseBlock& block, T* xt) {
    const TurnTask<const T> task{x.row(block.first), xt, x.stride(), block.width, block.count, x.cols(), T(1)};
    run_kernel<Turn<T>, const TurnTask<const T>&>(task);
}

PEFT_ISA_DETAIL_END

PEFT_ISA_BEGIN

/// y += scale * x * S^T, x (n x in), values (numbers of S in the order of its positions), y (n x out).
/// x and y must not overlap. The numbers of a row of S are added in their order, whatever the number of threads.
template <Scalar T>
void sparse_forward(const SparsePattern& s, std::type_identity_t<std::span<const T>> values, std::type_identity_t<T> scale,
                    std::type_identity_t<MatrixView<const T>> x, MatrixView<T> y) {
    PEFT_EXPECTS(x.cols() == s.in && y.cols() == s.out() && x.rows() == y.rows() && values.size() == s.count());
    if (s.count() == 0 || x.rows() == 0) return;
    const bool parallel = s.count() * x.rows() >= detail::parallel_sparse_products;
    if (x.rows() < detail::sparse_direct_rows) {
        detail::for_sparse_rows(s, parallel, [&](std::size_t first, std::size_t last) {
            const detail::SparseDirectTask<T> task{s, values.data(), nullptr, x, {}, y, scale, first, last};
            detail::run_kernel<detail::SparseForwardDirect<T>, const detail::SparseDirectTask<T>&>(task);
        });
        return;
    }
    const std::size_t blocks = detail::sparse_blocks<T>(x.rows());
    parallel_for(blocks, parallel && blocks > 1, [&](std::size_t index) {
        const auto block = detail::sparse_block<T>(index, x.rows());
        ArenaScope scope;
        const auto xt = scope.template vector<T>(s.in * block.width);
        detail::turn_block<T>(x, block, xt.data());
        detail::for_sparse_rows(s, parallel && blocks == 1, [&](std::size_t first, std::size_t last) {
            detail::sparse_forward_rows<T>(s, values.data(), scale, xt.data(), block, first, last, y);
        });
    });
}

/// gradient_k += scale * sum_t dy(t, row of k) x(t, column of k): the products of dy^T x at the positions of S only.
/// dy (n x out), x (n x in), gradient in the order of the positions. Every element is summed in one order.
template <Scalar T>
void sparse_value_gradient(const SparsePattern& s, std::type_identity_t<T> scale, std::type_identity_t<MatrixView<const T>> dy,
                           std::type_identity_t<MatrixView<const T>> x, std::span<T> gradient) {
    PEFT_EXPECTS(x.cols() == s.in && dy.cols() == s.out() && x.rows() == dy.rows() && gradient.size() == s.count());
    if (s.count() == 0 || x.rows() == 0) return;
    const bool parallel = s.count() * x.rows() >= detail::parallel_sparse_products;
    if (x.rows() < detail::sparse_direct_rows) {
        detail::for_sparse_rows(s, parallel, [&](std::size_t first, std::size_t last) {
            const detail::SparseDirectTask<T> task{s, nullptr, gradient.data(), x, dy, {}, scale, first, last};
            detail::run_kernel<detail::SparseGradientDirect<T>, const detail::SparseDirectTask<T>&>(task);
        });
        return;
    }
    // Threads own rows of S, so each sees all of x; a group of blocks is turned around together, then used by all.
    constexpr std::size_t group = 4;
    const std::size_t blocks = detail::sparse_blocks<T>(x.rows());
    for (std::size_t base = 0; base < blocks; base += group) {
        const std::size_t members = std::min(group, blocks - base);
        ArenaScope scope;
        const std::size_t width = detail::sparse_block_bytes / sizeof(T);
        const auto xt = scope.template vector<T>(members * s.in * width);
        const auto dyt = scope.template vector<T>(members * s.out() * width);
        parallel_for(2 * members, parallel, [&](std::size_t index) {
            const std::size_t member = index / 2;
            const auto block = detail::sparse_block<T>(base + member, x.rows());
            if (index % 2 == 0) detail::turn_block<T>(x, block, xt.data() + member * s.in * width);
            else detail::turn_block<T>(dy, block, dyt.data() + member * s.out() * width);
        });
        detail::for_sparse_rows(s, parallel, [&](std::size_t first, std::size_t last) {
            for (std::size_t member = 0; member < members; ++member) {
                const auto block = detail::sparse_block<T>(base + member, x.rows());
                const detail::SparseTask<T> task{s, dyt.data() + member * s.out() * width, xt.data() + member * s.in * width, nullptr,
                                                 gradient.data(), block.width, first, last, scale};
                detail::run_kernel<detail::SparseGradient<T>, const detail::SparseTask<T>&>(task);
            }
        });
    }
}

/// dx += scale * dy * S, dy (n x out), dx (n x in). Threads own batch rows.
template <Scalar T>
void sparse_input_gradient(const SparsePattern& s, std::type_identity_t<std::span<const T>> values, std::type_identity_t<T> scale,
                           std::type_identity_t<MatrixView<const T>> dy, MatrixView<T> dx) {
    PEFT_EXPECTS(dx.cols() == s.in && dy.cols() == s.out() && dx.rows() == dy.rows() && values.size() == s.count());
    if (s.count() == 0 || dx.rows() == 0) return;
    const bool parallel = s.count() * dx.rows() >= detail::parallel_sparse_products;
    if (dx.rows() < detail::sparse_direct_rows) {
        const detail::SparseDirectTask<T> task{s, values.data(), nullptr, {}, dy, dx, scale, 0, s.out()};
        detail::run_kernel<detail::SparseInputGradientDirect<T>, const detail::SparseDirectTask<T>&>(task);
        return;
    }
    parallel_for(detail::sparse_blocks<T>(dx.rows()), parallel, [&](std::size_t index) {
        const auto block = detail::sparse_block<T>(index, dx.rows());
        ArenaScope scope;
        const auto dyt = scope.template vector<T>(s.out() * block.width);
        const auto dxt = scope.template vector<T>(s.in * block.width);
        detail::turn_block<T>(dy, block, dyt.data());
        const detail::SparseTask<T> task{s, values.data(), dyt.data(), dxt.data(), nullptr, block.width, 0, s.out(), scale};
        detail::run_kernel<detail::SparseInputGradient<T>, const detail::SparseTask<T>&>(task);
        const detail::TurnTask<T> turn{dxt.data(), dx.row(block.first), dx.stride(), block.width, block.count, s.in, scale};
        detail::run_kernel<detail::AddTurned<T>, const detail::TurnTask<T>&>(turn);
    });
}

/// Rows first .. first + work.rows() of S as a dense matrix: zeros, and scale * values at the positions.
template <Scalar T>
void sparse_scatter(const SparsePattern& s, std::type_identity_t<std::span<const T>> values, std::type_identity_t<T> scale, std::size_t first,
                    MatrixView<T> work) {
    PEFT_EXPECTS(work.cols() == s.in && first + work.rows() <= s.out() && values.size() == s.count());
    for (std::size_t i = 0; i < work.rows(); ++i) {
        T* row = work.row(i);
        for (std::size_t j = 0; j < s.in; ++j) row[j] = T(0);
        for (std::size_t k = s.begin(first + i); k < s.begin(first + i + 1); ++k) row[s.column(first + i, k)] = scale * values[k];
    }
}

/// The numbers of dense rows first .. first + rows.rows() at the positions of S, into the places of `values` that stand for
/// these rows; the others stay.
template <Scalar T>
void sparse_gather(const SparsePattern& s, std::size_t first, std::type_identity_t<MatrixView<const T>> rows, std::span<T> values) {
    PEFT_EXPECTS(rows.cols() == s.in && first + rows.rows() <= s.out() && values.size() == s.count());
    for (std::size_t i = 0; i < rows.rows(); ++i) {
        const T* row = rows.row(i);
        for (std::size_t k = s.begin(first + i); k < s.begin(first + i + 1); ++k) values[k] = row[s.column(first + i, k)];
    }
}

PEFT_ISA_END
