#pragma once
#include <peft/core/shape.hpp>

#include <cstddef>
#include <span>
#include <type_traits>

PEFT_BEGIN

/// Non-owning 2-D view with unit inner stride: element (i, j) lies at data()[i * stride() + j].
/// Copying copies the view. MatrixView<const T> is read-only.
template <class T> class MatrixView {
public:
    using value_type = std::remove_const_t<T>;

    PEFT_INLINE constexpr MatrixView() noexcept = default;
    PEFT_INLINE constexpr MatrixView(T* data, std::size_t rows, std::size_t cols, std::size_t stride) noexcept
        : data_(data), rows_(rows), cols_(cols), stride_(stride) {}
    PEFT_INLINE constexpr MatrixView(T* data, std::size_t rows, std::size_t cols) noexcept
        : MatrixView(data, rows, cols, cols) {}
    /// A mutable view serves wherever a read-only one is wanted.
    PEFT_INLINE constexpr operator MatrixView<const T>() const noexcept
        requires(!std::is_const_v<T>)
    {
        return {data_, rows_, cols_, stride_};
    }

    PEFT_INLINE constexpr T& operator()(std::size_t i, std::size_t j) const noexcept {
        PEFT_EXPECTS(i < rows_ && j < cols_);
        return data_[i * stride_ + j];
    }
    PEFT_INLINE constexpr T* row(std::size_t i) const noexcept { return data_ + i * stride_; }
    PEFT_INLINE constexpr std::span<T> row_span(std::size_t i) const noexcept { return {data_ + i * stride_, cols_}; }
    /// `count` rows from `first` on.
    PEFT_INLINE constexpr MatrixView rows(std::size_t first, std::size_t count) const noexcept {
        PEFT_EXPECTS(first + count <= rows_);
        return {data_ + first * stride_, count, cols_, stride_};
    }
    PEFT_INLINE constexpr MatrixView block(std::size_t row, std::size_t col, std::size_t rows, std::size_t cols) const noexcept {
        PEFT_EXPECTS(row + rows <= rows_ && col + cols <= cols_);
        return {data_ + row * stride_ + col, rows, cols, stride_};
    }

    PEFT_INLINE constexpr T* data() const noexcept { return data_; }
    PEFT_INLINE constexpr std::size_t rows() const noexcept { return rows_; }
    PEFT_INLINE constexpr std::size_t cols() const noexcept { return cols_; }
    PEFT_INLINE constexpr std::size_t stride() const noexcept { return stride_; }
    PEFT_INLINE constexpr std::size_t size() const noexcept { return rows_ * cols_; }
    PEFT_INLINE constexpr bool empty() const noexcept { return rows_ == 0 || cols_ == 0; }
    PEFT_INLINE constexpr bool contiguous() const noexcept { return stride_ == cols_ || rows_ <= 1; }

private:
    T* data_ = nullptr;
    std::size_t rows_ = 0;
    std::size_t cols_ = 0;
    std::size_t stride_ = 0;
};

PEFT_END
