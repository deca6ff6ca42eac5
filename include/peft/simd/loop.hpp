#pragma once
#include <peft/core/threads.hpp>
#include <peft/simd/dispatch.hpp>
#include <peft/simd/vector.hpp>

#include <cstddef>

PEFT_ISA_DETAIL_BEGIN

/// Where a loop over a row stands: a full vector.
template <std::size_t N> struct Full {
    std::size_t index;
    template <class T> PEFT_INLINE static Vec<T, N> splat(T value) noexcept { return Vec<T, N>::splat(value); }
    template <class T> PEFT_INLINE Vec<T, N> load(const T* row) const noexcept { return Vec<T, N>::load(row + index); }
    template <Scalar T, StorageScalar S> PEFT_INLINE Vec<T, N> load_as(const S* row) const noexcept {
        return detail::load_as<T, N>(row + index);
    }
    template <class T> PEFT_INLINE void store(T* row, const Vec<T, N>& v) const noexcept { v.store(row + index); }
};

/// The last elements, fewer than a vector: loads give zeros behind them, stores touch nothing behind them. They go
/// through the same vector arithmetic, so an element has the same bits wherever in a row it stands.
template <std::size_t N> struct Rest {
    std::size_t index;
    std::size_t count;
    template <class T> PEFT_INLINE static Vec<T, N> splat(T value) noexcept { return Vec<T, N>::splat(value); }
    template <class T> PEFT_INLINE Vec<T, N> load(const T* row) const noexcept { return Vec<T, N>::load_first(row + index, count); }
    template <Scalar T, StorageScalar S> PEFT_INLINE Vec<T, N> load_as(const S* row) const noexcept {
        return load_as_first<T, N>(row + index, count);
    }
    template <class T> PEFT_INLINE void store(T* row, const Vec<T, N>& v) const noexcept { v.store_first(row + index, count); }
};

/// f(at) for the elements [first, last) in vectors of N. f is [&](auto at) PEFT_INLINE_LAMBDA { at.load(p) ... at.store(p, v) }.
template <std::size_t N, class F> PEFT_INLINE void for_vectors(std::size_t first, std::size_t last, const F& f) {
    std::size_t i = first;
    for (; i + 4 * N <= last; i += 4 * N) {
        PEFT_UNROLL
        for (std::size_t u = 0; u < 4; ++u) f(Full<N>{i + u * N});
    }
    for (; i + N <= last; i += N) f(Full<N>{i});
    if (i < last) f(Rest<N>{i, last - i});
}

/// A piece of a matrix: what one call of a leaf entry works on.
struct Piece {
    std::size_t first_row, last_row, first_col, last_col;
};

/// op(at, row) for every vector of a piece. Op names the type of its numbers, Op::Number.
template <class Op> struct MapPiece {
    template <class L> PEFT_INLINE static void run(const Op& op, const Piece& piece) noexcept {
        for (std::size_t i = piece.first_row; i < piece.last_row; ++i) {
            for_vectors<L::template lanes<typename Op::Number>>(piece.first_col, piece.last_col,
                                                                [&](auto at) PEFT_INLINE_LAMBDA { op(at, i); });
        }
    }
};

// Work is shared out in pieces of this many elements: large against the cost of taking one, small against L2.
inline constexpr std::size_t piece_elements = std::size_t{1} << 14;
// Memory-bound work starts to gain from a second thread where it takes longer than starting it, about 5 us.
inline constexpr std::size_t parallel_elements = std::size_t{1} << 17;

/// f(piece) over a rows x cols matrix, cut in a way that depends on the shape only.
template <class F> void for_pieces(std::size_t rows, std::size_t cols, const F& f) {
    if (rows == 0 || cols == 0) return;
    const bool parallel = rows * cols >= parallel_elements;
    if (!parallel) return f(Piece{0, rows, 0, cols});
    const std::size_t width = cols < piece_elements ? cols : piece_elements;
    const std::size_t height = piece_elements / width;
    const std::size_t across = (cols + width - 1) / width;
    parallel_for((rows + height - 1) / height * across, true, [&](std::size_t index) {
        const std::size_t row = index / across * height, col = index % across * width;
        f(Piece{row, row + height < rows ? row + height : rows, col, col + width < cols ? col + width : cols});
    });
}
template <class Op> void map_elements(std::size_t rows, std::size_t cols, const Op& op) {
    for_pieces(rows, cols, [&](const Piece& piece) { run_kernel<MapPiece<Op>, const Op&, const Piece&>(op, piece); });
}

PEFT_ISA_DETAIL_END
