#pragma once
#include <peft/linear/base_users.hpp>
#include <peft/linear/weight.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

PEFT_BEGIN

namespace detail {

/// What the owning dense bases share: storage, optional bias, and the token of the last merge.
template <Scalar T, StorageScalar S, bool stored_transposed> class OwnedLinear {
public:
    using value_type = T;
    using storage_type = S;

    /// Takes over a weight of storage type; no bias when `bias` has no columns. Throws ShapeError if the bias is not (1 x out).
    explicit OwnedLinear(Matrix<S> weight, Matrix<T> bias = {}) : weight_(std::move(weight)), bias_(std::move(bias)) {
        if (!bias_.empty()) expect_shape("bias", bias_.rows(), bias_.cols(), 1, shape().out);
        has_bias_ = !bias_.empty();
    }
    /// Zero weights, and a zero bias if wanted.
    explicit OwnedLinear(LayerShape shape, bool with_bias = true)
        : OwnedLinear(stored_transposed ? Matrix<S>(shape.in, shape.out) : Matrix<S>(shape.out, shape.in),
                      with_bias ? Matrix<T>(1, shape.out) : Matrix<T>()) {}
    /// Copies any matrix of the compute type, rounding to the storage type.
    template <class W>
        requires(is_matrix_v<W> && !std::is_same_v<std::remove_cvref_t<W>, Matrix<S>>)
    explicit OwnedLinear(const W& weight, Matrix<T> bias = {}) : OwnedLinear(to_storage<S, T>(read_view<T>(weight)), std::move(bias)) {}

    PEFT_INLINE LayerShape shape() const noexcept { return {weight().in(), weight().out()}; }
    PEFT_INLINE std::span<const T> bias() const noexcept { return {bias_.data(), has_bias_ ? bias_.size() : 0}; }
    PEFT_INLINE std::span<T> bias() noexcept { return {bias_.data(), has_bias_ ? bias_.size() : 0}; }
    PEFT_INLINE WeightView<const S> weight() const noexcept { return {weight_.view(), stored_transposed}; }
    PEFT_INLINE WeightView<S> weight() noexcept { return {weight_.view(), stored_transposed}; }
    /// The weight as it lies in memory.
    PEFT_INLINE const Matrix<S>& stored() const noexcept { return weight_; }
    PEFT_INLINE Matrix<S>& stored() noexcept { return weight_; }

    /// y = x W^T + b
    PEFT_INLINE void forward(MatrixView<const T> x, MatrixView<T> y) const { detail::weight_forward<T, S>(weight(), bias(), x, y); }
    /// y = x W^T
    PEFT_INLINE void product(MatrixView<const T> x, MatrixView<T> y) const { detail::weight_forward<T, S>(weight(), {}, x, y); }
    /// dx += dy W
    PEFT_INLINE void backward_input(MatrixView<const T> dy, MatrixView<T> dx) const { detail::weight_backward_input<T, S>(weight(), dy, dx); }
    PEFT_INLINE void read_rows(std::size_t first, MatrixView<T> rows) const { detail::weight_read_rows<T, S>(weight(), first, rows); }
    PEFT_INLINE void write_rows(std::size_t first, MatrixView<const T> rows) { detail::weight_write_rows<T, S>(weight(), first, rows); }
    PEFT_INLINE void read_stored(std::size_t first, MatrixView<S> rows) const { detail::weight_read_stored<S>(weight(), first, rows); }
    PEFT_INLINE void write_stored(std::size_t first, MatrixView<const S> rows) { detail::weight_write_stored<S>(weight(), first, rows); }

    /// Creates a zero bias where there is none (a merge that needs one calls it, unmerge takes it back).
    void ensure_bias() {
        if (has_bias_) return;
        bias_ = Matrix<T>(1, shape().out);
        has_bias_ = true;
    }
    void drop_bias() noexcept {
        bias_ = {};
        has_bias_ = false;
    }
    PEFT_INLINE std::uint64_t merge_token() const noexcept { return merge_token_; }
    PEFT_INLINE void set_merge_token(std::uint64_t token) noexcept { merge_token_ = token; }
    /// What a layer holds as long as it is on this base.
    std::shared_ptr<const char> join() const noexcept { return users_.join(); }

private:
    Matrix<S> weight_;
    Matrix<T> bias_;
    bool has_bias_ = false;
    std::uint64_t merge_token_ = 0;
    BaseUsers users_;
};

}  // namespace detail

/// y = x W^T + b; owns W (out x in) and b. W is stored as S: the compute type, bfloat16 or float16.
template <Scalar T, StorageScalar S = T> class DenseLinear : public detail::OwnedLinear<T, S, false> {
public:
    using detail::OwnedLinear<T, S, false>::OwnedLinear;
};

/// y = x M + b; owns M = W^T (in x out) and b: the layout of GPT-2's Conv1D (fan_in_fan_out).
template <Scalar T, StorageScalar S = T> class TransposedLinear : public detail::OwnedLinear<T, S, true> {
public:
    using detail::OwnedLinear<T, S, true>::OwnedLinear;
};

PEFT_END
