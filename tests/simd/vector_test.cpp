#include <peft/simd/dispatch.hpp>
#include <peft/simd/loop.hpp>

#include "support/catch.hpp"
#include "support/guarded.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

using namespace peft;
using namespace peft::test;

namespace {

template <class T> struct TransposeBlock {
    template <class L> PEFT_INLINE static std::size_t run(const T* from, T* to) noexcept {
        constexpr std::size_t n = L::template lanes<T>;
        detail::Vec<T, n> rows[n];
        for (std::size_t i = 0; i < n; ++i) rows[i] = detail::Vec<T, n>::load(from + i * n);
        detail::transpose_lanes(rows);
        for (std::size_t i = 0; i < n; ++i) rows[i].store(to + i * n);
        return n;
    }
};

template <class T> struct CopyLoop {
    template <class L> PEFT_INLINE static void run(const T* from, T* to, std::size_t count) noexcept {
        detail::for_vectors<L::template lanes<T>>(0, count, [&](auto at) PEFT_INLINE_LAMBDA { at.store(to, at.load(from)); });
    }
};

template <class T> struct Roots {
    template <class L> PEFT_INLINE static void run(const T* from, T* to, std::size_t count) noexcept {
        detail::for_vectors<L::template lanes<T>>(0, count, [&](auto at) PEFT_INLINE_LAMBDA {
            at.store(to, detail::square_root(at.load(from)));
        });
    }
};

template <class T> struct LaneSum {
    template <class L> PEFT_INLINE static T run(const T* from) noexcept {
        return detail::sum_lanes(detail::Vec<T, L::template lanes<T>>::load(from));
    }
};

}  // namespace

TEMPLATE_TEST_CASE("a square block of vectors is transposed", "", float, double) {
    std::vector<TestType> from(256), to(256);
    for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<TestType>(i);
    const std::size_t n = detail::run_kernel<TransposeBlock<TestType>, const TestType*, TestType*>(from.data(), to.data());
    bool right = true;
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < n; ++j) right = right && to[j * n + i] == from[i * n + j];
    CHECK(right);
}

TEMPLATE_TEST_CASE("a vector loop touches every element once and no byte outside", "", float, double) {
    for (std::size_t count = 0; count < 100; ++count) {
        for (const std::size_t offset : {std::size_t{0}, std::size_t{1}, std::size_t{3}}) {
            Guarded<TestType> from(1, count, {offset, 0}), to(1, count, {offset, 0});
            from.randomize(count + 1);
            detail::run_kernel<CopyLoop<TestType>, const TestType*, TestType*, std::size_t>(from.view().data(), to.view().data(), count);
            INFO("count " << count << ", offset " << offset);
            CHECK(same_bits<TestType>(from.view(), to.view()));
            CHECK(to.intact());
        }
    }
}

TEMPLATE_TEST_CASE("the lanes of a vector are summed", "", float, double) {
    const std::vector<TestType> ones(16, TestType{0.5});
    const std::size_t lanes = (simd_level() == SimdLevel::avx512 ? 64u : simd_level() == SimdLevel::avx2 ? 32u : 16u) / sizeof(TestType);
    CHECK(detail::run_kernel<LaneSum<TestType>, const TestType*>(ones.data()) == static_cast<TestType>(lanes) / 2);
}

TEMPLATE_TEST_CASE("the vector square root is within one unit in the last place and keeps 0, infinity and NaN", "", float, double) {
    using T = TestType;
    std::vector<T> from{T{0}, std::numeric_limits<T>::min(), std::numeric_limits<T>::max(), std::numeric_limits<T>::infinity(),
                        std::numeric_limits<T>::quiet_NaN(), T{1}, T{4}};
    const CounterRandom random({.seed = 5});
    for (std::size_t i = 0; i < 20000; ++i) {
        const auto exponent = static_cast<int>(random.bits(2 * i) % (sizeof(T) == 4 ? 240 : 2000)) - (sizeof(T) == 4 ? 120 : 1000);
        from.push_back(static_cast<T>(std::ldexp(1 + random.uniform(2 * i + 1), exponent)));
    }
    std::vector<T> to(from.size());
    detail::run_kernel<Roots<T>, const T*, T*, std::size_t>(from.data(), to.data(), from.size());
    CHECK(to[0] == T{0});
    CHECK(to[3] == std::numeric_limits<T>::infinity());
    CHECK(std::isnan(to[4]));
    T worst = 0;
    for (std::size_t i = 0; i < from.size(); ++i) {
        if (i == 0 || i == 3 || i == 4) continue;
        const T root = std::sqrt(from[i]);
        worst = std::max(worst, std::fabs(to[i] - root) / (std::nextafter(root, std::numeric_limits<T>::infinity()) - root));
    }
    CHECK(worst <= 1);
}
