#include "support/catch.hpp"

#include <peft/core/random.hpp>
#include <peft/kernels/elementwise.hpp>

#include <cmath>
#include <vector>

using peft::CounterRandom;
using peft::Purpose;
using peft::StreamKey;

TEST_CASE("random: the stream peft-counter-v1 is frozen") {
    // Computed once with this generator; another platform, compiler or instruction set must give the same.
    const CounterRandom zero(StreamKey{});
    const CounterRandom other({.seed = 42, .stream = 7, .purpose = Purpose::dropout, .step = 3});
    const std::uint64_t at[] = {0, 1, 2, 1000000, std::uint64_t{1} << 32, (std::uint64_t{1} << 32) + 1};
    const std::uint32_t of_zero[] = {0xa354b960, 0x14947dee, 0x6f5a7d8a, 0xf77a806a, 0xce5338ed, 0x8c41b4a5};
    const std::uint32_t of_other[] = {0x1e7d9e25, 0x64df114c, 0x5cd683f9, 0x7ad12d8e, 0x2b94072a, 0xfd50a867};
    for (int k = 0; k < 6; ++k) {
        CHECK(zero.bits(at[k]) == of_zero[k]);
        CHECK(other.bits(at[k]) == of_other[k]);
    }
    CHECK(zero.uniform(0) == 0x1.46a972p-1);
    CHECK(zero.uniform(2) == 0x1.bd69f4p-2);
    CHECK(zero.normal(0) == 0x1.9237c91e1fa42p-2);
    CHECK(zero.normal(1) == -0x1.bf96a9ac9ec4p-1);
    CHECK(other.normal(5) == -0x1.522ffb4070b68p-2);
    CHECK(peft::stream_of("model.layers.0.self_attn.q_proj") == 0x64d1886c869e6d2bull);
    CHECK(peft::stream_of("") == 0xcbf29ce484222325ull);      // FNV-1a, 64 bits
    CHECK(peft::stream_of("a") == 0xaf63dc4c8601ec8cull);
}

TEST_CASE("random: uniform and normal numbers have the moments they should") {
    constexpr std::size_t n = 200000;
    const CounterRandom random({.seed = 3, .stream = 0, .purpose = Purpose::data, .step = 0});
    double sum[5] = {};
    double uniform = 0;
    double square = 0;
    double lag = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const double u = random.uniform(i);
        REQUIRE((u >= 0 && u < 1));
        uniform += u;
        square += (u - 0.5) * (u - 0.5);
        lag += (u - 0.5) * (random.uniform(i + 1) - 0.5);
        const double z = random.normal(i);
        for (int k = 1; k < 5; ++k) sum[k] += std::pow(z, k);
    }
    // five standard errors of each estimate
    const double root = std::sqrt(static_cast<double>(n));
    CHECK(std::fabs(uniform / n - 0.5) < 5 * std::sqrt(1.0 / 12) / root);
    CHECK(std::fabs(square / n - 1.0 / 12) < 5 * std::sqrt(1.0 / 180) / root);
    CHECK(std::fabs(lag / n) < 5.0 / 12 / root);
    CHECK(std::fabs(sum[1] / n) < 5 / root);
    CHECK(std::fabs(sum[2] / n - 1) < 5 * std::sqrt(2.0) / root);
    CHECK(std::fabs(sum[3] / n) < 5 * std::sqrt(15.0) / root);
    CHECK(std::fabs(sum[4] / n - 3) < 0.01 + 5 * std::sqrt(96.0) / root);   // the kurtosis is 0.008 short, by construction
}

TEST_CASE("random: streams that differ in one part of the key have nothing in common") {
    const StreamKey base{.seed = 1, .stream = 1, .purpose = Purpose::parameters, .step = 1};
    std::vector<StreamKey> keys{base};
    for (std::uint64_t d : {1ull, 2ull, 3ull, 1ull << 32, 1ull << 63}) {
        for (int part = 0; part < 3; ++part) {
            StreamKey key = base;
            (part == 0 ? key.seed : part == 1 ? key.stream : key.step) += d;
            keys.push_back(key);
        }
    }
    for (const Purpose purpose : {Purpose::dropout, Purpose::basis, Purpose::data, Purpose::selection}) {
        keys.push_back(base);
        keys.back().purpose = purpose;
    }
    keys.push_back({.seed = 2, .stream = 0, .purpose = Purpose::parameters, .step = 1});   // same sums
    constexpr std::uint64_t n = 4096;
    for (std::size_t a = 0; a < keys.size(); ++a) {
        for (std::size_t b = a + 1; b < keys.size(); ++b) {
            const CounterRandom left(keys[a]);
            const CounterRandom right(keys[b]);
            std::int64_t equal_bits = 0;
            std::size_t equal = 0;
            for (std::uint64_t i = 0; i < n; ++i) {
                equal_bits += std::popcount(~(left.bits(i) ^ right.bits(i)));
                equal += left.bits(i) == right.bits(i + 1) ? 1 : 0;      // nor a shifted copy
            }
            CAPTURE(a, b);
            // 131072 fair coins: six standard deviations
            CHECK(std::abs(equal_bits - static_cast<std::int64_t>(16 * n)) < static_cast<std::int64_t>(6 * std::sqrt(8.0 * n)));
            CHECK(equal < 3);
        }
    }
}

TEMPLATE_TEST_CASE("random: fills are the numbers of the stream, rounded once", "", float, double) {
    const StreamKey key{.seed = 5, .stream = 6, .purpose = Purpose::parameters, .step = 2};
    const CounterRandom random(key);
    std::vector<TestType> values(1000);
    peft::fill_uniform<TestType>(key, 0.25, values);
    bool same = true;
    for (std::size_t i = 0; i < values.size(); ++i) same = same && values[i] == static_cast<TestType>(0.25 * (2 * random.uniform(i) - 1));
    CHECK(same);
    peft::fill_normal<TestType>(key, 0, 1, values);
    same = true;
    for (std::size_t i = 0; i < values.size(); ++i) same = same && values[i] == static_cast<TestType>(random.normal(i));
    CHECK(same);
}
