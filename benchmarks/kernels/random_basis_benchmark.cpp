// The random basis of NOLA: how many of its numbers are made and used in a second, against the plain loop and against the
// hash alone, in registers (integer_bound), which is what the integer units allow. PEFT_SIMD chooses the level.
#include <peft/kernels/random_basis.hpp>

#include <benchmark/benchmark.h>

#include <cstddef>
#include <vector>

namespace {

using peft::RandomBasis;

RandomBasis basis_of(std::size_t size, std::size_t k) {
    return {{.seed = 1, .stream = 2, .purpose = peft::Purpose::basis, .step = 0}, size, 1.0 / static_cast<double>(k)};
}

struct Sizes {
    explicit Sizes(const benchmark::State& state) : size(static_cast<std::size_t>(state.range(0))), k(static_cast<std::size_t>(state.range(1))) {}
    void report(benchmark::State& state) const {
        state.counters["Gnumbers/s"] = benchmark::Counter(1e-9 * static_cast<double>(size) * static_cast<double>(k), benchmark::Counter::kIsIterationInvariantRate);
    }
    std::size_t size, k;
};

template <class T> void combine(benchmark::State& state) {
    peft::set_threads(static_cast<int>(state.range(2)));
    const Sizes sizes(state);
    const RandomBasis basis = basis_of(sizes.size, sizes.k);
    std::vector<T> c(sizes.k, T{1}), m(sizes.size);
    for (auto _ : state) {
        peft::add_combination<T>(basis, c, std::span<T>(m));
        benchmark::ClobberMemory();
    }
    sizes.report(state);
    peft::set_threads(0);
}
template <class T> void project(benchmark::State& state) {
    peft::set_threads(static_cast<int>(state.range(2)));
    const Sizes sizes(state);
    const RandomBasis basis = basis_of(sizes.size, sizes.k);
    std::vector<T> d(sizes.size, T{1}), sums(sizes.k);
    for (auto _ : state) {
        peft::add_projections<T>(basis, d, std::span<T>(sums));
        benchmark::ClobberMemory();
    }
    sizes.report(state);
    peft::set_threads(0);
}
/// The definition: one call of the scalar generator a number.
template <class T> void plain_loop(benchmark::State& state) {
    const Sizes sizes(state);
    const RandomBasis basis = basis_of(sizes.size, sizes.k);
    const peft::CounterRandom random(basis.key);
    std::vector<T> c(sizes.k, T{1}), m(sizes.size);
    for (auto _ : state) {
        for (std::size_t i = 0; i < sizes.k; ++i) {
            const T weight = static_cast<T>(basis.scale) * c[i];
            for (std::size_t j = 0; j < sizes.size; ++j) m[j] += weight * static_cast<T>(2 * random.uniform(i * sizes.size + j) - 1);
        }
        benchmark::ClobberMemory();
    }
    sizes.report(state);
}

/// The bits alone, three multiplications a number, nothing loaded or stored.
struct HashOnly {
    template <class L> PEFT_INLINE static std::uint32_t run(std::size_t count) noexcept {
        constexpr std::size_t n = L::template lanes<float>;
        const auto ramp = peft::detail::counters_from<n>(0);
        auto all = peft::detail::Vec<std::uint32_t, n>::zero();
        for (std::size_t i = 0; i + 4 * n <= count; i += 4 * n) {
            PEFT_UNROLL
            for (std::size_t u = 0; u < 4; ++u) {
                const peft::detail::Vec<std::uint32_t, n> counters{ramp.raw + static_cast<std::uint32_t>(i + u * n)};
                all.raw ^= peft::detail::hash_counters(counters, 12345u, 67890u).raw;
            }
        }
        std::uint32_t lanes[n];
        all.store(lanes);
        std::uint32_t result = 0;
        for (const std::uint32_t lane : lanes) result ^= lane;
        return result;
    }
};
void integer_bound(benchmark::State& state) {
    const Sizes sizes(state);
    for (auto _ : state) benchmark::DoNotOptimize(peft::detail::run_kernel<HashOnly, std::size_t>(sizes.size * sizes.k));
    sizes.report(state);
}

void layers(benchmark::internal::Benchmark* b) {
    for (const int threads : {1, 2}) b->Args({8 * 1024, 512, threads});   // A of a 1024 x 1024 layer, rank 8, 512 tensors
    b->Args({16 * 4096, 1024, 1});                                        // of a 4096 x 4096 layer, rank 16
}

}  // namespace

BENCHMARK(combine<float>)->Apply(layers)->UseRealTime();
BENCHMARK(combine<double>)->Apply(layers)->UseRealTime();
BENCHMARK(project<float>)->Apply(layers)->UseRealTime();
BENCHMARK(project<double>)->Apply(layers)->UseRealTime();
BENCHMARK(plain_loop<float>)->Args({8 * 1024, 512})->UseRealTime();
BENCHMARK(plain_loop<double>)->Args({8 * 1024, 512})->UseRealTime();
BENCHMARK(integer_bound)->Args({8 * 1024, 512})->UseRealTime();
