#include "support/catch.hpp"
#include "undo/crossing.hpp"

#include <peft/core/random.hpp>
#include <peft/simd/dispatch.hpp>

#include <cstring>

namespace {

template <class T, class S>
void cross(const crossing::Functions<T, S>& merging, const crossing::Functions<T, S>& unmerging) {
    constexpr peft::LayerShape shape{71, 530};   // three blocks
    peft::DenseLinear<T, S> base(shape);
    const peft::CounterRandom random({.seed = 1, .stream = 0, .purpose = peft::Purpose::data, .step = 0});
    for (std::size_t i = 0; i < base.stored().size(); ++i) base.stored().data()[i] = peft::round_to<S>(static_cast<T>(random.normal(i)));
    base.stored()(7, 3) = peft::round_to<S>(T(-0.0));
    base.stored()(7, 4) = std::bit_cast<S>(static_cast<peft::detail::bits_t<S>>(5));   // subnormal
    const peft::Matrix<S> before = base.stored();
    for (int method = 0; method < crossing::method_count; ++method) {
        for (const peft::MergeMode mode : {peft::MergeMode::journal, peft::MergeMode::copy}) {
            CAPTURE(method, static_cast<int>(mode), sizeof(S));
            auto record = merging.merge(base, method, mode);
            CHECK(std::memcmp(base.stored().data(), before.data(), before.size() * sizeof(S)) != 0);
            unmerging.unmerge(base, record);
            CHECK(std::memcmp(base.stored().data(), before.data(), before.size() * sizeof(S)) == 0);
        }
    }
}

}  // namespace

TEST_CASE("undo: what one unit merges another unmerges, whatever flags they were compiled with") {
    std::vector<const crossing::Unit*> units;
    for (const crossing::Unit* unit : {&crossing::baseline_unit(), &crossing::avx2_fast_math_unit(), &crossing::avx512_unit()}) {
        if (unit->needs <= peft::simd_levels().back()) units.push_back(unit);
        else WARN("skipped: this processor cannot run the unit compiled with " << unit->name);
    }
    for (const crossing::Unit* merging : units) {
        for (const crossing::Unit* unmerging : units) {
            CAPTURE(merging->name, unmerging->name);
            cross(merging->single, unmerging->single);
            cross(merging->brain, unmerging->brain);
            cross(merging->half, unmerging->half);
            cross(merging->twice, unmerging->twice);
        }
    }
}
