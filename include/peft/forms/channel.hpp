#pragma once
#include <peft/core/concepts.hpp>
#include <peft/kernels/channel.hpp>
#include <peft/kernels/elementwise.hpp>
#include <peft/kernels/reduce.hpp>

#include <memory>
#include <span>

PEFT_ISA_BEGIN

/// The form y = g * y + b per output, or x = g * x per input.
namespace channel {

/// The output before scaling (n x out), a view into the arena; only training keeps it.
template <Scalar T> struct Cache {
    MatrixView<T> y;
};

/// y = g * y + b; b may be empty.
template <class A, Scalar T>
void forward_output(const Call<A>& call, std::span<const T> g, std::span<const T> b, MatrixView<T> y, Cache<T>& cache) {
    if (call.training) {
        cache.y = call.keep.template matrix<T>(y.rows(), y.cols());
        copy<T>(y, cache.y);
    }
    if (b.empty()) scale_columns<T>(g, y);
    else scale_shift_columns<T>(g, b, y);
}

/// dg += sum dy * y, db += sum dy, dy = g * dy. Empty gradients are left out.
template <Scalar T>
void backward_output(std::span<const T> g, std::span<T> dg, std::span<T> db, MatrixView<T> dy, const Cache<T>& cache) {
    if (!dg.empty()) add_column_dots<T>(dy, cache.y, dg);
    if (!db.empty()) add_column_sums<T>(dy, db);
    scale_columns<T>(g, dy);
}

/// z = g * x
template <Scalar T> void forward_input(std::span<const T> g, MatrixView<const T> x, MatrixView<T> z) {
    copy<T>(x, z);
    scale_columns<T>(g, z);
}

/// dg += sum dz * x, dx += g * dz
template <class A, Scalar T>
void backward_input(const Call<A>& call, std::span<const T> g, std::span<T> dg, MatrixView<const T> x, MatrixView<const T> dz, MatrixView<T> dx) {
    if (!dg.empty()) add_column_dots<T>(dz, x, dg);
    ArenaScope scope(call.scratch);
    const auto scaled = scope.matrix<T>(dz.rows(), dz.cols());
    forward_input<T>(g, dz, scaled);
    axpy<T>(T(1), scaled, dx);
}

/// Output form: W' = diag(g) W, b' = g * b + shift. Input form: W' = W diag(g).
template <Scalar T> class Plan final : public MergePlan<T> {
public:
    enum class Side { output, input };

    Plan(LayerShape shape, Side side, std::span<const T> g, std::span<const T> shift, const char* g_name, const char* shift_name)
        : shape_(shape), side_(side), g_(as_row(g)), shift_(as_row(shift)), g_name_(g_name), shift_name_(shift_name) {
        for (const T value : g) any_factor_ = any_factor_ || value != T(1);
    }

    LayerShape shape() const noexcept override { return shape_; }
    const char* non_finite() const noexcept override {
        if (!all_finite(std::as_const(g_).flat())) return g_name_;
        return all_finite(std::as_const(shift_).flat()) ? nullptr : shift_name_;
    }
    void prepare(std::size_t, MatrixView<T>) const override {}
    bool touches(std::size_t first, MatrixView<const T>, std::size_t i) const noexcept override {
        return side_ == Side::input ? any_factor_ : g_(0, first + i) != T(1);
    }
    void apply(std::size_t first, MatrixView<const T>, MatrixView<T> rows) const override {
        if (side_ == Side::input) {
            scale_columns<T>(std::as_const(g_).flat(), rows);
        } else {
            for (std::size_t i = 0; i < rows.rows(); ++i) scale<T>(g_(0, first + i), rows.row_span(i));
        }
    }
    /// Divides where that is possible; behind a factor of zero the journal has to hold the weights themselves.
    void revert(std::size_t first, MatrixView<const T>, MatrixView<T> rows) const override {
        for (std::size_t i = 0; i < rows.rows(); ++i) {
            for (std::size_t j = 0; j < rows.cols(); ++j) {
                const T g = side_ == Side::input ? g_(0, j) : g_(0, first + i);
                if (g != T(0)) rows(i, j) /= g;
            }
        }
    }
    BiasChange bias_change() const noexcept override {
        if (side_ == Side::input) return BiasChange::none;
        return shift_.empty() ? BiasChange::scales : BiasChange::adds;
    }
    void apply_bias(std::span<T> bias) const override {
        const MatrixView<T> row(bias.data(), 1, bias.size());
        if (shift_.empty()) scale_columns<T>(std::as_const(g_).flat(), row);
        else scale_shift_columns<T>(std::as_const(g_).flat(), std::as_const(shift_).flat(), row);
    }

private:
    static Matrix<T> as_row(std::span<const T> values) {
        return Matrix<T>(MatrixView<const T>(values.data(), values.empty() ? 0 : 1, values.size()));
    }

    LayerShape shape_;
    Side side_;
    Matrix<T> g_;
    Matrix<T> shift_;
    const char* g_name_;
    const char* shift_name_;
    bool any_factor_ = false;   ///< some factor is not one
};

}  // namespace channel

PEFT_ISA_END
