#include <peft/simd/dispatch.hpp>

#include "support/catch.hpp"

#include <cstdlib>
#include <string>

using namespace peft;

namespace {
struct WhichLevel {
    template <class L> PEFT_INLINE static SimdLevel run(int) noexcept { return L::id; }
};
}  // namespace

TEST_CASE("the levels of the CPU start with baseline and rise") {
    const auto levels = simd_levels();
    REQUIRE(!levels.empty());
    CHECK(levels.front() == SimdLevel::baseline);
    for (std::size_t i = 1; i < levels.size(); ++i) CHECK(levels[i] > levels[i - 1]);
}

TEST_CASE("kernels run at the level that PEFT_SIMD names where the CPU has it, else at its best") {
    const char* wanted = std::getenv("PEFT_SIMD");
    SimdLevel expected = simd_levels().back();
    for (const SimdLevel level : simd_levels())
        if (wanted != nullptr && to_string(level) == wanted) expected = level;
    CHECK(simd_level() == expected);
    CHECK(detail::run_kernel<WhichLevel, int>(0) == expected);
}

TEST_CASE("a PEFT_SIMD value that names no level, or one that the CPU lacks, is ignored") {
    CHECK(detail::chosen_level(nullptr, SimdLevel::avx2) == SimdLevel::avx2);
    CHECK(detail::chosen_level("", SimdLevel::avx512) == SimdLevel::avx512);
    CHECK(detail::chosen_level("sse9", SimdLevel::avx2) == SimdLevel::avx2);
    CHECK(detail::chosen_level("avx512", SimdLevel::avx2) == SimdLevel::avx2);
    CHECK(detail::chosen_level("avx2", SimdLevel::baseline) == SimdLevel::baseline);
    CHECK(detail::chosen_level("avx2", SimdLevel::avx512) == SimdLevel::avx2);
    CHECK(detail::chosen_level("avx512", SimdLevel::avx512) == SimdLevel::avx512);
    CHECK(detail::chosen_level("baseline", SimdLevel::avx512) == SimdLevel::baseline);
}

TEST_CASE("each level of the CPU runs its own entry") {
    for (const SimdLevel level : simd_levels()) CHECK(detail::run_kernel_at<WhichLevel, int>(level, 0) == level);
}
