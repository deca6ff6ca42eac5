#include "undo/crossing_unit.hpp"

const crossing::Unit& crossing::baseline_unit() {
    static const Unit unit = make_unit("baseline", peft::SimdLevel::baseline);
    return unit;
}
