#pragma once
#include <peft/core/arena.hpp>
#include <peft/core/concepts.hpp>
#include <peft/core/matrix.hpp>
#include <peft/kernels/elementwise.hpp>
#include <peft/layers/merge_pass.hpp>

#include <cstdint>
#include <cstring>
#include <span>

PEFT_ISA_BEGIN

/// Numbers of W that a layer trains in the base itself: where they are and what they were, so that every change starts from
/// the original number and restore() gives the bits back. Memory: a position and a number for each of them.
template <Scalar T> class InPlace {
public:
    template <WritableLinear L> InPlace(const L& base, Entries<T> entries) : positions_(as_row(entries.positions)), originals_(1, entries.positions.size()) {
        const std::size_t in = linear_access<L>::shape(base).in;
        ArenaScope scope;
        const auto row = scope.template matrix<T>(1, in);
        each_row(in, [&](std::size_t o, std::size_t first, std::size_t last) {
            linear_access<L>::read_rows(base, o, row);
            for (std::size_t k = first; k < last; ++k) originals_(0, k) = row(0, column(k, in));
        });
    }

    /// Writes original + change, rounded once to the storage type. Throws StateError, with nothing written, when the entries are
    /// at other positions.
    template <WritableLinear L> void write(L& base, Entries<T> entries) const {
        const bool same = entries.positions.size() == positions_.size() && (positions_.empty() || std::memcmp(entries.positions.data(), positions_.data(), entries.positions.size_bytes()) == 0);
        if (!same) detail::refuse_state("in place", "the method was replaced by one with other positions; call restore_base() before that");
        ArenaScope scope;
        const auto sum = scope.template matrix<T>(1, positions_.size());
        copy<T>(originals_.view(), sum);
        axpy<T>(T(1), MatrixView<const T>(entries.changes.data(), 1, entries.changes.size()), sum);
        put(base, sum);
    }
    template <WritableLinear L> void restore(L& base) const { put(base, originals_.view()); }

private:
    template <class U> static Matrix<U> as_row(std::span<const U> values) { return Matrix<U>(MatrixView<const U>(values.data(), values.empty() ? 0 : 1, values.size())); }
    std::size_t column(std::size_t k, std::size_t in) const noexcept { return static_cast<std::size_t>(positions_.data()[k]) % in; }
    /// f(row, first, last) for each row that has positions first .. last.
    template <class F> void each_row(std::size_t in, F&& f) const {
        for (std::size_t first = 0; first < positions_.size();) {
            const std::size_t o = static_cast<std::size_t>(positions_.data()[first]) / in;
            std::size_t last = first + 1;
            while (last < positions_.size() && static_cast<std::size_t>(positions_.data()[last]) / in == o) ++last;
            f(o, first, last);
            first = last;
        }
    }
    template <WritableLinear L> void put(L& base, MatrixView<const T> values) const {
        const std::size_t in = linear_access<L>::shape(base).in;
        if constexpr (requires { base.weight()(std::size_t{}, std::size_t{}) = detail::stored_t<L>(); }) {
            const auto w = base.weight();
            each_row(in, [&](std::size_t o, std::size_t first, std::size_t last) {
                for (std::size_t k = first; k < last; ++k) w(o, column(k, in)) = round_to<detail::stored_t<L>>(values(0, k));
            });
        } else {
            ArenaScope scope;
            const auto row = scope.template matrix<T>(1, in);
            each_row(in, [&](std::size_t o, std::size_t first, std::size_t last) {
                linear_access<L>::read_rows(base, o, row);
                for (std::size_t k = first; k < last; ++k) row(0, column(k, in)) = values(0, k);
                linear_access<L>::write_rows(base, o, MatrixView<const T>(row));
            });
        }
    }

    Matrix<std::int32_t> positions_;
    Matrix<T> originals_;
};

PEFT_ISA_END
