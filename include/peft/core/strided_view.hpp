#pragma once
#include <peft/core/matrix_view.hpp>

PEFT_BEGIN

/// Non-owning 2-D view with two strides, in elements: element (i, j) lies at data()[i * row_stride() + j * col_stride()].
/// Only the public boundary speaks it (column-major Eigen and xtensor objects); inside, everything is a MatrixView.
template <class T> class StridedView {
public:
    using value_type = std::remove_const_t<T>;

    PEFT_INLINE constexpr StridedView() noexcept = default;
    PEFT_INLINE constexpr StridedView(T* data, std::size_t rows, std::size_t cols, std::size_t row_stride,
                                      std::size_t col_stride) noexcept
        : data_(data), rows_(rows), cols_(cols), row_stride_(row_stride), col_stride_(col_stride) {}
    PEFT_INLINE constexpr StridedView(MatrixView<T> view) noexcept
        : StridedView(view.data(), view.rows(), view.cols(), view.stride(), 1) {}
    PEFT_INLINE constexpr StridedView(MatrixView<value_type> view) noexcept
        requires(std::is_const_v<T>)
        : StridedView(view.data(), view.rows(), view.cols(), view.stride(), 1) {}
    PEFT_INLINE constexpr operator StridedView<const T>() const noexcept
        requires(!std::is_const_v<T>)
    {
        return {data_, rows_, cols_, row_stride_, col_stride_};
    }

    PEFT_INLINE constexpr T& operator()(std::size_t i, std::size_t j) const noexcept {
        return data_[i * row_stride_ + j * col_stride_];
    }
    PEFT_INLINE constexpr StridedView rows(std::size_t first, std::size_t count) const noexcept {
        return {data_ + first * row_stride_, count, cols_, row_stride_, col_stride_};
    }
    /// The same memory seen as the transposed matrix.
    PEFT_INLINE constexpr StridedView transposed() const noexcept { return {data_, cols_, rows_, col_stride_, row_stride_}; }
    /// True if the rows are dense, so that row_major() may be called.
    PEFT_INLINE constexpr bool is_row_major() const noexcept { return col_stride_ == 1 || cols_ <= 1; }
    PEFT_INLINE constexpr MatrixView<T> row_major() const noexcept { return {data_, rows_, cols_, row_stride_}; }

    PEFT_INLINE constexpr T* data() const noexcept { return data_; }
    PEFT_INLINE constexpr std::size_t rows() const noexcept { return rows_; }
    PEFT_INLINE constexpr std::size_t cols() const noexcept { return cols_; }
    PEFT_INLINE constexpr std::size_t row_stride() const noexcept { return row_stride_; }
    PEFT_INLINE constexpr std::size_t col_stride() const noexcept { return col_stride_; }

private:
    T* data_ = nullptr;
    std::size_t rows_ = 0;
    std::size_t cols_ = 0;
    std::size_t row_stride_ = 0;
    std::size_t col_stride_ = 1;
};

PEFT_END
