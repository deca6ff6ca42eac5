#pragma once
#include <peft/core/matrix.hpp>
#include <peft/layers/any_adapter.hpp>
#include <peft/linear/dense.hpp>

#include <string>

namespace peft_test {

/// Saves the method as the adapter of a module, loads it over `base`, computes y from x with what was loaded, and saves
/// that again. Empty if both saves have the same bytes, else what differs. Compiled once, in contract/files.cpp, since
/// reading and writing files takes longer to compile than a method; a test program gets it as it gets the allocation
/// counter. Whatever all_methods lists can be loaded.
template <class T>
std::string files_differ(peft::AnyAdapter<T>& method, peft::DenseLinear<T>& base, const peft::Matrix<T>& x, peft::Matrix<T>& y);

extern template std::string files_differ<float>(peft::AnyAdapter<float>&, peft::DenseLinear<float>&, const peft::Matrix<float>&, peft::Matrix<float>&);
extern template std::string files_differ<double>(peft::AnyAdapter<double>&, peft::DenseLinear<double>&, const peft::Matrix<double>&, peft::Matrix<double>&);

}  // namespace peft_test
