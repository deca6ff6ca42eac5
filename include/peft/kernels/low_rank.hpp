#pragma once
#include <peft/core/arena.hpp>
#include <peft/core/random.hpp>
#include <peft/core/threads.hpp>
#include <peft/kernels/matmul.hpp>
#include <peft/simd/loop.hpp>
#include <peft/simd/random.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

PEFT_ISA_BEGIN

/// Inverted dropout mask of the input of an adapter branch, never stored: element (i, j) of a row-major n x in matrix is
/// kept, and scaled by 1 / (1 - p), if CounterRandom(key).bits(i * in + j) >= threshold(); else it is 0, whatever it was.
/// p is rounded to a multiple of 2^-32 and lies in [0, 1).
struct DropoutMask {
    StreamKey key{};
    double probability = 0;

    PEFT_INLINE bool active() const noexcept { return probability > 0; }
    std::uint32_t threshold() const noexcept {
        const double scaled = probability * 0x1p32 + 0.5;
        return scaled >= 0x1p32 ? 0xffffffffu : static_cast<std::uint32_t>(scaled);
    }
    double scale() const noexcept { return 1 / (1 - probability); }
};

PEFT_ISA_END

PEFT_ISA_DETAIL_BEGIN

/// dst_j = (add ? dst_j : 0) + (element j kept ? keep * src_j : 0), for counters that share the upper half.
template <class T, bool add> struct MaskRow {
    struct Task {
        const T* src;
        T* dst;
        std::size_t count;
        std::uint32_t counter, key_low, key_high, threshold;
        T keep;
    };

    template <class L> PEFT_INLINE static void run(const Task& task) noexcept {
        constexpr std::size_t n = L::template lanes<T>;
        using U = Vec<std::uint32_t, n>;
        const U start = counters_from<n>(task.counter);
        const Vec<T, n> keep = Vec<T, n>::splat(task.keep);
        const U threshold = U::splat(task.threshold);
        for_vectors<n>(0, task.count, [&](auto at) PEFT_INLINE_LAMBDA {
            const U bits = hash_counters(U{start.raw + static_cast<std::uint32_t>(at.index)}, task.key_low, task.key_high);
            // signed lanes, so that widening to 64 bits repeats the ones
            const Vec<std::int32_t, n> narrow{reinterpret_cast<typename Vec<std::int32_t, n>::Raw>(bits.raw >= threshold.raw)};
            using Lane = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
            Vec<T, n> value = select(convert<Lane>(narrow), at.load(task.src) * keep, Vec<T, n>::zero());
            if constexpr (add) value += at.load(task.dst);
            at.store(task.dst, value);
        });
    }
};

/// dst (+)= src . mask; src and dst are the block of the n x in matrix that starts at (row, col).
template <class T, bool add>
void apply_mask(const CounterRandom& random, const DropoutMask& mask, std::size_t row, std::size_t col, std::size_t in,
                const MatrixView<const T>& src, const MatrixView<T>& dst) {
    using Task = typename MaskRow<T, add>::Task;
    const std::uint32_t threshold = mask.threshold();
    const auto keep = static_cast<T>(mask.scale());
    for (std::size_t i = 0; i < dst.rows(); ++i) {
        std::uint64_t index = std::uint64_t{row + i} * in + col;
        for (std::size_t j = 0; j < dst.cols();) {
            const std::uint64_t left = (std::uint64_t{1} << 32) - (index & 0xffffffffu);   // in this page of counters
            const std::size_t count = left < dst.cols() - j ? static_cast<std::size_t>(left) : dst.cols() - j;
            const std::uint64_t key = random.page_key(index >> 32);
            const Task task{src.row(i) + j,
                            dst.row(i) + j,
                            count,
                            static_cast<std::uint32_t>(index),
                            static_cast<std::uint32_t>(key),
                            static_cast<std::uint32_t>(key >> 32),
                            threshold,
                            keep};
            run_kernel<MaskRow<T, add>, const Task&>(task);
            j += count;
            index += count;
        }
    }
}

// Masked pieces of x are made in scratch of about this many elements: they stay in L2 until they are used.
inline constexpr std::size_t mask_elements = std::size_t{1} << 16;

PEFT_ISA_DETAIL_END

PEFT_ISA_BEGIN

/// u (n x rank) = (x . mask) * A^T, x (n x in), A (rank x in).
template <Scalar T>
void low_rank_down(std::type_identity_t<MatrixView<const T>> x, const DropoutMask& mask, std::type_identity_t<MatrixView<const T>> a,
                   MatrixView<T> u) {
    if (!mask.active() || x.cols() == 0) return multiply_nt<T, T>(x, a, u);
    PEFT_EXPECTS(x.cols() == a.cols() && u.rows() == x.rows() && u.cols() == a.rows());
    const CounterRandom random(mask.key);
    const std::size_t in = x.cols();
    const bool dots = detail::takes_dots(x.rows(), in, a.rows());
    const std::size_t rows = std::clamp<std::size_t>(detail::mask_elements / in, 8, 64) / 8 * 8;
    parallel_for((x.rows() + rows - 1) / rows, x.size() * a.rows() >= detail::parallel_products, [&](std::size_t part) {
        const std::size_t first = part * rows;
        const std::size_t count = std::min(rows, x.rows() - first);
        ArenaScope scope;
        const MatrixView<T> masked = scope.matrix<T>(count, in);
        detail::apply_mask<T, false>(random, mask, first, 0, in, x.rows(first, count), masked);
        detail::multiply_nt_by<T, T>(dots, masked, a, u.rows(first, count), {T{1}, false, nullptr});
    });
}

/// y += scale * u * B^T, u (n x rank), B (out x rank), y (n x out).
template <Scalar T>
void low_rank_up(std::type_identity_t<MatrixView<const T>> u, std::type_identity_t<MatrixView<const T>> b, std::type_identity_t<T> scale,
                 MatrixView<T> y) {
    multiply_nt<T, T>(u, b, y, {.scale = scale, .accumulate = true});
}

/// da (rank x in) += h^T * (x . mask), h (n x rank), x (n x in).
template <Scalar T>
void low_rank_down_gradient(std::type_identity_t<MatrixView<const T>> h, std::type_identity_t<MatrixView<const T>> x,
                            const DropoutMask& mask, MatrixView<T> da) {
    if (!mask.active()) return multiply_tn<T>(h, x, da, {.accumulate = true});
    PEFT_EXPECTS(h.rows() == x.rows() && da.rows() == h.cols() && da.cols() == x.cols());
    const CounterRandom random(mask.key);
    constexpr std::size_t width = 512;                                    // columns a task; its rows are taken in order
    constexpr std::size_t rows = detail::mask_elements / width;
    parallel_for((x.cols() + width - 1) / width, x.size() * h.cols() >= detail::parallel_products, [&](std::size_t part) {
        const std::size_t col = part * width;
        const std::size_t cols = std::min(width, x.cols() - col);
        for (std::size_t row = 0; row < x.rows(); row += rows) {
            const std::size_t count = std::min(rows, x.rows() - row);
            ArenaScope scope;
            const MatrixView<T> masked = scope.matrix<T>(count, cols);
            detail::apply_mask<T, false>(random, mask, row, col, x.cols(), x.block(row, col, count, cols), masked);
            multiply_tn<T>(h.rows(row, count), masked, da.block(0, col, da.rows(), cols), {.accumulate = true});
        }
    });
}

/// dx (n x in) += (h * A) . mask, h (n x rank), A (rank x in).
template <Scalar T>
void low_rank_down_input_gradient(std::type_identity_t<MatrixView<const T>> h, std::type_identity_t<MatrixView<const T>> a,
                                  const DropoutMask& mask, MatrixView<T> dx) {
    if (!mask.active()) return multiply_nn<T, T>(h, a, dx, {.accumulate = true});
    PEFT_EXPECTS(h.cols() == a.rows() && dx.rows() == h.rows() && dx.cols() == a.cols());
    const CounterRandom random(mask.key);
    constexpr std::size_t width = 1024;
    constexpr std::size_t rows = detail::mask_elements / width;
    const std::size_t across = (dx.cols() + width - 1) / width;
    parallel_for((dx.rows() + rows - 1) / rows * across, dx.size() * h.cols() >= detail::parallel_products, [&](std::size_t part) {
        const std::size_t row = part / across * rows, col = part % across * width;
        const std::size_t count = std::min(rows, dx.rows() - row), cols = std::min(width, dx.cols() - col);
        ArenaScope scope;
        const MatrixView<T> change = scope.matrix<T>(count, cols);
        multiply_nn<T, T>(h.rows(row, count), a.block(0, col, a.rows(), cols), change);
        detail::apply_mask<T, true>(random, mask, row, col, dx.cols(), change, dx.block(row, col, count, cols));
    });
}

PEFT_ISA_END
