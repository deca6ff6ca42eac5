#pragma once
#include <peft/core/scalar.hpp>
#include <peft/layers/merge.hpp>
#include <peft/linear/dense.hpp>
#include <peft/simd/dispatch.hpp>

// Merging in one translation unit and unmerging in another that was compiled with other flags. Bases and records are
// vocabulary and cross; everything that computes carries the instruction set in its name.

namespace crossing {

inline constexpr int method_count = 5;   // LoRA, DoRA, IA3 on outputs and on inputs, SSF

template <class T, class S> struct Functions {
    peft::MergeRecord<T> (*merge)(peft::DenseLinear<T, S>&, int method, peft::MergeMode);
    void (*unmerge)(peft::DenseLinear<T, S>&, peft::MergeRecord<T>&);
};

/// One compilation of the library.
struct Unit {
    const char* name;
    peft::SimdLevel needs;
    Functions<float, float> single;
    Functions<float, peft::bfloat16> brain;
    Functions<float, peft::float16> half;
    Functions<double, double> twice;
};

const Unit& baseline_unit();
const Unit& avx2_fast_math_unit();
const Unit& avx512_unit();

}  // namespace crossing
