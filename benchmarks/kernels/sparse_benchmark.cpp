// Products with a sparse S (1024 x 1024) against Eigen::SparseMatrix and against our dense product of the same shape, all
// compiled with the flags of this file, in one process. Arguments: n, numbers of S in thousandths of all.
// Eigen takes x^T and y^T column by column, i.e. our x and y as they lie in memory; for the gradient of the values Eigen has
// no product at chosen positions, so there the dense dy^T x stands alone.
#include <peft/core/random.hpp>
#include <peft/kernels/matmul.hpp>
#include <peft/kernels/sparse.hpp>

#include <Eigen/SparseCore>
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace {

constexpr std::size_t side = 1024;

struct Subject {
    std::size_t n;
    std::vector<std::int32_t> starts{0}, indices;
    std::vector<float> values;
    peft::Matrix<float> x, y, dense;
    Eigen::SparseMatrix<float, Eigen::RowMajor> eigen;

    explicit Subject(const benchmark::State& state)
        : n(static_cast<std::size_t>(state.range(0))), x(n, side), y(n, side), dense(side, side), eigen(side, side) {
        const peft::CounterRandom random({.seed = 1, .purpose = peft::Purpose::data});
        const double density = static_cast<double>(state.range(1)) / 1000;
        for (std::size_t i = 0; i < side * side; ++i) {
            if (random.uniform(i) < density) {
                indices.push_back(static_cast<std::int32_t>(i));
                values.push_back(static_cast<float>(random.uniform(i + side * side)));
                eigen.insert(static_cast<Eigen::Index>(i / side), static_cast<Eigen::Index>(i % side)) = values.back();
            }
            if (i % side == side - 1) starts.push_back(static_cast<std::int32_t>(indices.size()));
        }
        eigen.makeCompressed();
        for (std::size_t i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.uniform(i) - 0.5);
        for (std::size_t i = 0; i < dense.size(); ++i) dense.data()[i] = static_cast<float>(random.uniform(i) - 0.5);
    }
    peft::SparsePattern pattern() const { return {side, starts, indices}; }
    void report(benchmark::State& state) const {
        state.counters["GFLOP/s"] = benchmark::Counter(2e-9 * static_cast<double>(n) * static_cast<double>(indices.size()), benchmark::Counter::kIsIterationInvariantRate);
    }
};

using Map = Eigen::Map<Eigen::MatrixXf>;   // column-major: the transpose of our rows
Map turned(peft::Matrix<float>& m) { return {m.data(), static_cast<Eigen::Index>(m.cols()), static_cast<Eigen::Index>(m.rows())}; }

template <class F> void run(benchmark::State& state, const F& f) {
    Subject s(state);
    for (auto _ : state) {
        f(s);
        benchmark::ClobberMemory();
    }
    s.report(state);
}

void forward_ours(benchmark::State& state) {
    run(state, [](Subject& s) { peft::sparse_forward<float>(s.pattern(), s.values, 1.0f, s.x, s.y.view()); });
}
void forward_eigen(benchmark::State& state) {
    run(state, [](Subject& s) { turned(s.y).noalias() += s.eigen * turned(s.x); });
}
void forward_dense(benchmark::State& state) {
    run(state, [](Subject& s) { peft::multiply_nt<float, float>(s.x, s.dense, s.y); });
}
void input_gradient_ours(benchmark::State& state) {
    run(state, [](Subject& s) { peft::sparse_input_gradient<float>(s.pattern(), s.values, 1.0f, s.x, s.y.view()); });
}
void input_gradient_eigen(benchmark::State& state) {
    run(state, [](Subject& s) { turned(s.y).noalias() += s.eigen.transpose() * turned(s.x); });
}
void value_gradient_ours(benchmark::State& state) {
    run(state, [](Subject& s) { peft::sparse_value_gradient<float>(s.pattern(), 1.0f, s.x, s.y, std::span<float>(s.values)); });
}
void value_gradient_dense(benchmark::State& state) {
    run(state, [](Subject& s) { peft::multiply_tn<float>(s.x, s.y, s.dense); });
}

void shapes(benchmark::internal::Benchmark* b) {
    b->ArgNames({"n", "permille"})->UseRealTime();
    for (const int n : {1, 32, 512})
        for (const int permille : {5, 20, 100}) b->Args({n, permille});
}

BENCHMARK(forward_ours)->Apply(shapes);
BENCHMARK(forward_eigen)->Apply(shapes);
BENCHMARK(forward_dense)->Apply(shapes);
BENCHMARK(input_gradient_ours)->Apply(shapes);
BENCHMARK(input_gradient_eigen)->Apply(shapes);
BENCHMARK(value_gradient_ours)->Apply(shapes);
BENCHMARK(value_gradient_dense)->Apply(shapes);

}  // namespace
