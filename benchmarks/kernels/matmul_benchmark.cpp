// Matrix products of the library against Eigen, both compiled with the flags of this file, in one process.
// GFLOP/s are in the counter column; PEFT_SIMD chooses the level of ours.
#include <peft/core/random.hpp>
#include <peft/kernels/matmul.hpp>

#include <Eigen/Core>
#include <benchmark/benchmark.h>

#include <cstddef>
#include <string>

namespace {

template <class S> peft::Matrix<S> random_matrix(std::size_t rows, std::size_t cols, std::uint64_t seed) {
    peft::Matrix<S> result(rows, cols);
    const peft::CounterRandom random({.seed = seed, .purpose = peft::Purpose::data});
    for (std::size_t i = 0; i < result.size(); ++i) result.data()[i] = peft::round_to<S>(2 * random.uniform(i) - 1);
    return result;
}

struct Sizes {
    explicit Sizes(const benchmark::State& state)
        : n(static_cast<std::size_t>(state.range(0))), out(static_cast<std::size_t>(state.range(1))), in(static_cast<std::size_t>(state.range(2))) {}
    void report(benchmark::State& state) const {
        const double products = static_cast<double>(n) * static_cast<double>(out) * static_cast<double>(in);
        state.counters["GFLOP/s"] = benchmark::Counter(2e-9 * products, benchmark::Counter::kIsIterationInvariantRate);
    }
    std::size_t n, out, in;
};

template <class T, class S> void ours_nt(benchmark::State& state) {
    const Sizes size(state);
    const auto x = random_matrix<T>(size.n, size.in, 1);
    const auto w = random_matrix<S>(size.out, size.in, 2);
    peft::Matrix<T> y(size.n, size.out);
    for (auto _ : state) {
        peft::multiply_nt(x, w, y);
        benchmark::ClobberMemory();
    }
    size.report(state);
}
template <class T> void ours_nn(benchmark::State& state) {
    const Sizes size(state);
    const auto dy = random_matrix<T>(size.n, size.out, 1);
    const auto w = random_matrix<T>(size.out, size.in, 2);
    peft::Matrix<T> dx(size.n, size.in);
    for (auto _ : state) {
        peft::multiply_nn(dy, w, dx);
        benchmark::ClobberMemory();
    }
    size.report(state);
}
template <class T> void ours_tn(benchmark::State& state) {
    const Sizes size(state);
    const auto a = random_matrix<T>(size.n, size.out, 1);
    const auto b = random_matrix<T>(size.n, size.in, 2);
    peft::Matrix<T> c(size.out, size.in);
    for (auto _ : state) {
        peft::multiply_tn(a, b, c);
        benchmark::ClobberMemory();
    }
    size.report(state);
}

template <class T> using Map = Eigen::Map<Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;
template <class T> Map<T> map(peft::Matrix<T>& m) {
    return {m.data(), static_cast<Eigen::Index>(m.rows()), static_cast<Eigen::Index>(m.cols())};
}

template <class T> void eigen_nt(benchmark::State& state) {
    const Sizes size(state);
    auto x = random_matrix<T>(size.n, size.in, 1), w = random_matrix<T>(size.out, size.in, 2);
    peft::Matrix<T> y(size.n, size.out);
    for (auto _ : state) {
        map(y).noalias() = map(x) * map(w).transpose();
        benchmark::ClobberMemory();
    }
    size.report(state);
}
template <class T> void eigen_nn(benchmark::State& state) {
    const Sizes size(state);
    auto dy = random_matrix<T>(size.n, size.out, 1), w = random_matrix<T>(size.out, size.in, 2);
    peft::Matrix<T> dx(size.n, size.in);
    for (auto _ : state) {
        map(dx).noalias() = map(dy) * map(w);
        benchmark::ClobberMemory();
    }
    size.report(state);
}
template <class T> void eigen_tn(benchmark::State& state) {
    const Sizes size(state);
    auto a = random_matrix<T>(size.n, size.out, 1), b = random_matrix<T>(size.n, size.in, 2);
    peft::Matrix<T> c(size.out, size.in);
    for (auto _ : state) {
        map(c).noalias() = map(a).transpose() * map(b);
        benchmark::ClobberMemory();
    }
    size.report(state);
}

/// n, out, in: layers, one row, and the thin products of rank 8 and 16.
void shapes(benchmark::internal::Benchmark* b) {
    b->ArgNames({"n", "out", "in"})->UseRealTime();
    b->Args({512, 1024, 1024})->Args({128, 1024, 1024})->Args({32, 4096, 4096})->Args({8, 4096, 4096})->Args({1, 4096, 4096});
    b->Args({512, 16, 1024})->Args({512, 1024, 16})->Args({512, 8, 4096})->Args({512, 4096, 8});
}

BENCHMARK_TEMPLATE(ours_nt, float, float)->Apply(shapes);
BENCHMARK_TEMPLATE(eigen_nt, float)->Apply(shapes);
BENCHMARK_TEMPLATE(ours_nn, float)->Apply(shapes);
BENCHMARK_TEMPLATE(eigen_nn, float)->Apply(shapes);
BENCHMARK_TEMPLATE(ours_tn, float)->Apply(shapes);
BENCHMARK_TEMPLATE(eigen_tn, float)->Apply(shapes);
BENCHMARK_TEMPLATE(ours_nt, float, peft::bfloat16)->Apply(shapes);
BENCHMARK_TEMPLATE(ours_nt, float, peft::float16)->Apply(shapes);
BENCHMARK_TEMPLATE(ours_nt, double, double)->Apply(shapes);
BENCHMARK_TEMPLATE(eigen_nt, double)->Apply(shapes);

}  // namespace

int main(int argc, char** argv) {
    benchmark::AddCustomContext("peft_simd", std::string(peft::to_string(peft::simd_level())));
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::RunSpecifiedBenchmarks();
}
