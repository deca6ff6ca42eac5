// flags: -mavx2 -mfma -ffast-math
#include "undo/crossing_unit.hpp"

const crossing::Unit& crossing::avx2_fast_math_unit() {
    static const Unit unit = make_unit("-mavx2 -mfma -ffast-math", peft::SimdLevel::avx2);
    return unit;
}
