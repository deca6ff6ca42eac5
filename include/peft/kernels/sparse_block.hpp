#pragma once
#include <peft/core/matrix_view.hpp>
#include <peft/core/scalar.hpp>
#include <peft/simd/vector.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

// The kernel bodies of sparse.hpp.

PEFT_ISA_BEGIN

/// Where a matrix S (out x in) has its numbers: row by row, in a row by column. A view.
struct SparsePattern {
    std::size_t in = 0;
    std::span<const std::int32_t> starts;    ///< out + 1: the numbers of row o are starts[o] .. starts[o + 1]
    std::span<const std::int32_t> indices;   ///< o * in + i, strictly rising

    PEFT_INLINE std::size_t out() const noexcept { return starts.empty() ? 0 : starts.size() - 1; }
    PEFT_INLINE std::size_t count() const noexcept { return indices.size(); }
    PEFT_INLINE std::size_t begin(std::size_t row) const noexcept { return static_cast<std::size_t>(starts[row]); }
    PEFT_INLINE std::size_t column(std::size_t row, std::size_t k) const noexcept { return static_cast<std::size_t>(indices[k]) - row * in; }
};

PEFT_ISA_END

PEFT_ISA_DETAIL_BEGIN

/// A row-major block (count x cols, rows `stride` apart) and its transpose (cols x width).
template <class T> struct TurnTask {
    T* from;
    std::remove_const_t<T>* to;
    std::size_t stride, width, count, cols;
    std::remove_const_t<T> scale;
};

/// f(j, t) for the tiles of n x n, those of a cache line of columns together: rows a power of two apart share few places of
/// the cache, and a line would be gone before its other tiles come.
template <std::size_t n, class T, class F> PEFT_INLINE void for_tiles(std::size_t cols, std::size_t depth, const F& f) noexcept {
    constexpr std::size_t line = 64 / sizeof(T);
    for (std::size_t first = 0; first < cols; first += line) {
        const std::size_t last = std::min(cols, first + line);
        for (std::size_t t = 0; t < depth; t += n)
            for (std::size_t j = first; j < last; j += n) f(j, t);
    }
}

/// to (cols x width) = from (count x cols)^T, zeros from column `count` on.
template <Scalar T> struct Turn {
    template <class L> PEFT_INLINE static void run(const TurnTask<const T>& task) noexcept {
        constexpr std::size_t n = L::template lanes<T>;
        using V = Vec<T, n>;
        for_tiles<n, T>(task.cols, task.width, [&](std::size_t j, std::size_t t) PEFT_INLINE_LAMBDA {
            const std::size_t cols = std::min(n, task.cols - j);
            V tile[n];
            T* to = task.to + j * task.width + t;
            if (cols == n && t + n <= task.count) {
                const T* from = task.from + t * task.stride + j;
                PEFT_UNROLL
                for (std::size_t i = 0; i < n; ++i) tile[i] = V::load(from + i * task.stride);
                transpose_lanes(tile);
                PEFT_UNROLL
                for (std::size_t i = 0; i < n; ++i) tile[i].store(to + i * task.width);
                return;
            }
            const std::size_t rows = t < task.count ? std::min(n, task.count - t) : 0;
            for (std::size_t i = 0; i < n; ++i) {
                if (i >= rows) tile[i] = V::zero();
                else if (cols == n) tile[i] = V::load(task.from + (t + i) * task.stride + j);
                else tile[i] = V::load_first(task.from + (t + i) * task.stride + j, cols);
            }
            transpose_lanes(tile);
            for (std::size_t i = 0; i < cols; ++i) tile[i].store(to + i * task.width);
        });
    }
};

/// to (count x cols, rows `stride` apart) += scale * from (cols x width)^T
template <Scalar T> struct AddTurned {
    template <class L> PEFT_INLINE static void run(const TurnTask<T>& task) noexcept {
        constexpr std::size_t n = L::template lanes<T>;
        using V = Vec<T, n>;
        const V scale = V::splat(task.scale);
        for_tiles<n, T>(task.cols, task.count, [&](std::size_t j, std::size_t t) PEFT_INLINE_LAMBDA {
            const std::size_t cols = std::min(n, task.cols - j);
            V tile[n];
            const T* from = task.from + j * task.width + t;
            T* to = task.to + t * task.stride + j;
            if (cols == n && t + n <= task.count) {
                PEFT_UNROLL
                for (std::size_t i = 0; i < n; ++i) tile[i] = V::load(from + i * task.width);
                transpose_lanes(tile);
                PEFT_UNROLL
                for (std::size_t i = 0; i < n; ++i) {
                    V sum = V::load(to + i * task.stride);
                    sum.add_product(tile[i], scale);
                    sum.store(to + i * task.stride);
                }
                return;
            }
            for (std::size_t i = 0; i < n; ++i) {
                if (i < cols) tile[i] = V::load(from + i * task.width);
                else tile[i] = V::zero();
            }
            transpose_lanes(tile);
            const std::size_t rows = std::min(n, task.count - t);
            for (std::size_t i = 0; i < rows; ++i) {
                V sum = V::load_first(to + i * task.stride, cols);
                sum.add_product(tile[i], scale);
                sum.store_first(to + i * task.stride, cols);
            }
        });
    }
};

/// Rows first .. last of S against a block of `width` batch rows.
template <Scalar T> struct SparseTask {
    SparsePattern s;
    const T* values;      ///< of S; dy^T (out x width) for the gradient of the values
    const T* source;      ///< x^T (in x width); dy^T (out x width) for the gradient of x
    T* result;            ///< y^T (rows x width), dx^T (in x width)
    T* gradient;          ///< of the values
    std::size_t width, first, last;
    T scale;
};

/// The two widths of a block, as constant numbers of vectors: Body<vectors>::run(task).
template <class T, class L, template <std::size_t, std::size_t> class Body> PEFT_INLINE void for_width(const SparseTask<T>& task) noexcept {
    constexpr std::size_t n = L::template lanes<T>;
    constexpr std::size_t half = 64 / L::bytes;
    if (task.width == half * n) Body<n, half>::run(task);
    else Body<n, 2 * half>::run(task);
}

/// y^T(o) = sum_k v_k x^T(column of k)
template <Scalar T> struct SparseForward {
    template <std::size_t n, std::size_t vectors> struct Body {
        using V = Vec<T, n>;
        // numbers of S in flight: a fused multiply-add takes four cycles, and two start in each
        static constexpr std::size_t sets = vectors >= 4 ? 1 : 4 / vectors;

        PEFT_INLINE static void run(const SparseTask<T>& task) noexcept {
            constexpr std::size_t width = n * vectors;
            for (std::size_t row = task.first; row < task.last; ++row) {
                V sum[sets][vectors];
                PEFT_UNROLL
                for (std::size_t set = 0; set < sets; ++set) {
                    PEFT_UNROLL
                    for (std::size_t v = 0; v < vectors; ++v) sum[set][v] = V::zero();
                }
                std::size_t k = task.s.begin(row);
                const std::size_t end = task.s.begin(row + 1);
                for (; k + sets <= end; k += sets) {
                    PEFT_UNROLL
                    for (std::size_t set = 0; set < sets; ++set) {
                        const V value = V::splat(task.values[k + set]);
                        const T* x = task.source + task.s.column(row, k + set) * width;
                        PEFT_UNROLL
                        for (std::size_t v = 0; v < vectors; ++v) sum[set][v].add_product(value, V::load(x + v * n));
                    }
                }
                for (; k < end; ++k) {
                    const V value = V::splat(task.values[k]);
                    const T* x = task.source + task.s.column(row, k) * width;
                    PEFT_UNROLL
                    for (std::size_t v = 0; v < vectors; ++v) sum[0][v].add_product(value, V::load(x + v * n));
                }
                T* y = task.result + (row - task.first) * width;
                PEFT_UNROLL
                for (std::size_t v = 0; v < vectors; ++v) {
                    PEFT_UNROLL
                    for (std::size_t set = 1; set < sets; ++set) sum[0][v] += sum[set][v];
                    sum[0][v].store(y + v * n);
                }
            }
        }
    };
    template <class L> PEFT_INLINE static void run(const SparseTask<T>& task) noexcept { for_width<T, L, Body>(task); }
};

/// Lane k of the result is the sum of the lanes of rows[k]. The tree of the sum is the same for all k.
template <std::size_t H = 1, class T, std::size_t N> PEFT_INLINE Vec<T, N> sum_each(Vec<T, N> (&rows)[N]) noexcept {
    PEFT_UNROLL
    for (std::size_t i = 0; i < N; i += 2 * H) {
        exchange_blocks<H>(rows[i], rows[i + H], std::make_index_sequence<N>{});
        rows[i] += rows[i + H];
    }
    if constexpr (2 * H < N) return sum_each<2 * H>(rows);
    else return rows[0];
}

/// gradient_k += scale * <dy^T(row of k), x^T(column of k)>, as many numbers at a time as a vector has lanes.
template <Scalar T> struct SparseGradient {
    template <std::size_t n, std::size_t vectors> struct Body {
        using V = Vec<T, n>;

        PEFT_INLINE static void run(const SparseTask<T>& task) noexcept {
            constexpr std::size_t width = n * vectors;
            const V scale = V::splat(task.scale);
            for (std::size_t row = task.first; row < task.last; ++row) {
                V dy[vectors];
                PEFT_UNROLL
                for (std::size_t v = 0; v < vectors; ++v) dy[v] = V::load(task.values + row * width + v * n);
                const std::size_t end = task.s.begin(row + 1);
                for (std::size_t k = task.s.begin(row); k < end; k += n) {
                    const std::size_t count = std::min(n, end - k);
                    V product[n];
                    PEFT_UNROLL
                    for (std::size_t i = 0; i < n; ++i) {
                        const T* x = task.source + task.s.column(row, k + (i < count ? i : 0)) * width;   // once more where there is none
                        product[i] = dy[0] * V::load(x);
                        PEFT_UNROLL
                        for (std::size_t v = 1; v < vectors; ++v) product[i].add_product(dy[v], V::load(x + v * n));
                    }
                    const V sum = sum_each(product);
                    T* gradient = task.gradient + k;
                    V old = count == n ? V::load(gradient) : V::load_first(gradient, count);
                    old.add_product(sum, scale);
                    if (count == n) old.store(gradient);
                    else old.store_first(gradient, count);
                }
            }
        }
    };
    template <class L> PEFT_INLINE static void run(const SparseTask<T>& task) noexcept { for_width<T, L, Body>(task); }
};

/// dx^T (in x width) = sum_o sum_k v_k dy^T(o) at the columns of k; what was in it is overwritten.
template <Scalar T> struct SparseInputGradient {
    template <std::size_t n, std::size_t vectors> struct Body {
        using V = Vec<T, n>;

        PEFT_INLINE static void run(const SparseTask<T>& task) noexcept {
            constexpr std::size_t width = n * vectors;
            for (std::size_t i = 0; i < task.s.in * width; i += n) V::zero().store(task.result + i);
            for (std::size_t row = task.first; row < task.last; ++row) {
                V dy[vectors];
                PEFT_UNROLL
                for (std::size_t v = 0; v < vectors; ++v) dy[v] = V::load(task.source + row * width + v * n);
                const std::size_t end = task.s.begin(row + 1);
                for (std::size_t k = task.s.begin(row); k < end; ++k) {
                    const V value = V::splat(task.values[k]);
                    T* dx = task.result + task.s.column(row, k) * width;
                    PEFT_UNROLL
                    for (std::size_t v = 0; v < vectors; ++v) {
                        V sum = V::load(dx + v * n);
                        sum.add_product(value, dy[v]);
                        sum.store(dx + v * n);
                    }
                }
            }
        }
    };
    template <class L> PEFT_INLINE static void run(const SparseTask<T>& task) noexcept { for_width<T, L, Body>(task); }
};

/// Rows first .. last of S against a few batch rows as they lie in memory.
template <Scalar T> struct SparseDirectTask {
    SparsePattern s;
    const T* values;
    T* gradient;
    MatrixView<const T> x, dy;
    MatrixView<T> result;   ///< y, dx
    T scale;
    std::size_t first, last;
};

template <Scalar T> struct SparseForwardDirect {
    template <class L> PEFT_INLINE static void run(const SparseDirectTask<T>& task) noexcept {
        constexpr std::size_t sums = 4;   // chains of additions in flight
        for (std::size_t row = task.first; row < task.last; ++row) {
            const std::size_t begin = task.s.begin(row), end = task.s.begin(row + 1);
            const std::int32_t* index = task.s.indices.data();
            for (std::size_t t = 0; t < task.x.rows(); ++t) {
                const T* x = task.x.row(t);
                const std::size_t offset = row * task.s.in;
                T sum[sums] = {};
                std::size_t k = begin;
                for (; k + sums <= end; k += sums) {
                    PEFT_UNROLL
                    for (std::size_t i = 0; i < sums; ++i) sum[i] += task.values[k + i] * x[static_cast<std::size_t>(index[k + i]) - offset];
                }
                for (; k < end; ++k) sum[0] += task.values[k] * x[static_cast<std::size_t>(index[k]) - offset];
                task.result(t, row) += task.scale * ((sum[0] + sum[2]) + (sum[1] + sum[3]));
            }
        }
    }
};

template <Scalar T> struct SparseGradientDirect {
    template <class L> PEFT_INLINE static void run(const SparseDirectTask<T>& task) noexcept {
        for (std::size_t row = task.first; row < task.last; ++row) {
            for (std::size_t t = 0; t < task.x.rows(); ++t) {
                const T* x = task.x.row(t);
                const T dy = task.scale * task.dy(t, row);
                for (std::size_t k = task.s.begin(row); k < task.s.begin(row + 1); ++k) task.gradient[k] += dy * x[task.s.column(row, k)];
            }
        }
    }
};

template <Scalar T> struct SparseInputGradientDirect {
    template <class L> PEFT_INLINE static void run(const SparseDirectTask<T>& task) noexcept {
        for (std::size_t row = task.first; row < task.last; ++row) {
            for (std::size_t t = 0; t < task.dy.rows(); ++t) {
                T* dx = task.result.row(t);
                const T dy = task.scale * task.dy(t, row);
                for (std::size_t k = task.s.begin(row); k < task.s.begin(row + 1); ++k) dx[task.s.column(row, k)] += dy * task.values[k];
            }
        }
    }
};

PEFT_ISA_DETAIL_END
