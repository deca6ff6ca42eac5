#pragma once
#include <peft/core/concepts.hpp>
#include <peft/core/random.hpp>
#include <peft/kernels/channel.hpp>
#include <peft/kernels/elementwise.hpp>
#include <peft/kernels/low_rank.hpp>
#include <peft/kernels/matmul.hpp>
#include <peft/kernels/reduce.hpp>

#include <memory>
#include <span>

PEFT_ISA_BEGIN

/// The form y += s * drop(x) A^T B^T: everything additive of low rank is this with its own A and B.
namespace low_rank {

/// A (rank x in), B (out x rank).
template <Scalar T> struct Factors {
    MatrixView<const T> a;
    MatrixView<const T> b;
};

/// Where gradients are added; an empty view means that this factor is frozen.
template <Scalar T> struct Gradients {
    MatrixView<T> a;
    MatrixView<T> b;
};

/// u = drop(x) A^T (n x rank), a view into the arena.
template <Scalar T> struct Cache {
    MatrixView<T> u;
};

/// The mask of this forward pass: a new one for each layer and step, none in inference.
template <class A> DropoutMask mask_of(const Call<A>& call, double probability, std::uint64_t seed) {
    return {{seed, call.stream, Purpose::dropout, call.step}, call.training ? probability : 0.0};
}

/// y += s * drop(x) A^T B^T; keeps u.
template <class A, Scalar T>
void forward(const Call<A>& call, Factors<T> f, T scale, const DropoutMask& mask, MatrixView<const T> x, MatrixView<T> y, Cache<T>& cache) {
    cache.u = call.keep.template matrix<T>(x.rows(), f.a.rows());
    low_rank_down<T>(x, mask, f.a, cache.u);
    low_rank_up<T>(cache.u, f.b, scale, y);
}

/// Adds dB = s dy^T u, dA = h^T drop(x) and dx = drop(h A), with h = s dy B (n x rank).
template <class A, Scalar T>
void backward(const Call<A>& call, Factors<T> f, Gradients<T> gradients, T scale, const DropoutMask& mask, MatrixView<const T> x,
              MatrixView<const T> dy, MatrixView<T> dx, const Cache<T>& cache) {
    ArenaScope scope(call.scratch);
    const auto h = scope.matrix<T>(x.rows(), f.a.rows());
    multiply_nn<T, T>(dy, f.b, h, {.scale = scale, .accumulate = false, .bias = {}});
    if (!gradients.b.empty()) multiply_tn<T>(dy, cache.u, gradients.b, {.scale = scale, .accumulate = true, .bias = {}});
    if (!gradients.a.empty()) low_rank_down_gradient<T>(h, x, mask, gradients.a);
    low_rank_down_input_gradient<T>(h, f.a, mask, dx);
}

/// Trained diagonals around frozen factors: W' = W + diag(out) B diag(rank) A.
template <Scalar T> struct Diagonals {
    std::span<const T> rank;
    std::span<const T> out;
};

/// y += diag(out) (diag(rank) drop(x) A^T) B^T row by row; keeps u = drop(x) A^T.
template <class A, Scalar T>
void forward(const Call<A>& call, Factors<T> f, Diagonals<T> d, const DropoutMask& mask, MatrixView<const T> x, MatrixView<T> y, Cache<T>& cache) {
    cache.u = call.keep.template matrix<T>(x.rows(), f.a.rows());
    low_rank_down<T>(x, mask, f.a, cache.u);
    constexpr std::size_t block = 128;   // rows of y made beside it
    for (std::size_t first = 0; first < x.rows(); first += block) {
        const std::size_t count = std::min(block, x.rows() - first);
        ArenaScope scope(call.scratch);
        const auto inner = scope.matrix<T>(count, f.a.rows());
        copy<T>(cache.u.rows(first, count), inner);
        scale_columns<T>(d.rank, inner);
        const auto change = scope.matrix<T>(count, y.cols());
        multiply_nt<T, T>(inner, f.b, change);
        scale_columns<T>(d.out, change);
        axpy<T>(T(1), change, y.rows(first, count));
    }
}

/// Adds the gradients of the diagonals and dx. With U = u diag(rank) and h = dy diag(out) B (n x rank):
///   d(out)_o += B_o . (dy^T U)_o,  d(rank)_k += sum_t u_tk h_tk,  dx += drop(h diag(rank) A).
template <class A, Scalar T>
void backward(const Call<A>& call, Factors<T> f, Diagonals<T> d, std::span<T> d_rank, std::span<T> d_out, const DropoutMask& mask,
              MatrixView<const T> x, MatrixView<const T> dy, MatrixView<T> dx, const Cache<T>& cache) {
    ArenaScope scope(call.scratch);
    const std::size_t rank = f.a.rows();
    const auto inner = scope.matrix<T>(x.rows(), rank);
    copy<T>(cache.u, inner);
    scale_columns<T>(d.rank, inner);
    const auto products = scope.matrix<T>(f.b.rows(), rank);
    multiply_tn<T>(dy, inner, products);
    for (std::size_t o = 0; o < f.b.rows(); ++o) d_out[o] += dot<T>(f.b.row_span(o), std::span<const T>(products.row_span(o)));
    for (std::size_t o = 0; o < f.b.rows(); ++o) {   // diag(out) B where the products were
        for (std::size_t k = 0; k < rank; ++k) products(o, k) = d.out[o] * f.b(o, k);
    }
    multiply_nn<T, T>(dy, MatrixView<const T>(products), inner);
    add_column_dots<T>(cache.u, inner, d_rank);
    scale_columns<T>(d.rank, inner);
    low_rank_down_input_gradient<T>(inner, f.a, mask, dx);
}

/// y += s * x A^T B^T with factors that nobody trains: nothing is kept.
template <Scalar T> void add_fixed(Arena& scratch, Factors<T> f, T scale, MatrixView<const T> x, MatrixView<T> y) {
    ArenaScope scope(scratch);
    const auto u = scope.matrix<T>(x.rows(), f.a.rows());
    low_rank_down<T>(x, {}, f.a, u);
    low_rank_up<T>(u, f.b, scale, y);
}
/// dx += s * dy B A
template <Scalar T> void add_fixed_backward(Arena& scratch, Factors<T> f, T scale, MatrixView<const T> dy, MatrixView<T> dx) {
    ArenaScope scope(scratch);
    const auto h = scope.matrix<T>(dy.rows(), f.a.rows());
    multiply_nn<T, T>(dy, f.b, h, {.scale = scale, .accumulate = false, .bias = {}});
    low_rank_down_input_gradient<T>(h, f.a, {}, dx);
}

/// W' = W + s B A, and b' = b + s c when a bias c is given. Throws nothing; holds copies.
template <Scalar T> class Plan final : public MergePlan<T> {
public:
    Plan(Factors<T> f, T scale, std::span<const T> bias = {})
        : a_(f.a), b_(f.b), bias_(MatrixView<const T>(bias.data(), bias.empty() ? 0 : 1, bias.size())), scale_(scale) {}

    /// W' = W + diag(out) B diag(rank) A
    Plan(Factors<T> f, Diagonals<T> d) : Plan(f, T(1)) {
        for (std::size_t k = 0; k < a_.rows(); ++k) peft::scale<T>(d.rank[k], a_.rows(k, 1));
        for (std::size_t o = 0; o < b_.rows(); ++o) peft::scale<T>(d.out[o], b_.rows(o, 1));
    }

    LayerShape shape() const noexcept override { return {a_.cols(), b_.rows()}; }
    const char* non_finite() const noexcept override {
        if (!is_finite(scale_)) return "scale";
        if (!all_finite(std::as_const(a_).flat())) return "lora_A";
        if (!all_finite(std::as_const(b_).flat())) return "lora_B";
        return all_finite(std::as_const(bias_).flat()) ? nullptr : "lora_B.bias";
    }
    void prepare(std::size_t first, MatrixView<T> work) const override {
        multiply_nn<T, T>(b_.rows(first, work.rows()), a_, work, {.scale = scale_, .accumulate = false, .bias = {}});
    }
    bool touches(std::size_t, MatrixView<const T> work, std::size_t i) const noexcept override { return is_nonzero(max_abs(work.row_span(i))); }
    void apply(std::size_t, MatrixView<const T> work, MatrixView<T> rows) const override { axpy(T(1), work, rows); }
    void revert(std::size_t, MatrixView<const T> work, MatrixView<T> rows) const override { axpy(T(-1), work, rows); }
    bool additive() const noexcept override { return true; }
    BiasChange bias_change() const noexcept override { return bias_.empty() ? BiasChange::none : BiasChange::adds; }
    void apply_bias(std::span<T> bias) const override {
        if (!bias_.empty()) axpy(scale_, bias_.view(), MatrixView<T>(bias.data(), 1, bias.size()));
    }

private:
    Matrix<T> a_;
    Matrix<T> b_;
    Matrix<T> bias_;
    T scale_;
};

}  // namespace low_rank

PEFT_ISA_END
