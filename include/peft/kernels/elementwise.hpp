#pragma once
#include <peft/core/matrix_view.hpp>
#include <peft/core/random.hpp>
#include <peft/core/scalar.hpp>
#include <peft/core/strided_view.hpp>
#include <peft/simd/dispatch.hpp>
#include <peft/simd/loop.hpp>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>

PEFT_ISA_DETAIL_BEGIN

/// The matrix as one long row where it is dense, so that thin matrices run in full vectors too.
template <class T> PEFT_INLINE MatrixView<T> as_row(const MatrixView<T>& m, bool dense) noexcept {
    return dense ? MatrixView<T>{m.data(), 1, m.size()} : m;
}

template <class T> struct AddScaled {   // dst += scale * src
    using Number = T;
    T scale;
    MatrixView<const T> src;
    MatrixView<T> dst;
    template <class At> PEFT_INLINE void operator()(const At& at, std::size_t i) const noexcept {
        auto v = at.load(dst.row(i));
        v.add_product(at.splat(scale), at.load(src.row(i)));
        at.store(dst.row(i), v);
    }
};
template <class T> struct Add {         // dst += src
    using Number = T;
    MatrixView<const T> src;
    MatrixView<T> dst;
    template <class At> PEFT_INLINE void operator()(const At& at, std::size_t i) const noexcept {
        at.store(dst.row(i), at.load(dst.row(i)) + at.load(src.row(i)));
    }
};
template <class T> struct MultiplyBy {  // y *= s
    using Number = T;
    T factor;
    MatrixView<T> y;
    template <class At> PEFT_INLINE void operator()(const At& at, std::size_t i) const noexcept {
        at.store(y.row(i), at.load(y.row(i)) * at.splat(factor));
    }
};
template <class T> struct ScaleColumns {
    using Number = T;
    const T* g;
    MatrixView<T> y;
    template <class At> PEFT_INLINE void operator()(const At& at, std::size_t i) const noexcept {
        at.store(y.row(i), at.load(y.row(i)) * at.load(g));
    }
};
template <class T> struct ScaleShiftColumns {
    using Number = T;
    const T* g;
    const T* b;
    MatrixView<T> y;
    template <class At> PEFT_INLINE void operator()(const At& at, std::size_t i) const noexcept {
        auto v = at.load(b);
        v.add_product(at.load(y.row(i)), at.load(g));
        at.store(y.row(i), v);
    }
};
template <class T> struct AddRow {
    using Number = T;
    const T* b;
    MatrixView<T> y;
    template <class At> PEFT_INLINE void operator()(const At& at, std::size_t i) const noexcept {
        at.store(y.row(i), at.load(y.row(i)) + at.load(b));
    }
};
template <class T> struct MultiplyInto {
    using Number = T;
    MatrixView<const T> a, b;
    MatrixView<T> dst;
    template <class At> PEFT_INLINE void operator()(const At& at, std::size_t i) const noexcept {
        at.store(dst.row(i), at.load(a.row(i)) * at.load(b.row(i)));
    }
};
template <class T, class S> struct Widen {
    using Number = T;
    const S* src;
    T* dst;
    template <class At> PEFT_INLINE void operator()(const At& at, std::size_t) const noexcept {
        at.store(dst, at.template load_as<T>(src));
    }
};
template <class S> struct RoundToHalf {
    using Number = float;
    const float* src;
    S* dst;
    template <class At> PEFT_INLINE void operator()(const At& at, std::size_t) const noexcept {
        at.store(reinterpret_cast<std::uint16_t*>(dst), round_bits<S>(at.load(src)));   // stored by memcpy or may_alias
    }
};

struct AllFinite {
    template <class L, class S> PEFT_INLINE static bool check(const S* values, std::size_t count) noexcept {
        using U = UintOf<S>;
        constexpr std::size_t n = L::template lanes<U>;
        constexpr U exponent = std::is_same_v<S, float>      ? static_cast<U>(0x7f800000u)
                               : std::is_same_v<S, double>   ? static_cast<U>(0x7ff0000000000000ull)
                               : std::is_same_v<S, bfloat16> ? static_cast<U>(0x7f80u)
                                                             : static_cast<U>(0x7c00u);
        Vec<U, n> found = Vec<U, n>::zero();
        const Vec<U, n> mask = Vec<U, n>::splat(exponent);
        for_vectors<n>(0, count, [&](auto at) PEFT_INLINE_LAMBDA {
            const Vec<U, n> bits = at.load(reinterpret_cast<const U*>(values));
            found.raw |= PEFT_MASK(U, n, (bits.raw & mask.raw) == mask.raw).raw;
        });
        U lane[n];
        found.store(lane);
        U any = 0;
        for (const U bits : lane) any = static_cast<U>(any | bits);
        return any == 0;
    }
    template <class L, class S> PEFT_INLINE static bool run(const S* values, std::size_t count) noexcept {
        // in pieces, so that a fault near the start is found without reading the rest
        for (std::size_t first = 0; first < count; first += piece_elements) {
            if (!check<L>(values + first, std::min(piece_elements, count - first))) return false;
        }
        return true;
    }
};

/// dst_ij = src_ij for any strides on both sides, in square blocks that stay in L1.
template <class T> void copy_strided(const StridedView<const T>& src, const StridedView<T>& dst) {
    constexpr std::size_t block = 16;   // 16 rows of a cache line each
    const std::size_t rows = dst.rows(), cols = dst.cols();
    const std::size_t down = (rows + block - 1) / block;
    parallel_for(down, rows * cols >= parallel_elements, [&](std::size_t index) {
        const std::size_t i0 = index * block, i1 = std::min(i0 + block, rows);
        for (std::size_t j0 = 0; j0 < cols; j0 += block) {
            const std::size_t j1 = std::min(j0 + block, cols);
            for (std::size_t i = i0; i < i1; ++i) {
                for (std::size_t j = j0; j < j1; ++j) dst(i, j) = src(i, j);
            }
        }
    });
}

PEFT_ISA_DETAIL_END

PEFT_ISA_BEGIN

// T is deduced from the result (the last or only mutable argument).

/// dst = src
template <class T> void copy(std::type_identity_t<MatrixView<const T>> src, MatrixView<T> dst) {
    PEFT_EXPECTS(src.rows() == dst.rows() && src.cols() == dst.cols());
    const bool dense = src.contiguous() && dst.contiguous();
    const auto from = detail::as_row(src, dense);
    const auto to = detail::as_row(dst, dense);
    detail::for_pieces(to.rows(), to.cols(), [&](const detail::Piece& piece) {
        for (std::size_t i = piece.first_row; i < piece.last_row; ++i) {
            std::memcpy(static_cast<void*>(to.row(i) + piece.first_col), from.row(i) + piece.first_col,
                        (piece.last_col - piece.first_col) * sizeof(T));
        }
    });
}
template <class T> void copy(std::type_identity_t<std::span<const T>> src, std::span<T> dst) {
    PEFT_EXPECTS(src.size() == dst.size());
    copy<T>(MatrixView<const T>(src.data(), 1, src.size()), MatrixView<T>(dst.data(), 1, dst.size()));
}
/// dst += src
template <Scalar T> void add(std::type_identity_t<MatrixView<const T>> src, MatrixView<T> dst) {
    PEFT_EXPECTS(src.rows() == dst.rows() && src.cols() == dst.cols());
    const bool dense = src.contiguous() && dst.contiguous();
    const auto to = detail::as_row(dst, dense);
    detail::map_elements(to.rows(), to.cols(), detail::Add<T>{detail::as_row(src, dense), to});
}
template <Scalar T> void add(std::type_identity_t<std::span<const T>> src, std::span<T> dst) {
    add<T>(MatrixView<const T>(src.data(), 1, src.size()), MatrixView<T>(dst.data(), 1, dst.size()));
}
/// dst += scale * src
template <Scalar T> void axpy(std::type_identity_t<T> scale, std::type_identity_t<MatrixView<const T>> src, MatrixView<T> dst) {
    PEFT_EXPECTS(src.rows() == dst.rows() && src.cols() == dst.cols());
    const bool dense = src.contiguous() && dst.contiguous();
    const auto to = detail::as_row(dst, dense);
    detail::map_elements(to.rows(), to.cols(), detail::AddScaled<T>{scale, detail::as_row(src, dense), to});
}
template <Scalar T> void axpy(std::type_identity_t<T> scale, std::type_identity_t<std::span<const T>> src, std::span<T> dst) {
    axpy<T>(scale, MatrixView<const T>(src.data(), 1, src.size()), MatrixView<T>(dst.data(), 1, dst.size()));
}
/// y *= s
template <Scalar T> void scale(std::type_identity_t<T> s, MatrixView<T> y) {
    const auto to = detail::as_row(y, y.contiguous());
    detail::map_elements(to.rows(), to.cols(), detail::MultiplyBy<T>{s, to});
}
template <Scalar T> void scale(std::type_identity_t<T> s, std::span<T> y) {
    scale<T>(s, MatrixView<T>(y.data(), 1, y.size()));
}
/// y_ij *= g_j
template <Scalar T> void scale_columns(std::type_identity_t<std::span<const T>> g, MatrixView<T> y) {
    PEFT_EXPECTS(g.size() == y.cols());
    detail::map_elements(y.rows(), y.cols(), detail::ScaleColumns<T>{g.data(), y});
}
/// y_ij = y_ij * g_j + b_j
template <Scalar T>
void scale_shift_columns(std::type_identity_t<std::span<const T>> g, std::type_identity_t<std::span<const T>> b, MatrixView<T> y) {
    PEFT_EXPECTS(g.size() == y.cols() && b.size() == y.cols());
    detail::map_elements(y.rows(), y.cols(), detail::ScaleShiftColumns<T>{g.data(), b.data(), y});
}
/// y_ij += b_j
template <Scalar T> void add_rows(std::type_identity_t<std::span<const T>> b, MatrixView<T> y) {
    PEFT_EXPECTS(b.size() == y.cols());
    detail::map_elements(y.rows(), y.cols(), detail::AddRow<T>{b.data(), y});
}
/// dst_ij = a_ij * b_ij
template <Scalar T>
void multiply_into(std::type_identity_t<MatrixView<const T>> a, std::type_identity_t<MatrixView<const T>> b, MatrixView<T> dst) {
    PEFT_EXPECTS(a.rows() == dst.rows() && a.cols() == dst.cols() && b.rows() == dst.rows() && b.cols() == dst.cols());
    const bool dense = a.contiguous() && b.contiguous() && dst.contiguous();
    const auto to = detail::as_row(dst, dense);
    detail::map_elements(to.rows(), to.cols(), detail::MultiplyInto<T>{detail::as_row(a, dense), detail::as_row(b, dense), to});
}
template <Scalar T>
void multiply_into(std::type_identity_t<std::span<const T>> a, std::type_identity_t<std::span<const T>> b, std::span<T> dst) {
    multiply_into<T>(MatrixView<const T>(a.data(), 1, a.size()), MatrixView<const T>(b.data(), 1, b.size()),
                     MatrixView<T>(dst.data(), 1, dst.size()));
}
/// Element i = bound * (2 u_i - 1), u_i = CounterRandom(key).uniform(i): uniform in [-bound, bound).
template <Scalar T> void fill_uniform(const StreamKey& key, double bound, std::span<T> dst) {
    const CounterRandom random(key);
    for (std::size_t i = 0; i < dst.size(); ++i) dst[i] = static_cast<T>(bound * (2 * random.uniform(i) - 1));
}
/// Element i = mean + stddev * CounterRandom(key).normal(i).
template <Scalar T> void fill_normal(const StreamKey& key, double mean, double stddev, std::span<T> dst) {
    const CounterRandom random(key);
    for (std::size_t i = 0; i < dst.size(); ++i) {
        double deviation = stddev * random.normal(i);
#if defined(__GNUC__)
        asm("" : "+m"(deviation));   // no FMA: the bits must not depend on the instruction set
#endif
        dst[i] = static_cast<T>(mean + deviation);
    }
}
/// dst = widen(src), exactly.
template <Scalar T, StorageScalar S> void widen(std::span<const S> src, std::span<T> dst) {
    PEFT_EXPECTS(src.size() == dst.size());
    detail::map_elements(1, dst.size(), detail::Widen<T, S>{src.data(), dst.data()});
}
/// dst = round_to<S>(src), to nearest, ties to even.
template <Scalar T, StorageScalar S> void round_to_storage(std::span<const T> src, std::span<S> dst) {
    PEFT_EXPECTS(src.size() == dst.size());
    if constexpr (std::is_same_v<T, S>) {
        copy<T>(src, dst);
    } else if constexpr (std::is_same_v<T, float> && sizeof(S) == 2) {
        detail::map_elements(1, dst.size(), detail::RoundToHalf<S>{src.data(), dst.data()});
    } else {
        for (std::size_t i = 0; i < dst.size(); ++i) dst[i] = round_to<S>(src[i]);
    }
}
/// dst_ij = src_ij from any strides: a gather, made in blocks.
template <class T> void transpose(std::type_identity_t<StridedView<const T>> src, MatrixView<T> dst) {
    PEFT_EXPECTS(src.rows() == dst.rows() && src.cols() == dst.cols());
    if (src.is_row_major()) return copy<T>(src.row_major(), dst);
    detail::copy_strided<T>(src, StridedView<T>(dst));
}
/// dst_ij = src_ij into any strides: the inverse scatter.
template <class T> void transpose(std::type_identity_t<MatrixView<const T>> src, StridedView<T> dst) {
    PEFT_EXPECTS(src.rows() == dst.rows() && src.cols() == dst.cols());
    if (dst.is_row_major()) return copy<T>(src, dst.row_major());
    detail::copy_strided<T>(StridedView<const T>(src), dst);
}
/// True if no element is infinite or NaN, by the exponent bits.
template <StorageScalar S> bool all_finite(std::span<const S> values) {
    return detail::run_kernel<detail::AllFinite, const S*, std::size_t>(values.data(), values.size());
}

PEFT_ISA_END
