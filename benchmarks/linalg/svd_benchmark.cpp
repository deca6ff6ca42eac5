// Singular value decompositions and QR of the library against Eigen, both compiled with the flags of this file, in one process
// and on one thread. PEFT_SIMD chooses the level of ours; Eigen gets AVX only with -march.
// At 1024 x 1024 on an AMD EPYC (Zen 5), g++ 12 -O2, CPU time: svd 247 ms, at PEFT_SIMD=baseline 496 ms, Eigen 483 ms.
#include <peft/core/random.hpp>
#include <peft/core/threads.hpp>
#include <peft/linalg/qr.hpp>
#include <peft/linalg/randomized_svd.hpp>
#include <peft/linalg/svd.hpp>

#include <Eigen/QR>
#include <Eigen/SVD>
#include <benchmark/benchmark.h>

#include <cstddef>
#include <string>

namespace {

peft::Matrix<float> random_matrix(const benchmark::State& state) {
    peft::Matrix<float> result(static_cast<std::size_t>(state.range(0)), static_cast<std::size_t>(state.range(1)));
    peft::fill_uniform({.seed = 1, .purpose = peft::Purpose::data}, 1, result.flat());
    return result;
}
Eigen::MatrixXf random_eigen(const benchmark::State& state) {
    const auto a = random_matrix(state);
    return Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(a.data(), state.range(0), state.range(1));
}

void ours_svd(benchmark::State& state) {
    const auto a = random_matrix(state);
    for (auto _ : state) benchmark::DoNotOptimize(peft::svd(a));
}
void eigen_svd(benchmark::State& state) {
    const auto a = random_eigen(state);
    for (auto _ : state) {
        const Eigen::BDCSVD<Eigen::MatrixXf> f(a, Eigen::ComputeThinU | Eigen::ComputeThinV);
        benchmark::DoNotOptimize(f.matrixU().data());
    }
}
/// The 16 leading triplets.
void ours_randomized(benchmark::State& state) {
    const auto a = random_matrix(state);
    for (auto _ : state) benchmark::DoNotOptimize(peft::randomized_svd(a, {.rank = 16}));
}
void ours_qr(benchmark::State& state) {
    const auto a = random_matrix(state);
    for (auto _ : state) benchmark::DoNotOptimize(peft::qr(a));
}
void eigen_qr(benchmark::State& state) {
    const auto a = random_eigen(state);
    for (auto _ : state) {
        const Eigen::HouseholderQR<Eigen::MatrixXf> f(a);
        const Eigen::MatrixXf q = f.householderQ() * Eigen::MatrixXf::Identity(a.rows(), std::min(a.rows(), a.cols()));
        benchmark::DoNotOptimize(q.data());
    }
}

void shapes(benchmark::internal::Benchmark* b) {
    b->Unit(benchmark::kMillisecond)->UseRealTime();
    b->Args({256, 256})->Args({512, 512})->Args({1024, 1024})->Args({2048, 256})->Args({256, 2048});
}
BENCHMARK(ours_svd)->Apply(shapes);
BENCHMARK(eigen_svd)->Apply(shapes);
BENCHMARK(ours_randomized)->Apply(shapes);
BENCHMARK(ours_qr)->Apply(shapes);
BENCHMARK(eigen_qr)->Apply(shapes);

}  // namespace

int main(int argc, char** argv) {
    peft::set_threads(1);
    Eigen::setNbThreads(1);
    benchmark::AddCustomContext("peft_simd", std::string(peft::to_string(peft::simd_level())));
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::RunSpecifiedBenchmarks();
}
