#pragma once
#include <peft/core/matrix_view.hpp>
#include <peft/simd/dispatch.hpp>
#include <peft/simd/loop.hpp>

#include <algorithm>
#include <cstddef>
#include <cstring>

// The leaf kernels of the matrix products; matmul.hpp has the loops around them.

PEFT_ISA_DETAIL_BEGIN

/// Register tile of a level: `rows` broadcast values times `vectors` vectors. 8x3 fills 24 of 32 registers with sums and
/// needs 11 loads for 24 FMAs; 6x2 and 3x3 are what 16 registers hold.
struct TileShape {
    std::size_t rows;
    std::size_t vectors;
};
constexpr TileShape tile_shape(SimdLevel level) noexcept {
    return level == SimdLevel::avx512 ? TileShape{8, 3} : level == SimdLevel::avx2 ? TileShape{6, 2} : TileShape{3, 3};
}
template <class T> constexpr std::size_t tile_columns(SimdLevel level) noexcept {
    const std::size_t bytes = level == SimdLevel::avx512 ? 64 : level == SimdLevel::avx2 ? 32 : 16;
    return tile_shape(level).vectors * bytes / sizeof(T);
}

/// An operand as it lies in memory: element (lane, k), lane along the panel, k along the sum.
template <class S> struct Operand {
    const S* data;
    std::size_t stride;
    bool lanes_contiguous;   ///< (lane, k) at k * stride + lane, else at lane * stride + k
    PEFT_INLINE const S* at(std::size_t lane, std::size_t k) const noexcept {
        if (data == nullptr) return nullptr;   // an operand without elements: a sum of no terms
        return lanes_contiguous ? data + k * stride + lane : data + lane * stride + k;
    }
};

/// What is done with a sum: c = ((accumulate ? c : 0) + bias) + scale * sum. The kernels compute it without a branch,
/// reading zeros where there is nothing to add: with branches a compiler makes an FMA of it on some paths only, and the
/// bits of an element would depend on where it stands.
template <class T> struct Finish {
    T scale;
    bool accumulate;
    const T* bias;   ///< one number a column, or null
};

/// Packs lanes [0, count) of an operand from (lane, k) on into panel[k * width + lane], zeros behind `count`.
template <class T, class S> struct PackPanel {
    /// The panel is as wide as a tile (columns = true: its columns, else its rows).
    template <class L, bool columns>
    PEFT_INLINE static void pack(const Operand<S>& source, std::size_t count, std::size_t depth, T* panel) noexcept {
        constexpr std::size_t n = L::template lanes<T>;
        constexpr std::size_t width = columns ? tile_columns<T>(L::id) : tile_shape(L::id).rows;
        const S* from = source.data;
        const std::size_t stride = source.stride;
        if (source.lanes_contiguous) {
            for (std::size_t k = 0; k < depth; ++k) {
                const S* row = from + k * stride;
                T* to = panel + k * width;
                if (columns && count == width) {
                    PEFT_UNROLL
                    for (std::size_t v = 0; v < width / n; ++v) load_as<T, n>(row + v * n).store(to + v * n);
                } else {
                    for (std::size_t i = 0; i < width; ++i) to[i] = i < count ? static_cast<T>(widen(row[i])) : T{0};
                }
            }
            return;
        }
        for (std::size_t first = 0; first < width; first += n) {
            std::size_t k = 0;
            if (first + n <= width) {
                for (; k + n <= depth && first < count; k += n) {
                    Vec<T, n> block[n];
                    PEFT_UNROLL
                    for (std::size_t i = 0; i < n; ++i) {
                        // beyond the last lane: any row that exists; its sums are never stored
                        block[i] = load_as<T, n>(from + std::min(first + i, count - 1) * stride + k);
                    }
                    transpose_lanes(block);
                    PEFT_UNROLL
                    for (std::size_t i = 0; i < n; ++i) block[i].store(panel + (k + i) * width + first);
                }
            }
            const std::size_t last = std::min(first + n, width);
            for (; k < depth; ++k) {
                for (std::size_t lane = first; lane < last; ++lane) {
                    panel[k * width + lane] = lane < count ? static_cast<T>(widen(from[lane * stride + k])) : T{0};
                }
            }
        }
    }
};

template <class T, class S> struct PackColumns {
    template <class L> PEFT_INLINE static void run(const Operand<S>& source, std::size_t count, std::size_t depth, T* panel) noexcept {
        PackPanel<T, S>::template pack<L, true>(source, count, depth, panel);
    }
};
/// All panels of rows [0, count), one after the other.
template <class T> struct PackRows {
    template <class L> PEFT_INLINE static void run(const Operand<T>& source, std::size_t count, std::size_t depth, T* panels) noexcept {
        constexpr std::size_t width = tile_shape(L::id).rows;
        for (std::size_t first = 0; first < count; first += width) {
            const Operand<T> part{source.at(first, 0), source.stride, source.lanes_contiguous};
            PackPanel<T, T>::template pack<L, false>(part, std::min(width, count - first), depth, panels + first * depth);
        }
    }
};

/// c (rows x columns) (+)= the product of packed rows and one panel of columns.
template <class T> struct MultiplyPanel {
    struct Task {
        const T* a;             ///< packed rows
        const T* b;             ///< (k, lane) at k * b_stride + lane, a whole tile wide
        std::size_t b_stride;
        std::size_t depth;
        T* c;
        std::size_t c_stride;
        std::size_t rows, columns;
        Finish<T> finish;
    };
    struct Addend {
        const T* prior;
        std::size_t prior_stride;
        const T* bias;
    };

    template <std::size_t n, std::size_t a_width, std::size_t rows, std::size_t vectors>
    PEFT_INLINE static void tile(const Task& task, const T* a, T* c, std::size_t c_stride, const Addend& add) noexcept {
        using V = Vec<T, n>;
        V sum[rows][vectors];
        PEFT_UNROLL
        for (std::size_t i = 0; i < rows; ++i) {
            PEFT_UNROLL
            for (std::size_t j = 0; j < vectors; ++j) sum[i][j] = V::zero();
        }
        const T* b = task.b;
        const std::size_t b_stride = task.b_stride;
        for (std::size_t k = task.depth; k > 0; --k, a += a_width, b += b_stride) {
            V row[vectors];
            PEFT_UNROLL
            for (std::size_t j = 0; j < vectors; ++j) row[j] = V::load(b + j * n);
            PEFT_UNROLL
            for (std::size_t i = 0; i < rows; ++i) {
                const V value = V::splat(a[i]);
                PEFT_UNROLL
                for (std::size_t j = 0; j < vectors; ++j) sum[i][j].add_product(value, row[j]);
            }
        }
        const V scale = V::splat(task.finish.scale);
        PEFT_UNROLL
        for (std::size_t i = 0; i < rows; ++i) {
            PEFT_UNROLL
            for (std::size_t j = 0; j < vectors; ++j) {
                V value = V::load(add.prior + i * add.prior_stride + j * n) + V::load(add.bias + j * n);
                value.add_product(scale, sum[i][j]);
                value.store(c + i * c_stride + j * n);
            }
        }
    }

    template <std::size_t n, std::size_t a_width, std::size_t vectors> PEFT_INLINE static void columns(const Task& task) noexcept {
        constexpr std::size_t width = vectors * n;
        constexpr std::size_t half = (a_width + 1) / 2;
        alignas(64) T buffer[a_width * width];
        alignas(64) T zeros[width] = {};
        alignas(64) T bias[width] = {};
        if (task.finish.bias != nullptr) std::memcpy(bias, task.finish.bias, task.columns * sizeof(T));
        for (std::size_t i = 0; i < task.rows; i += a_width) {
            const std::size_t count = std::min(a_width, task.rows - i);
            // A tile that c does not hold completely goes through a buffer and the same arithmetic.
            const bool border = count < a_width || task.columns < width;
            T* const c = task.c + i * task.c_stride;
            T* const to = border ? buffer : c;
            const std::size_t stride = border ? width : task.c_stride;
            if (border && task.finish.accumulate) {
                for (std::size_t k = 0; k < a_width * width; ++k) buffer[k] = 0;
                for (std::size_t k = 0; k < count; ++k) std::memcpy(buffer + k * width, c + k * task.c_stride, task.columns * sizeof(T));
            }
            const Addend add = task.finish.accumulate ? Addend{to, stride, bias} : Addend{zeros, 0, bias};
            if (count <= half) tile<n, a_width, half, vectors>(task, task.a + i * task.depth, to, stride, add);
            else tile<n, a_width, a_width, vectors>(task, task.a + i * task.depth, to, stride, add);
            if (border) {
                for (std::size_t k = 0; k < count; ++k) std::memcpy(c + k * task.c_stride, buffer + k * width, task.columns * sizeof(T));
            }
        }
    }

    template <class L> PEFT_INLINE static void run(const Task& task) noexcept {
        constexpr std::size_t n = L::template lanes<T>;
        constexpr TileShape shape = tile_shape(L::id);
        if constexpr (shape.vectors > 2) {
            if (task.columns > 2 * n) return columns<n, shape.rows, 3>(task);
        }
        if (task.columns > n) return columns<n, shape.rows, 2>(task);
        columns<n, shape.rows, 1>(task);
    }
};

/// y (+)= scale * x * W^T (+ bias) by dot products, lanes along the sum: nothing is packed, and every element has one
/// chain of vector sums, so its bits do not depend on the tile it falls into.
template <class T, class S> struct DotProducts {
    template <std::size_t n, std::size_t rows, std::size_t cols>
    PEFT_INLINE static void tile(const MatrixView<const T>& x, const MatrixView<const S>& w, const MatrixView<T>& y,
                                 const Finish<T>& finish, std::size_t i0, std::size_t j0) noexcept {
        using V = Vec<T, n>;
        const std::size_t depth = x.cols();
        const T* a[rows];
        const S* b[cols];
        // beyond the last column: the last one again; its sums are never stored
        PEFT_UNROLL
        for (std::size_t i = 0; i < rows; ++i) a[i] = x.row(i0 + i);
        PEFT_UNROLL
        for (std::size_t j = 0; j < cols; ++j) b[j] = w.row(std::min(j0 + j, w.rows() - 1));
        V sum[rows][cols];
        PEFT_UNROLL
        for (std::size_t i = 0; i < rows; ++i) {
            PEFT_UNROLL
            for (std::size_t j = 0; j < cols; ++j) sum[i][j] = V::zero();
        }
        // Two rounds of one loop: the full vectors, then the rest out of buffers that are filled up with zeros.
        alignas(64) T a_rest[rows][n] = {};
        alignas(64) S b_rest[cols][n] = {};
        const std::size_t rest = depth % n;
        std::size_t steps = depth / n;
        for (int round = 0; round < 2; ++round) {
            for (std::size_t k = 0; k < steps * n; k += n) {
                V left[rows];
                PEFT_UNROLL
                for (std::size_t i = 0; i < rows; ++i) left[i] = V::load(a[i] + k);
                PEFT_UNROLL
                for (std::size_t j = 0; j < cols; ++j) {
                    const V right = load_as<T, n>(b[j] + k);
                    PEFT_UNROLL
                    for (std::size_t i = 0; i < rows; ++i) sum[i][j].add_product(left[i], right);
                }
            }
            if (rest == 0 || round == 1) break;
            for (std::size_t i = 0; i < rows; ++i) {
                std::copy_n(a[i] + (depth - rest), rest, a_rest[i]);
                a[i] = a_rest[i];
            }
            for (std::size_t j = 0; j < cols; ++j) {
                std::copy_n(b[j] + (depth - rest), rest, b_rest[j]);
                b[j] = b_rest[j];
            }
            steps = 1;
        }
        alignas(64) T lanes[rows][cols][n];
        PEFT_UNROLL
        for (std::size_t i = 0; i < rows; ++i) {
            PEFT_UNROLL
            for (std::size_t j = 0; j < cols; ++j) sum[i][j].store(lanes[i][j]);
        }
        const T zero = 0;
        const std::size_t count = std::min(cols, w.rows() - j0);
        for (std::size_t i = 0; i < rows; ++i) {
            T* to = y.row(i0 + i) + j0;
            for (std::size_t j = 0; j < count; ++j) {
                const T* prior = finish.accumulate ? to + j : &zero;
                const T* bias = finish.bias != nullptr ? finish.bias + j0 + j : &zero;
                to[j] = (*prior + *bias) + finish.scale * sum_lanes(V::load(lanes[i][j]));
            }
        }
    }

    template <class L>
    PEFT_INLINE static void run(const MatrixView<const T>& x, const MatrixView<const S>& w, const MatrixView<T>& y,
                                const Finish<T>& finish) noexcept {
        constexpr std::size_t n = L::template lanes<T>;
        constexpr std::size_t rows = L::id == SimdLevel::avx512 ? 4 : 2;
        constexpr std::size_t cols = L::id == SimdLevel::avx512 ? 6 : 4;
        if (x.rows() < rows) {
            for (std::size_t i = 0; i < x.rows(); ++i) {
                for (std::size_t j = 0; j < w.rows(); j += 8) tile<n, 1, 8>(x, w, y, finish, i, j);
            }
            return;
        }
        std::size_t i = 0;
        for (; i + rows <= x.rows(); i += rows) {
            for (std::size_t j = 0; j < w.rows(); j += cols) tile<n, rows, cols>(x, w, y, finish, i, j);
        }
        for (; i < x.rows(); ++i) {
            for (std::size_t j = 0; j < w.rows(); j += 8) tile<n, 1, 8>(x, w, y, finish, i, j);
        }
    }
};

PEFT_ISA_DETAIL_END
