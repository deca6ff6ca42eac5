#pragma once
#include <peft/core/error.hpp>
#include <peft/core/matrix.hpp>
#include <peft/core/plan.hpp>
#include <peft/core/shape.hpp>
#include <peft/kernels/elementwise.hpp>
#include <peft/kernels/sparse.hpp>

#include <cstdint>
#include <limits>
#include <span>
#include <string>

PEFT_ISA_BEGIN

/// The form y += s * x S^T, S (out x in) with numbers at fixed positions: sparse deltas are this with their own choice of
/// positions. Backward needs x and dy only, so there is no cache.
namespace sparse {

/// S: its positions, and its numbers in their order.
template <Scalar T> struct Delta {
    SparsePattern pattern;
    std::span<const T> values;
    T scale = 1;
};

/// Positions are kept and stored as one 32-bit number each, row * in + column. Throws ShapeError for a layer that is too
/// large for that (2^31 weights).
inline void expect_addressable(LayerShape shape) {
    constexpr std::size_t limit = std::numeric_limits<std::int32_t>::max();
    if (shape.in == 0 || shape.out <= limit / shape.in) return;
    throw ShapeError("the layer has too many weights for 32-bit positions", {.subject = "sparse", .expected = "in * out <= " + std::to_string(limit),
                     .found = "in = " + std::to_string(shape.in) + ", out = " + std::to_string(shape.out)});
}

/// What is wrong with positions, empty if they rise strictly and lie in the layer.
inline std::string position_fault(LayerShape shape, std::span<const std::int32_t> indices) {
    std::int64_t last = -1;
    for (std::size_t k = 0; k < indices.size(); ++k) {
        const std::int64_t index = indices[k];
        if (index <= last || index >= static_cast<std::int64_t>(shape.in * shape.out)) {
            std::string text = std::to_string(index);
            text += " at place ";
            text += std::to_string(k);
            if (index <= last && k != 0) text += ", after " + std::to_string(last);
            return text;
        }
        last = index;
    }
    return {};
}

/// Where the numbers of each row begin (1 x (out + 1)). Throws StateError for positions that do not rise strictly, or lie
/// outside the layer.
inline Matrix<std::int32_t> row_starts(LayerShape shape, std::span<const std::int32_t> indices) {
    expect_addressable(shape);
    if (const std::string fault = position_fault(shape, indices); !fault.empty()) {
        throw StateError("positions must rise and lie in the layer", {.subject = "sparse", .expected = "each once, below " + std::to_string(shape.in * shape.out), .found = fault});
    }
    Matrix<std::int32_t> starts(1, shape.out + 1);
    std::size_t k = 0;
    for (std::size_t row = 0; row < shape.out; ++row) {
        const std::size_t end = (row + 1) * shape.in;
        while (k < indices.size() && static_cast<std::size_t>(indices[k]) < end) ++k;
        starts(0, row + 1) = static_cast<std::int32_t>(k);
    }
    return starts;
}

/// y += s * x S^T
template <Scalar T> void forward(const Delta<T>& delta, MatrixView<const T> x, MatrixView<T> y) {
    sparse_forward<T>(delta.pattern, delta.values, delta.scale, x, y);
}

/// Adds s dy^T x at the positions to `gradient`, unless it is empty, and s dy S to dx.
template <Scalar T>
void backward(const Delta<T>& delta, std::span<T> gradient, MatrixView<const T> x, MatrixView<const T> dy, MatrixView<T> dx) {
    if (!gradient.empty()) sparse_value_gradient<T>(delta.pattern, delta.scale, dy, x, gradient);
    sparse_input_gradient<T>(delta.pattern, delta.values, delta.scale, dy, dx);
}

/// W' = W + s S: reads and writes the positions only. Throws nothing; holds copies. `name` is that of the values.
template <Scalar T> class Plan final : public MergePlan<T> {
public:
    Plan(LayerShape shape, const Delta<T>& delta, const char* name)
        : shape_(shape), starts_(as_row(delta.pattern.starts)), indices_(as_row(delta.pattern.indices)), values_(as_row(delta.values)), scale_(delta.scale),
          name_(name) {}

    LayerShape shape() const noexcept override { return shape_; }
    const char* non_finite() const noexcept override {
        if (!is_finite(scale_)) return "scale";
        return all_finite(values_.flat()) ? nullptr : name_;
    }
    void prepare(std::size_t first, MatrixView<T> work) const override { sparse_scatter<T>(pattern(), values_.flat(), scale_, first, work); }
    bool touches(std::size_t first, MatrixView<const T> work, std::size_t i) const noexcept override {
        const SparsePattern s = pattern();
        for (std::size_t k = s.begin(first + i); k < s.begin(first + i + 1); ++k) {
            if (is_nonzero(work(i, s.column(first + i, k)))) return true;
        }
        return false;
    }
    void apply(std::size_t first, MatrixView<const T> work, MatrixView<T> rows) const override { add(first, T(1), work, rows); }
    void revert(std::size_t first, MatrixView<const T> work, MatrixView<T> rows) const override { add(first, T(-1), work, rows); }
    bool additive() const noexcept override { return true; }

private:
    template <class U> static Matrix<U> as_row(std::span<const U> values) { return Matrix<U>(MatrixView<const U>(values.data(), 1, values.size())); }
    SparsePattern pattern() const noexcept { return {shape_.in, starts_.flat(), indices_.flat()}; }
    /// Only where S has a number: elsewhere not even the sign of a zero may change.
    void add(std::size_t first, T sign, MatrixView<const T> work, MatrixView<T> rows) const {
        const SparsePattern s = pattern();
        for (std::size_t i = 0; i < rows.rows(); ++i) {
            for (std::size_t k = s.begin(first + i); k < s.begin(first + i + 1); ++k) {
                const std::size_t column = s.column(first + i, k);
                rows(i, column) += sign * work(i, column);
            }
        }
    }

    LayerShape shape_;
    Matrix<std::int32_t> starts_;
    Matrix<std::int32_t> indices_;
    Matrix<T> values_;
    T scale_;
    const char* name_;
};

}  // namespace sparse

PEFT_ISA_END
