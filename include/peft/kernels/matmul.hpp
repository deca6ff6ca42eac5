#pragma once
#include <peft/core/arena.hpp>
#include <peft/core/matrix.hpp>
#include <peft/core/scalar.hpp>
#include <peft/core/threads.hpp>
#include <peft/kernels/matmul_tile.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>

PEFT_BEGIN

/// Options of a product: result (+)= scale * product, bias added to every row when it is not empty.
template <Scalar T> struct Product {
    T scale = 1;
    bool accumulate = false;
    std::span<const T> bias = {};
};

namespace detail {
template <class M> struct is_const_view : std::false_type {};
template <class S> struct is_const_view<MatrixView<const S>> : std::true_type {};
/// Whatever converts to a read-only view of its elements.
template <class M> concept MatrixLike = requires(const M& m) {
    typename M::value_type;
    static_cast<MatrixView<const typename M::value_type>>(m);
};
}  // namespace detail

PEFT_END

PEFT_ISA_DETAIL_BEGIN

// Below this many multiplications a parallel region costs more than it gives: it takes about 5 us, a core makes 1e5 a us.
inline constexpr std::size_t parallel_products = std::size_t{1} << 20;
// Sums are cut into pieces of this many terms, whatever the shape: a panel of 3 vectors then takes 48 KiB and stays in
// the first two caches while all rows pass over it.
inline constexpr std::size_t depth_block = 256;
// Rows packed at a time: 480 x 256 floats take half of a 1 MiB L2; a multiple of 8, 6 and 3.
inline constexpr std::size_t row_block = 480;
// Products with so few columns, or rows, go through dot products when the sum is long enough to pay for adding lanes.
inline constexpr std::size_t dot_columns = 16;
inline constexpr std::size_t dot_rows = 8;
inline constexpr std::size_t dot_depth = 64;

template <class T> PEFT_INLINE Finish<T> finish_of(const Product<T>& options) noexcept {
    return {options.scale, options.accumulate, options.bias.empty() ? nullptr : options.bias.data()};
}

/// c (p x q) (+)= scale * sum_k a(i, k) b(j, k) (+ bias): rows of a are packed once per row_block, b is packed panel by
/// panel, and each panel meets all packed rows while it is in cache.
template <class T, class S>
void multiply_packed(const Operand<T>& a, const Operand<S>& b, std::size_t depth, const MatrixView<T>& c, const Finish<T>& finish) {
    using Task = typename MultiplyPanel<T>::Task;
    const SimdLevel level = simd_level();
    const std::size_t tile_rows = tile_shape(level).rows;
    const std::size_t width = tile_columns<T>(level);
    const std::size_t panels = (c.cols() + width - 1) / width;
    ArenaScope scope;
    const std::size_t most_rows = (std::min(row_block, c.rows()) + tile_rows - 1) / tile_rows * tile_rows;
    T* const packed = scope.vector<T>(most_rows * std::min(depth_block, depth)).data();
    for (std::size_t first = 0; first < c.rows(); first += row_block) {
        const std::size_t rows = std::min(row_block, c.rows() - first);
        std::size_t k = 0;
        do {
            const std::size_t terms = std::min(depth_block, depth - k);
            const bool parallel = rows * c.cols() * terms >= parallel_products;
            // Few panels: the rows are shared out too. An element's sum is the same in any partition.
            const std::size_t groups = !parallel || panels >= 8 ? 1 : std::min<std::size_t>(8, (rows + 63) / 64);
            const std::size_t group_rows = (rows + groups * tile_rows - 1) / (groups * tile_rows) * tile_rows;
            const std::size_t pack_rows = 8 * tile_rows;
            parallel_for((rows + pack_rows - 1) / pack_rows, parallel, [&](std::size_t part) {
                const std::size_t row = part * pack_rows;
                const Operand<T> source{a.at(first + row, k), a.stride, a.lanes_contiguous};
                run_kernel<PackRows<T>, const Operand<T>&>(source, std::min(pack_rows, rows - row), terms, packed + row * terms);
            });
            parallel_for(panels * groups, parallel, [&](std::size_t part) {
                const std::size_t column = part / groups * width;
                const std::size_t row = part % groups * group_rows;
                if (row >= rows) return;
                const std::size_t columns = std::min(width, c.cols() - column);
                ArenaScope local;
                const Operand<S> source{b.at(column, k), b.stride, b.lanes_contiguous};
                Task task{packed + row * terms, nullptr, width, terms, c.row(first + row) + column, c.stride(),
                          std::min(group_rows, rows - row), columns, finish};
                if (task.finish.bias != nullptr) task.finish.bias += column;
                if (k > 0) {
                    task.finish.accumulate = true;
                    task.finish.bias = nullptr;
                }
                bool direct = false;
                if constexpr (std::is_same_v<T, S>) {
                    // used by two tiles only: not worth a copy
                    direct = b.lanes_contiguous && columns == width && task.rows <= 2 * tile_rows;
                    if (direct) {
                        task.b = source.data;
                        task.b_stride = source.stride;
                    }
                }
                if (!direct) {
                    T* panel = local.vector<T>(width * terms).data();
                    run_kernel<PackColumns<T, S>, const Operand<S>&>(source, columns, terms, panel);
                    task.b = panel;
                }
                run_kernel<MultiplyPanel<T>, const Task&>(task);
            });
            k += terms;
        } while (k < depth);
    }
}

template <class T, class S>
void multiply_dots(const MatrixView<const T>& x, const MatrixView<const S>& w, const MatrixView<T>& y, const Finish<T>& finish) {
    // 48 rows: a multiple of 8, 6 and 4, so that parts end where tiles end
    constexpr std::size_t part_rows = 48;
    const bool by_columns = w.rows() > x.rows();
    const std::size_t count = by_columns ? w.rows() : x.rows();
    const bool parallel = y.rows() * y.cols() * x.cols() >= parallel_products;
    const std::size_t part = parallel ? part_rows : count;
    parallel_for((count + part - 1) / part, parallel, [&](std::size_t index) {
        const std::size_t first = index * part;
        const std::size_t rows = std::min(part, count - first);
        Finish<T> local = finish;
        if (by_columns && local.bias != nullptr) local.bias += first;
        const MatrixView<const T> left = by_columns ? x : x.rows(first, rows);
        const MatrixView<const S> right = by_columns ? w.rows(first, rows) : w;
        const MatrixView<T> result = by_columns ? y.block(0, first, y.rows(), rows) : y.rows(first, rows);
        run_kernel<DotProducts<T, S>, const MatrixView<const T>&, const MatrixView<const S>&, const MatrixView<T>&, const Finish<T>&>(
            left, right, result, local);
    });
}

/// True if a product with x (n x in) and W (out x in) goes through dot products.
PEFT_INLINE bool takes_dots(std::size_t n, std::size_t in, std::size_t out) noexcept {
    return (out <= dot_columns || n <= dot_rows) && in >= dot_depth;
}
template <class T, class S>
void multiply_nt_by(bool dots, const MatrixView<const T>& x, const MatrixView<const S>& w, const MatrixView<T>& y, const Finish<T>& finish) {
    if (y.empty()) return;
    if (dots) return multiply_dots<T, S>(x, w, y, finish);
    multiply_packed<T, S>({x.data(), x.stride(), false}, {w.data(), w.stride(), false}, x.cols(), y, finish);
}

PEFT_ISA_DETAIL_END

PEFT_ISA_BEGIN

/// y (n x out) (+)= scale * x (n x in) * W^T (+ bias), W (out x in) in any storage type, arithmetic in T.
/// y overlaps neither x nor W. The bits of a row of y depend on that row of x and on W only, not on the other rows nor on
/// the number of threads, among all n > 8 and among all n <= 8 (which sum in another order).
template <Scalar T, StorageScalar S>
void multiply_nt(std::type_identity_t<MatrixView<const T>> x, MatrixView<const S> w, MatrixView<T> y,
                 std::type_identity_t<Product<T>> options = {}) {
    PEFT_EXPECTS(x.cols() == w.cols() && y.rows() == x.rows() && y.cols() == w.rows());
    PEFT_EXPECTS(options.bias.empty() || options.bias.size() == y.cols());
    detail::multiply_nt_by<T, S>(detail::takes_dots(x.rows(), x.cols(), w.rows()), x, w, y, detail::finish_of(options));
}

/// dx (n x in) (+)= scale * dy (n x out) * W (+ bias), W (out x in) in any storage type, arithmetic in T.
/// dx overlaps neither dy nor W. The bits of a row of dx depend on that row of dy and on W only.
template <Scalar T, StorageScalar S>
void multiply_nn(std::type_identity_t<MatrixView<const T>> dy, MatrixView<const S> w, MatrixView<T> dx,
                 std::type_identity_t<Product<T>> options = {}) {
    PEFT_EXPECTS(dy.cols() == w.rows() && dx.rows() == dy.rows() && dx.cols() == w.cols());
    PEFT_EXPECTS(options.bias.empty() || options.bias.size() == dx.cols());
    if (dx.empty()) return;
    const detail::Finish<T> finish = detail::finish_of(options);
    if (dx.cols() <= detail::dot_columns && dy.cols() >= detail::dot_depth) {
        // Lanes along the few columns would be mostly empty: transpose the narrow W once and use dot products.
        ArenaScope scope;
        const MatrixView<T> turned = scope.matrix<T>(w.cols(), w.rows());
        for (std::size_t k = 0; k < w.rows(); ++k) {
            for (std::size_t j = 0; j < w.cols(); ++j) turned(j, k) = static_cast<T>(widen(w(k, j)));
        }
        return detail::multiply_dots<T, T>(dy, turned, dx, finish);
    }
    detail::multiply_packed<T, S>({dy.data(), dy.stride(), false}, {w.data(), w.stride(), true}, dy.cols(), dx, finish);
}

/// c (p x q) (+)= scale * a^T * b (+ bias), a (n x p), b (n x q). c overlaps neither a nor b.
template <Scalar T>
void multiply_tn(std::type_identity_t<MatrixView<const T>> a, std::type_identity_t<MatrixView<const T>> b, MatrixView<T> c,
                 std::type_identity_t<Product<T>> options = {}) {
    PEFT_EXPECTS(a.rows() == b.rows() && c.rows() == a.cols() && c.cols() == b.cols());
    PEFT_EXPECTS(options.bias.empty() || options.bias.size() == c.cols());
    if (c.empty()) return;
    const detail::Operand<T> left{a.data(), a.stride(), true};
    const detail::Operand<T> right{b.data(), b.stride(), true};
    if (c.cols() > detail::dot_columns || c.rows() <= c.cols()) {
        return detail::multiply_packed<T, T>(left, right, a.rows(), c, detail::finish_of(options));
    }
    // Few columns: c^T = b^T a has its lanes along the long side.
    ArenaScope scope;
    const MatrixView<T> turned = scope.matrix<T>(c.cols(), c.rows());
    detail::multiply_packed<T, T>(right, left, a.rows(), turned, {options.scale, false, nullptr});
    for (std::size_t i = 0; i < c.rows(); ++i) {
        for (std::size_t j = 0; j < c.cols(); ++j) {
            T value = turned(j, i);
            if (!options.bias.empty()) value += options.bias[j];
            c(i, j) = options.accumulate ? c(i, j) + value : value;
        }
    }
}

// The same for arguments that are not exactly views of the right constness: Matrix, or a mutable view as weight.

template <Scalar T, class W>
    requires(detail::MatrixLike<W> && !detail::is_const_view<W>::value)
PEFT_INLINE void multiply_nt(std::type_identity_t<MatrixView<const T>> x, const W& w, MatrixView<T> y,
                             std::type_identity_t<Product<T>> options = {}) {
    multiply_nt<T, typename W::value_type>(x, w, y, options);
}
template <Scalar T, class W>
    requires detail::MatrixLike<W>
PEFT_INLINE void multiply_nt(std::type_identity_t<MatrixView<const T>> x, const W& w, Matrix<T>& y,
                             std::type_identity_t<Product<T>> options = {}) {
    multiply_nt<T, typename W::value_type>(x, w, y.view(), options);
}
template <Scalar T, class W>
    requires(detail::MatrixLike<W> && !detail::is_const_view<W>::value)
PEFT_INLINE void multiply_nn(std::type_identity_t<MatrixView<const T>> dy, const W& w, MatrixView<T> dx,
                             std::type_identity_t<Product<T>> options = {}) {
    multiply_nn<T, typename W::value_type>(dy, w, dx, options);
}
template <Scalar T, class W>
    requires detail::MatrixLike<W>
PEFT_INLINE void multiply_nn(std::type_identity_t<MatrixView<const T>> dy, const W& w, Matrix<T>& dx,
                             std::type_identity_t<Product<T>> options = {}) {
    multiply_nn<T, typename W::value_type>(dy, w, dx.view(), options);
}
template <Scalar T>
PEFT_INLINE void multiply_tn(std::type_identity_t<MatrixView<const T>> a, std::type_identity_t<MatrixView<const T>> b,
                             Matrix<T>& c, std::type_identity_t<Product<T>> options = {}) {
    multiply_tn<T>(a, b, c.view(), options);
}

PEFT_ISA_END
