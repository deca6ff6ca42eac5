#pragma once
#include <peft/linear/base_users.hpp>
#include <peft/linear/weight.hpp>

#include <cstdint>
#include <memory>
#include <span>

PEFT_BEGIN

/// y = x W^T + b over memory of yours: W (out x in) in either storage order (columns or rows dense), b (out) or none.
/// The memory must outlive the view. Merging writes into it; a merge that needs a bias where there is none refuses.
template <Scalar T, StorageScalar S = T> class DenseLinearView {
public:
    using value_type = T;
    using storage_type = S;

    DenseLinearView(WeightView<S> weight, std::span<T> bias = {}) : weight_(weight), bias_(bias) { check_bias(); }
    DenseLinearView(MatrixView<S> weight, std::span<T> bias = {}) : DenseLinearView(WeightView<S>{weight, false}, bias) {}
    /// Throws ShapeError if neither rows nor columns are dense.
    DenseLinearView(StridedView<S> weight, std::span<T> bias = {}) : DenseLinearView(orient(weight), bias) {}
    /// Any mutable matrix: peft::Matrix, or with the ext/ headers an Eigen or xtensor object of either storage order.
    /// Throws ShapeError if neither rows nor columns are dense.
    template <class W>
        requires(detail::is_matrix_v<W> && !std::is_const_v<std::remove_reference_t<W>>)
    explicit DenseLinearView(W& weight, std::span<T> bias = {}) : DenseLinearView(orient(detail::write_view<S>(weight)), bias) {}

    PEFT_INLINE LayerShape shape() const noexcept { return {weight_.in(), weight_.out()}; }
    PEFT_INLINE std::span<const T> bias() const noexcept { return bias_; }
    PEFT_INLINE std::span<T> bias() noexcept { return bias_; }
    PEFT_INLINE WeightView<const S> weight() const noexcept { return weight_.read_only(); }
    PEFT_INLINE WeightView<S> weight() noexcept { return weight_; }

    /// y = x W^T + b
    PEFT_INLINE void forward(MatrixView<const T> x, MatrixView<T> y) const { detail::weight_forward<T, S>(weight(), bias(), x, y); }
    /// y = x W^T
    PEFT_INLINE void product(MatrixView<const T> x, MatrixView<T> y) const { detail::weight_forward<T, S>(weight(), {}, x, y); }
    /// dx += dy W
    PEFT_INLINE void backward_input(MatrixView<const T> dy, MatrixView<T> dx) const { detail::weight_backward_input<T, S>(weight(), dy, dx); }
    PEFT_INLINE void read_rows(std::size_t first, MatrixView<T> rows) const { detail::weight_read_rows<T, S>(weight(), first, rows); }
    PEFT_INLINE void write_rows(std::size_t first, MatrixView<const T> rows) { detail::weight_write_rows<T, S>(weight_, first, rows); }
    PEFT_INLINE void read_stored(std::size_t first, MatrixView<S> rows) const { detail::weight_read_stored<S>(weight(), first, rows); }
    PEFT_INLINE void write_stored(std::size_t first, MatrixView<const S> rows) { detail::weight_write_stored<S>(weight_, first, rows); }

    PEFT_INLINE std::uint64_t merge_token() const noexcept { return merge_token_; }
    PEFT_INLINE void set_merge_token(std::uint64_t token) noexcept { merge_token_ = token; }
    /// What a layer holds as long as it is on this view or a copy of it. Other views of the memory do not know of it.
    std::shared_ptr<const char> join() const noexcept { return users_.join(); }

private:
    static WeightView<S> orient(StridedView<S> w) {
        if (w.is_row_major()) return {w.row_major(), false};
        if (w.transposed().is_row_major()) return {w.transposed().row_major(), true};
        throw ShapeError("neither rows nor columns of the weight are dense in memory", {.subject = "DenseLinearView",
                         .expected = "a stride of 1", .found = std::to_string(w.row_stride()) + " and " + std::to_string(w.col_stride())});
    }
    void check_bias() const {
        if (!bias_.empty()) expect_shape("bias", 1, bias_.size(), 1, weight_.out());
    }

    WeightView<S> weight_;
    std::span<T> bias_;
    std::uint64_t merge_token_ = 0;
    detail::ViewUsers users_;
};

PEFT_END
