// flags: -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma
#include "undo/crossing_unit.hpp"

const crossing::Unit& crossing::avx512_unit() {
    static const Unit unit = make_unit("-mavx512f", peft::SimdLevel::avx512);
    return unit;
}
