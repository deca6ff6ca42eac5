#pragma once
#include <peft/core/arena.hpp>
#include <peft/core/strided_view.hpp>
#include <peft/core/threads.hpp>
#include <peft/simd/dispatch.hpp>
#include <peft/simd/vector.hpp>

#include <algorithm>
#include <cstddef>
#include <span>

// Sweeps of plane rotations of neighbouring rows, recorded by the QR iteration and applied later to a whole matrix in one go.

PEFT_ISA_DETAIL_BEGIN

/// Sweeps that pass over a matrix together: each row is then loaded and stored once for four rotations with each neighbour.
inline constexpr std::size_t fused_sweeps = 4;

/// A matrix cut into panels of 128 bytes of columns, each panel contiguous: one with 1024 rows takes 128 KiB and stays in L2,
/// while rows of a power of two would all fall into the same few sets of the cache.
template <class T> struct Panels {
    static constexpr std::size_t width = 128 / sizeof(T);
    T* data;
    std::size_t rows;
    std::size_t cols;

    static std::size_t size(std::size_t rows, std::size_t cols) { return (cols + width - 1) / width * width * rows; }
    std::size_t count() const noexcept { return (cols + width - 1) / width; }
    T* panel(std::size_t index) const noexcept { return data + index * width * rows; }

    void fill(const MatrixView<const T>& from) const {
        for (std::size_t i = 0; i < rows; ++i) {
            for (std::size_t j = 0; j < count() * width; ++j) panel(j / width)[i * width + j % width] = j < cols ? from(i, j) : T(0);
        }
    }
    /// to(i, j) = sign_i * row order_i of the matrix.
    void copy_to(std::span<const std::size_t> order, std::span<const T> sign, const StridedView<T>& to) const {
        for (std::size_t index = 0; index < count(); ++index) {
            const std::size_t first = index * width, last = std::min(first + width, cols);
            for (std::size_t i = 0; i < rows; ++i) {
                const T* row = panel(index) + order[i] * width;
                for (std::size_t j = first; j < last; ++j) to(i, j) = sign[i] * row[j - first];
            }
        }
    }
};

/// Rows (x, y) -> (c x + s y, c y - s x).
template <class T> struct RowRotation {
    T c = 1;
    T s = 0;
};

/// Up to fused_sweeps sweeps over the rows first .. first + rows - 1. A sweep is a delay line: it holds one row x, meets the
/// next row y, gives c x + s y to the sweep behind it and holds c y - s x; c = 1, s = 0 lets rows pass. At step t sweep q
/// rotates rows first + t - q - 1 and first + t - q by rotations[t fused_sweeps + q].
template <class T> struct RotateRows {
    template <class L, std::size_t V>
    PEFT_INLINE static void step(Vec<T, L::template lanes<T>> (&held)[fused_sweeps][V], Vec<T, L::template lanes<T>> (&row)[V],
                                 const RowRotation<T>* rotations) noexcept {
        using Vector = Vec<T, L::template lanes<T>>;
        PEFT_UNROLL
        for (std::size_t q = 0; q < fused_sweeps; ++q) {
            const Vector c = Vector::splat(rotations[q].c), s = Vector::splat(rotations[q].s);
            PEFT_UNROLL
            for (std::size_t v = 0; v < V; ++v) {
                const Vector out{c.raw * held[q][v].raw + s.raw * row[v].raw};
                held[q][v].raw = c.raw * row[v].raw - s.raw * held[q][v].raw;
                row[v] = out;
            }
        }
    }
    template <class L> PEFT_INLINE static void run(T* panel, std::size_t rows, const RowRotation<T>* rotations) noexcept {
        constexpr std::size_t n = L::template lanes<T>, width = Panels<T>::width;
        constexpr std::size_t V = 2;   // two chains hide the latency, and four sweeps of two fit into 16 registers
        static_assert(width % (V * n) == 0);
        using Vector = Vec<T, n>;
        for (std::size_t strip = 0; strip < width; strip += V * n) {
            Vector held[fused_sweeps][V], row[V];
            PEFT_UNROLL
            for (std::size_t q = 0; q < fused_sweeps * V; ++q) held[q / V][q % V] = Vector::zero();
            for (std::size_t t = 0; t < rows + fused_sweeps; ++t) {
                PEFT_UNROLL
                for (std::size_t v = 0; v < V; ++v) row[v] = t < rows ? Vector::load(panel + t * width + strip + v * n) : Vector::zero();
                step<L, V>(held, row, rotations + t * fused_sweeps);
                if (t < fused_sweeps) continue;
                PEFT_UNROLL
                for (std::size_t v = 0; v < V; ++v) row[v].store(panel + (t - fused_sweeps) * width + strip + v * n);
            }
        }
    }
};

/// Records sweeps of pairs of rotations and applies them to the rows of two matrices of n rows each.
template <class T> class RotationQueue {
public:
    RotationQueue(ArenaScope& scope, Panels<T> left, Panels<T> right)
        : target_{left, right}, capacity_(queued_sweeps * left.rows),
          sweeps_(scope.vector<Sweep>(queued_sweeps * 4)), recorded_(scope.vector<Pair>(capacity_)) {}

    /// A sweep that will rotate the rows (first, first + 1), (first + 1, first + 2), ... in that order, `count` < n pairs.
    void begin(std::size_t first, std::size_t count) {
        if (used_ + count > capacity_ || sweep_count_ == sweeps_.size()) flush();
        sweeps_[sweep_count_++] = {first, count, used_};
    }
    /// The next pair of the sweep.
    PEFT_INLINE void add(double left_c, double left_s, double right_c, double right_s) {
        recorded_[used_++] = {{{static_cast<T>(left_c), static_cast<T>(left_s)}, {static_cast<T>(right_c), static_cast<T>(right_s)}}};
    }
    void flush() {
        ArenaScope scope;
        const auto groups = scope.vector<Group>(sweep_count_);
        std::size_t group_count = 0, work = 0;
        for (std::size_t i = 0; i < sweep_count_;) {
            // Sweeps that share most of their rows go together; what one lacks is filled with rotations by nothing.
            Group group{i, 0, sweeps_[i].first, sweeps_[i].first + sweeps_[i].count, {}};
            std::size_t longest = 0;
            for (; i < sweep_count_ && group.sweeps < fused_sweeps; ++i, ++group.sweeps) {
                const std::size_t first = std::min(group.first, sweeps_[i].first);
                const std::size_t last = std::max(group.last, sweeps_[i].first + sweeps_[i].count);
                longest = std::max(longest, sweeps_[i].count);
                if (last - first > longest + longest / 4 + 16) break;
                group.first = first;
                group.last = last;
            }
            for (std::size_t side = 0; side < 2; ++side) group.rotations[side] = skewed(scope, group, side);
            work += group.last - group.first;
            groups[group_count++] = group;
        }
        const std::size_t left_panels = target_[0].count(), panels = left_panels + target_[1].count();
        // about two vectors of arithmetic a rotation: a task is worth a thread from 10^4 rotations on
        parallel_for(panels, work * panels * fused_sweeps >= 40000, [&](std::size_t index) {
            const std::size_t side = index < left_panels ? 0 : 1;
            T* panel = target_[side].panel(side == 0 ? index : index - left_panels);
            for (std::size_t g = 0; g < group_count; ++g) {
                run_kernel<RotateRows<T>, T*, std::size_t, const RowRotation<T>*>(panel + groups[g].first * Panels<T>::width,
                                                                                  groups[g].last - groups[g].first + 1, groups[g].rotations[side]);
            }
        });
        sweep_count_ = used_ = 0;
    }

private:
    // Enough that the panels are loaded into the cache seldom, few enough that the rotations stay in it too.
    static constexpr std::size_t queued_sweeps = 32;
    struct Pair {
        RowRotation<T> side[2];
    };
    struct Sweep {
        std::size_t first, count, at;
    };
    struct Group {
        std::size_t sweep, sweeps, first, last;   ///< rotations of the rows (first, first + 1) .. (last - 1, last)
        const RowRotation<T>* rotations[2];
    };

    const RowRotation<T>* skewed(ArenaScope& scope, const Group& group, std::size_t side) {
        const std::size_t steps = group.last - group.first + 1 + fused_sweeps;
        const auto table = scope.vector<RowRotation<T>>(steps * fused_sweeps);
        std::fill(table.begin(), table.end(), RowRotation<T>{});
        for (std::size_t q = 0; q < group.sweeps; ++q) {
            const Sweep& sweep = sweeps_[group.sweep + q];
            RowRotation<T>* to = table.data() + (sweep.first - group.first + q + 1) * fused_sweeps + q;
            for (std::size_t i = 0; i < sweep.count; ++i) to[i * fused_sweeps] = recorded_[sweep.at + i].side[side];
        }
        return table.data();
    }

    Panels<T> target_[2];
    std::size_t capacity_;
    std::span<Sweep> sweeps_;
    std::span<Pair> recorded_;
    std::size_t sweep_count_ = 0;
    std::size_t used_ = 0;
};

PEFT_ISA_DETAIL_END
