#include <peft/kernels/random_basis.hpp>

#include "support/catch.hpp"
#include "support/guarded.hpp"
#include "support/reference.hpp"

#include <cmath>
#include <cstring>
#include <vector>

using namespace peft;
using namespace peft::test;

namespace {

const std::size_t sizes[] = {0, 1, 3, 7, 8, 9, 15, 16, 17, 50, 511, 512, 513, 1023, 1025, 2100};
const std::size_t counts[] = {0, 1, 2, 7, 8, 9, 19};

RandomBasis basis_of(std::size_t size, std::uint64_t step = 0) {
    return {{.seed = 3, .stream = 8, .purpose = Purpose::basis, .step = step}, size, 0.25};
}
/// Number j of G_i, as the definition has it.
long double number(const RandomBasis& basis, std::size_t i, std::size_t j) {
    const CounterRandom random(basis.key);
    return static_cast<long double>(basis.scale) * (2 * static_cast<long double>(random.uniform(std::uint64_t{i} * basis.size + j)) - 1);
}

}  // namespace

TEMPLATE_TEST_CASE("random basis: combination and projection agree with the plain loop", "", float, double) {
    using T = TestType;
    for (const std::size_t size : sizes) {
        for (const std::size_t k : counts) {
            INFO("size " << size << ", k " << k);
            const RandomBasis basis = basis_of(size);
            const std::size_t offset = (size + k) % 4;
            Guarded<T> c(1, k, {offset, 0}), m(1, size, {offset, 0}), d(1, size, {offset + 1, 0}), sums(1, k, {1, 0});
            c.randomize(1);
            m.randomize(2);
            d.randomize(3);
            sums.randomize(4);
            Expected wanted_m(1, size), wanted_sums(1, k);
            wanted_m.terms = k + 2;
            wanted_sums.terms = size + 2;
            for (std::size_t j = 0; j < size; ++j) wanted_m.add(0, j, exact(m.read()(0, j)));
            for (std::size_t i = 0; i < k; ++i) {
                wanted_sums.add(0, i, exact(sums.read()(0, i)));
                for (std::size_t j = 0; j < size; ++j) {
                    const long double g = number(basis, i, j);
                    wanted_m.add(0, j, exact(c.read()(0, i)) * g);
                    wanted_sums.add(0, i, exact(d.read()(0, j)) * g);
                }
            }
            add_combination<T>(basis, c.read_span(), m.span());
            add_projections<T>(basis, d.read_span(), sums.span());
            CHECK(difference(m.read(), wanted_m) == "");
            CHECK(difference(sums.read(), wanted_sums) == "");
            CHECK((c.intact() && m.intact() && d.intact() && sums.intact()));
        }
    }
}

TEMPLATE_TEST_CASE("random basis: its numbers have the bits of the scalar generator at every level", "", float, double) {
    using T = TestType;
    const std::size_t size = 301;
    const RandomBasis basis = basis_of(size);
    const auto unit = static_cast<T>(basis.scale * 0x1p-23);
    const T one[] = {0, 0, 1};   // picks G_2
    for (const SimdLevel level : simd_levels()) {
        std::vector<T> m(size, T{0});
        const detail::BasisTile tile{CounterRandom(basis.key), size, 0, 3, 0, size};
        detail::run_kernel_at<detail::CombineBasis<T>, const detail::BasisTile&, T, const T*, T*>(level, tile, unit, one, m.data());
        std::size_t wrong = 0;
        for (std::size_t j = 0; j < size; ++j) wrong += m[j] == static_cast<T>(number(basis, 2, j)) ? 0 : 1;
        INFO("level " << std::string(to_string(level)));
        CHECK(wrong == 0);
        for (const std::size_t j : {std::size_t{0}, std::size_t{17}, size - 1}) {
            std::vector<T> unit_vector(size, T{0});
            unit_vector[j] = 1;
            T sums[3] = {};
            detail::run_kernel_at<detail::ProjectOnBasis<T>, const detail::BasisTile&, T, const T*, T*>(level, tile, unit, unit_vector.data(), sums);
            for (std::size_t i = 0; i < 3; ++i) CHECK(sums[i] == static_cast<T>(number(basis, i, j)));
        }
    }
}

TEMPLATE_TEST_CASE("random basis: it goes on where 32 bits of the counter run over", "", float, double) {
    using T = TestType;
    // The tensors of 2^32 - 5 numbers are never made: a tile at the end of G_0 and at the start of G_1.
    RandomBasis basis = basis_of((std::size_t{1} << 32) - 5);
    const auto unit = static_cast<T>(basis.scale * 0x1p-23);
    for (const std::size_t count : {std::size_t{1}, std::size_t{6}, std::size_t{40}, std::size_t{131}}) {
        // columns 0 .. count of G_1 are the numbers 2^32 - 5 .. of the stream
        std::vector<T> m(count, T{0});
        const T c[] = {0, 1};
        const detail::BasisTile tile{CounterRandom(basis.key), basis.size, 1, 2, 0, count};
        detail::run_kernel<detail::CombineBasis<T>, const detail::BasisTile&, T, const T*, T*>(tile, unit, c, m.data());
        std::size_t wrong = 0;
        Expected wanted(1, 1);
        wanted.terms = count;
        std::vector<T> ones(count, T{1});
        for (std::size_t j = 0; j < count; ++j) {
            wrong += m[j] == static_cast<T>(number(basis, 1, j)) ? 0 : 1;
            wanted.add(0, 0, number(basis, 1, j));
        }
        CHECK(wrong == 0);
        T sums[2] = {};
        detail::run_kernel<detail::ProjectOnBasis<T>, const detail::BasisTile&, T, const T*, T*>(tile, unit, ones.data(), sums);
        CHECK(difference(MatrixView<const T>(sums + 1, 1, 1), wanted) == "");
        CHECK(sums[0] == 0);
    }
}

TEMPLATE_TEST_CASE("random basis: the number of threads does not change a bit", "", float, double) {
    using T = TestType;
    const std::size_t size = 3000, k = 37;
    const RandomBasis basis = basis_of(size);
    Guarded<T> c(1, k), d(1, size);
    c.randomize(1);
    d.randomize(2);
    const auto run = [&](int count) {
        set_threads(count);
        std::vector<T> result(size + k, T{0});
        add_combination<T>(basis, c.read_span(), std::span<T>(result).first(size));
        add_projections<T>(basis, d.read_span(), std::span<T>(result).last(k));
        set_threads(0);
        return result;
    };
    REQUIRE(size * k >= detail::parallel_numbers);
    const auto one = run(1);
    for (const int threads : {2, 3, 7}) CHECK(std::memcmp(one.data(), run(threads).data(), one.size() * sizeof(T)) == 0);
}

TEST_CASE("random basis: other keys give other numbers, and what is uniform has the moments of a uniform") {
    const std::size_t size = 4096;
    const float one[] = {1};
    const auto first = [&](std::uint64_t seed, std::uint64_t stream, std::uint64_t step) {
        std::vector<float> m(size, 0.0f);
        add_combination<float>({{seed, stream, Purpose::basis, step}, size, 1.0}, one, std::span<float>(m));
        return m;
    };
    const auto numbers = first(1, 1, 0);
    for (const auto& other : {first(2, 1, 0), first(1, 2, 0), first(1, 1, 1)}) {
        double correlation = 0;
        for (std::size_t j = 0; j < size; ++j) correlation += static_cast<double>(numbers[j]) * static_cast<double>(other[j]);
        // 5 standard deviations of the mean of products of independent uniforms, whose variance is 1/9
        CHECK(std::fabs(correlation) <= 5.0 / 3 * std::sqrt(static_cast<double>(size)));
    }
    double mean = 0, square = 0;
    for (const float g : numbers) {
        mean += static_cast<double>(g) / static_cast<double>(size);
        square += static_cast<double>(g) * static_cast<double>(g) / static_cast<double>(size);
        CHECK((g >= -1 && g < 1));
    }
    const double deviations = 5 / std::sqrt(static_cast<double>(size));
    CHECK(std::fabs(mean) <= deviations * std::sqrt(1.0 / 3));
    CHECK(std::fabs(square - 1.0 / 3) <= deviations * std::sqrt(4.0 / 45));
}
