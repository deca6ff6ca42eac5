#pragma once
#include <peft/simd/vector.hpp>

PEFT_ISA_DETAIL_BEGIN

/// Where a loop over a row stands: a full vector.
template <std::size_t N> struct Full {
    std::size_t index;
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
    template <class T> PEFT_INLINE Vec<T, N> load(const T* row) const noexcept { return Vec<T, N>::load_first(row + index, count); }
    template <Scalar T, StorageScalar S> PEFT_INLINE Vec<T, N> load_as(const S* row) const noexcept {
        return load_as_first<T, N>(row + index, count);
    }
    template <class T> PEFT_INLINE void store(T* row, const Vec<T, N>& v) const noexcept { v.store_first(row + index, count); }
};

/// f(at) for the elements [0, count) in vectors of N. f is [&](auto at) PEFT_INLINE_LAMBDA { at.load(p) ... at.store(p, v) }.
template <std::size_t N, class F> PEFT_INLINE void for_vectors(std::size_t count, const F& f) {
    std::size_t i = 0;
    for (; i + 4 * N <= count; i += 4 * N) {
        PEFT_UNROLL
        for (std::size_t u = 0; u < 4; ++u) f(Full<N>{i + u * N});
    }
    for (; i + N <= count; i += N) f(Full<N>{i});
    if (i < count) f(Rest<N>{i, count - i});
}

PEFT_ISA_DETAIL_END
