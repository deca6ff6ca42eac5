#pragma once
#include <peft/core/matrix_view.hpp>
#include <peft/core/random.hpp>
#include <peft/core/scalar.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace peft::test {

/// How a guarded matrix lies in memory: `offset` elements after a 64-byte boundary, `gap` elements between rows.
struct Placement {
    std::size_t offset = 0;
    std::size_t gap = 0;
};

/// A matrix in the middle of a block of 0xff bytes. A kernel that writes outside the matrix is found by intact(); one that
/// uses what it read outside gets NaN, since 0xff... is a NaN in every storage type.
template <class T> class Guarded {
public:
    Guarded(std::size_t rows, std::size_t cols, Placement placement = {})
        : rows_(rows), cols_(cols), stride_(cols + placement.gap), bytes_(2 * margin + 64 + (rows * stride_ + placement.offset) * sizeof(T)) {
        std::memset(bytes_.data(), 0xff, bytes_.size());
        const auto address = reinterpret_cast<std::uintptr_t>(bytes_.data()) + margin;
        first_ = margin + (64 - address % 64) % 64 + placement.offset * sizeof(T);
        for (std::size_t i = 0; i < rows_; ++i)
            for (std::size_t j = 0; j < cols_; ++j) view()(i, j) = T{};
    }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;

    /// Numbers in [-1, 1) from the counter generator.
    Guarded& randomize(std::uint64_t seed) {
        const CounterRandom random({.seed = seed, .purpose = Purpose::data});
        for (std::size_t i = 0; i < rows_; ++i)
            for (std::size_t j = 0; j < cols_; ++j) view()(i, j) = round_to<T>(2 * random.uniform(i * cols_ + j) - 1);
        return *this;
    }
    Guarded& assign(MatrixView<const T> from) {
        for (std::size_t i = 0; i < rows_; ++i)
            for (std::size_t j = 0; j < cols_; ++j) view()(i, j) = from(i, j);
        return *this;
    }

    MatrixView<T> view() { return {reinterpret_cast<T*>(bytes_.data() + first_), rows_, cols_, stride_}; }
    MatrixView<const T> view() const { return {reinterpret_cast<const T*>(bytes_.data() + first_), rows_, cols_, stride_}; }
    MatrixView<const T> read() const { return view(); }
    std::span<T> span() { return {view().data(), rows_ * cols_}; }                  // of a matrix without gaps
    std::span<const T> read_span() const { return {view().data(), rows_ * cols_}; }

    /// True if every byte outside the matrix still is 0xff.
    bool intact() const {
        std::size_t at = 0;   // the first byte not looked at
        for (std::size_t i = 0; i < rows_; ++i) {
            const std::size_t row = first_ + i * stride_ * sizeof(T);
            for (; at < row; ++at)
                if (bytes_[at] != 0xff) return false;
            at = row + cols_ * sizeof(T);
        }
        for (; at < bytes_.size(); ++at)
            if (bytes_[at] != 0xff) return false;
        return true;
    }

private:
    static constexpr std::size_t margin = 256;
    std::size_t rows_, cols_, stride_;
    std::vector<unsigned char> bytes_;
    std::size_t first_ = 0;
};

template <class T> bool same_bits(MatrixView<const T> a, MatrixView<const T> b) {
    for (std::size_t i = 0; i < a.rows(); ++i)
        if (std::memcmp(a.row(i), b.row(i), a.cols() * sizeof(T)) != 0) return false;
    return true;
}

}  // namespace peft::test
