#pragma once
#include <peft/core/matrix_view.hpp>

#include <cstring>
#include <initializer_list>
#include <new>
#include <span>
#include <utility>

PEFT_BEGIN

/// Owning row-major matrix: 64-byte aligned, no row padding, so data() is contiguous. Starts at zero.
/// T is trivially copyable (float, double, bfloat16, float16, an index type).
template <class T> class Matrix {
    static_assert(std::is_trivially_copyable_v<T>, "peft::Matrix holds plain numbers");

public:
    using value_type = T;
    static constexpr std::size_t alignment = 64;

    Matrix() noexcept = default;
    Matrix(std::size_t rows, std::size_t cols) : data_(allocate(rows, cols)), rows_(rows), cols_(cols) {
        if (size() != 0) std::memset(static_cast<void*>(data_), 0, size() * sizeof(T));
    }
    /// Copies the elements of a view.
    explicit Matrix(MatrixView<const T> view)
        : data_(allocate(view.rows(), view.cols())), rows_(view.rows()), cols_(view.cols()) {
        copy_from(view);
    }
    Matrix(const Matrix& other) : Matrix(other.view()) {}
    Matrix(Matrix&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), rows_(std::exchange(other.rows_, 0)), cols_(std::exchange(other.cols_, 0)) {}
    Matrix& operator=(const Matrix& other) { return *this = Matrix(other); }
    Matrix& operator=(Matrix&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(rows_, other.rows_);
        std::swap(cols_, other.cols_);
        return *this;
    }
    ~Matrix() { release(); }

    /// Rows given as lists: Matrix<float>::from({{1, 2}, {3, 4}}). Throws ShapeError if the rows differ in length.
    static Matrix from(std::initializer_list<std::initializer_list<T>> rows) {
        Matrix result(rows.size(), rows.size() == 0 ? 0 : rows.begin()->size());
        std::size_t i = 0;
        for (const auto& row : rows) {
            if (row.size() != result.cols()) {
                throw ShapeError("rows of a matrix differ in length", {.expected = std::to_string(result.cols()),
                                                                        .found = std::to_string(row.size())});
            }
            if (row.size() != 0) std::memcpy(result.row(i), row.begin(), row.size() * sizeof(T));
            ++i;
        }
        return result;
    }

    PEFT_INLINE T& operator()(std::size_t i, std::size_t j) noexcept { return data_[i * cols_ + j]; }
    PEFT_INLINE const T& operator()(std::size_t i, std::size_t j) const noexcept { return data_[i * cols_ + j]; }
    PEFT_INLINE T* row(std::size_t i) noexcept { return data_ + i * cols_; }
    PEFT_INLINE const T* row(std::size_t i) const noexcept { return data_ + i * cols_; }
    PEFT_INLINE T* data() noexcept { return data_; }
    PEFT_INLINE const T* data() const noexcept { return data_; }
    PEFT_INLINE std::size_t rows() const noexcept { return rows_; }
    PEFT_INLINE std::size_t cols() const noexcept { return cols_; }
    PEFT_INLINE std::size_t size() const noexcept { return rows_ * cols_; }
    PEFT_INLINE bool empty() const noexcept { return size() == 0; }

    PEFT_INLINE MatrixView<T> view() noexcept { return {data_, rows_, cols_}; }
    PEFT_INLINE MatrixView<const T> view() const noexcept { return {data_, rows_, cols_}; }
    PEFT_INLINE MatrixView<T> rows(std::size_t first, std::size_t count) noexcept { return view().rows(first, count); }
    PEFT_INLINE MatrixView<const T> rows(std::size_t first, std::size_t count) const noexcept { return view().rows(first, count); }
    PEFT_INLINE std::span<T> flat() noexcept { return {data_, size()}; }
    PEFT_INLINE std::span<const T> flat() const noexcept { return {data_, size()}; }
    PEFT_INLINE operator MatrixView<T>() noexcept { return view(); }
    PEFT_INLINE operator MatrixView<const T>() const noexcept { return view(); }
    PEFT_INLINE operator MatrixView<const T>() noexcept { return view(); }

    /// Overwrites all elements; shapes must agree.
    void copy_from(MatrixView<const T> source) {
        expect_shape("copy", source.rows(), source.cols(), rows_, cols_);
        if (size() == 0) return;
        if (source.contiguous()) {
            std::memcpy(static_cast<void*>(data_), source.data(), size() * sizeof(T));
        } else {
            for (std::size_t i = 0; i < rows_; ++i) std::memcpy(static_cast<void*>(row(i)), source.row(i), cols_ * sizeof(T));
        }
    }
    void set_zero() noexcept {
        if (size() != 0) std::memset(static_cast<void*>(data_), 0, size() * sizeof(T));
    }

private:
    static T* allocate(std::size_t rows, std::size_t cols) {
        const std::size_t count = detail::checked_size(rows, cols, sizeof(T));
        if (count == 0) return nullptr;
        return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{alignment}));
    }
    void release() noexcept {
        if (data_ != nullptr) ::operator delete(data_, std::align_val_t{alignment});
    }

    T* data_ = nullptr;
    std::size_t rows_ = 0;
    std::size_t cols_ = 0;
};

PEFT_END
