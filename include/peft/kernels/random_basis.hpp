#pragma once
#include <peft/core/random.hpp>
#include <peft/core/threads.hpp>
#include <peft/simd/loop.hpp>
#include <peft/simd/random.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

PEFT_ISA_BEGIN

/// Random tensors G_0, G_1, ... of `size` numbers each, made wherever they are needed and never stored: number j of G_i is
/// scale * (2 u - 1) with u = CounterRandom(key).uniform(i * size + j), i.e. uniform in [-scale, scale). 2 u - 1 has 24
/// bits: it is the same number in float and double, on every platform and at every vector width.
struct RandomBasis {
    StreamKey key{};
    std::size_t size = 0;
    double scale = 1;
};

PEFT_ISA_END

PEFT_ISA_DETAIL_BEGIN

/// f(first, count, counter, key) for the stretches of the numbers [index, index + count) of a stream whose counters share
/// the upper half.
template <class F> PEFT_INLINE void for_pages(const CounterRandom& random, std::uint64_t index, std::size_t count, const F& f) noexcept {
    for (std::size_t done = 0; done < count;) {
        const std::uint64_t left = (std::uint64_t{1} << 32) - (index & 0xffffffffu);
        const std::size_t part = left < count - done ? static_cast<std::size_t>(left) : count - done;
        f(done, part, static_cast<std::uint32_t>(index), random.page_key(index >> 32));
        done += part;
        index += part;
    }
}

/// Columns [first, first + count) of the rows [first_row, last_row) of the basis as a matrix with one tensor a row.
struct BasisTile {
    CounterRandom random;
    std::uint64_t size;
    std::size_t first_row, last_row, first, count;
};

// Vectors below have as many lanes as a register has counters, for double too: making the counters is what costs.

/// m_j += sum_i c_i G_ij for the columns of the tile, i rising. unit * whole number = G_ij.
template <class T> struct CombineBasis {
    template <class L> PEFT_INLINE static void run(const BasisTile& tile, T unit, const T* c, T* m) noexcept {
        constexpr std::size_t n = L::template lanes<std::uint32_t>;
        const auto ramp = counters_from<n>(0);
        for (std::size_t i = tile.first_row; i < tile.last_row; ++i) {
            const Vec<T, n> weight = Vec<T, n>::splat(unit * c[i]);
            for_pages(tile.random, tile.size * i + tile.first, tile.count,
                      [&](std::size_t first, std::size_t count, std::uint32_t counter, std::uint64_t key) PEFT_INLINE_LAMBDA {
                          T* to = m + tile.first + first;
                          for_vectors<n>(0, count, [&](auto at) PEFT_INLINE_LAMBDA {
                              const Vec<std::uint32_t, n> counters{ramp.raw + (counter + static_cast<std::uint32_t>(at.index))};
                              auto sum = at.load(to);
                              sum.add_product(weight, whole_numbers<T>(hash_counters(counters, static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32))));
                              at.store(to, sum);
                          });
                      });
        }
    }
};

/// sums_i += <d, G_i> for the rows of the tile, which has all columns. They are taken in blocks that stay in L1 while the
/// rows go over them; one chain of vectors a block is enough, since its additions wait for the hashes.
template <class T> struct ProjectOnBasis {
    static constexpr std::size_t rows = 8;
    static constexpr std::size_t block = 1024;
    template <class L> PEFT_INLINE static void run(const BasisTile& tile, T unit, const T* d, T* sums) noexcept {
        constexpr std::size_t n = L::template lanes<std::uint32_t>;
        const auto ramp = counters_from<n>(0);
        T totals[rows] = {};
        for (std::size_t at_block = 0; at_block < tile.count; at_block += block) {
            const std::size_t wide = std::min(block, tile.count - at_block);
            for (std::size_t i = tile.first_row; i < tile.last_row; ++i) {
                auto chain = Vec<T, n>::zero();
                for_pages(tile.random, tile.size * i + at_block, wide,
                          [&](std::size_t first, std::size_t count, std::uint32_t counter, std::uint64_t key) PEFT_INLINE_LAMBDA {
                              const T* from = d + at_block + first;
                              for_vectors<n>(0, count, [&](auto at) PEFT_INLINE_LAMBDA {
                                  const Vec<std::uint32_t, n> counters{ramp.raw + (counter + static_cast<std::uint32_t>(at.index))};
                                  chain.add_product(at.load(from), whole_numbers<T>(hash_counters(counters, static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32))));
                              });
                          });
                totals[i - tile.first_row] += sum_lanes(chain);
            }
        }
        for (std::size_t i = tile.first_row; i < tile.last_row; ++i) sums[i] += unit * totals[i - tile.first_row];
    }
};

// So many numbers take about 10 us to make: less is not worth a second thread.
inline constexpr std::size_t parallel_numbers = std::size_t{1} << 15;

PEFT_ISA_DETAIL_END

PEFT_ISA_BEGIN

/// m += sum_i c_i G_i, c (k), m (basis.size). Each element adds its terms with i rising, whatever the number of threads.
/// The numbers of the basis have the same bits at every SIMD level; the sums differ by their rounding.
template <Scalar T> void add_combination(const RandomBasis& basis, std::type_identity_t<std::span<const T>> c, std::span<T> m) {
    PEFT_EXPECTS(m.size() == basis.size);
    const CounterRandom random(basis.key);
    const auto unit = static_cast<T>(basis.scale * 0x1p-23);
    constexpr std::size_t width = 512;   // of a task: 2 or 4 KiB of m in L1 for all k tensors
    parallel_for((m.size() + width - 1) / width, m.size() * c.size() >= detail::parallel_numbers, [&](std::size_t part) {
        const detail::BasisTile tile{random, basis.size, 0, c.size(), part * width, std::min(width, m.size() - part * width)};
        detail::run_kernel<detail::CombineBasis<T>, const detail::BasisTile&, T, const T*, T*>(tile, unit, c.data(), m.data());
    });
}

/// sums_i += <d, G_i>, d (basis.size), sums (k): the gradient of c when d is that of m. The order of the additions depends
/// on the size and the SIMD level alone.
template <Scalar T> void add_projections(const RandomBasis& basis, std::type_identity_t<std::span<const T>> d, std::span<T> sums) {
    PEFT_EXPECTS(d.size() == basis.size);
    const CounterRandom random(basis.key);
    const auto unit = static_cast<T>(basis.scale * 0x1p-23);
    constexpr std::size_t rows = detail::ProjectOnBasis<T>::rows;
    parallel_for((sums.size() + rows - 1) / rows, d.size() * sums.size() >= detail::parallel_numbers, [&](std::size_t part) {
        const detail::BasisTile tile{random, basis.size, part * rows, std::min(part * rows + rows, sums.size()), 0, d.size()};
        detail::run_kernel<detail::ProjectOnBasis<T>, const detail::BasisTile&, T, const T*, T*>(tile, unit, d.data(), sums.data());
    });
}

PEFT_ISA_END
