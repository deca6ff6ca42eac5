#pragma once
// The classes of UCDvision/NOLA: their tensors in a NOLA with a stored basis, since the random numbers are torch's.
#include "golden_case.hpp"

#include <peft/adapters/shared_basis/nola.hpp>
#include <peft/layers/any_adapter.hpp>

#include <string>
#include <string_view>
#include <utility>

namespace golden {

template <class T> using StoredNOLA = peft::NOLA<T, peft::StoredBasis<T>>;

template <class T> peft::AnyAdapter<T> make_nola(peft::LayerShape shape, const peft::Value& config, const char* rank, const char* basis_a, const char* basis_b, double alpha) {
    const auto number = [&](const char* key) { return static_cast<std::size_t>(config.at(key).as_unsigned(key)); };
    return peft::AnyAdapter<T>(StoredNOLA<T>(shape, {.rank = number(rank), .basis_a = number(basis_a), .basis_b = number(basis_b), .alpha = alpha}));
}

/// Numbers of any shape into a parameter of as many.
template <class T> void assign_flat(const peft::Matrix<T>& values, peft::Parameter<T>& to) {
    if (values.size() != to.size()) throw peft::ShapeError("a tensor of the case does not fit", {.expected = std::to_string(to.size()), .found = std::to_string(values.size())});
    to.assign(peft::MatrixView<const T>(values.data(), to.rows(), to.cols()));
}

/// gpt/src/model_nola.py and README.md: NOLALinear holds one factor, its bases (k, out, in), its frozen start and its coefficients.
template <class T> void fill_nola_linear(const Case<T>& c, peft::AnyAdapter<T>& adapter) {
    auto& nola = *adapter.template get_if<StoredNOLA<T>>();
    assign_flat(c.input("adapter.lora_A.coefficients"), nola.alpha());
    assign_flat(c.input("adapter.lora_B.coefficients"), nola.beta());
    assign_flat(c.input("buffer.lora_A.bases"), nola.basis().a());
    assign_flat(c.input("buffer.lora_B.bases"), nola.basis().b());
    assign_flat(c.input("buffer.lora_A.weight"), nola.basis().a0());
    assign_flat(c.input("buffer.lora_B.weight"), nola.basis().b0());
}
inline std::string nola_linear_name(std::string_view tensor) { return tensor == "nola_alpha" ? "lora_A.coefficients" : tensor == "nola_beta" ? "lora_B.coefficients" : std::string(tensor); }

/// Matrices of (rows x cols), one after the other, each transposed.
template <class T> peft::Matrix<T> transposed(const peft::Matrix<T>& stacked, std::size_t rows, std::size_t cols) {
    peft::Matrix<T> result(stacked.rows(), stacked.cols());
    for (std::size_t at = 0; at + rows * cols <= stacked.size(); at += rows * cols) {
        for (std::size_t i = 0; i < rows; ++i) {
            for (std::size_t j = 0; j < cols; ++j) result.data()[at + j * rows + i] = stacked.data()[at + i * cols + j];
        }
    }
    return result;
}
/// vit/NOLA.py, NOLA2: y = (x A) B / rank with A_i (in, rank) and B_j (rank, out), no starts.
template <class T> void fill_nola2(const Case<T>& c, peft::AnyAdapter<T>& adapter) {
    auto& nola = *adapter.template get_if<StoredNOLA<T>>();
    const std::size_t rank = nola.options().rank;
    assign_flat(c.input("adapter.nola_alpha"), nola.alpha());
    assign_flat(c.input("adapter.nola_beta"), nola.beta());
    assign_flat(transposed(c.input("buffer.A"), nola.shape().in, rank), nola.basis().a());
    assign_flat(transposed(c.input("buffer.B"), rank, nola.shape().out), nola.basis().b());
    nola.basis().a0().assign(peft::Matrix<T>(rank, nola.shape().in));
}

}  // namespace golden
