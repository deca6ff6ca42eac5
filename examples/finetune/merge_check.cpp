#include "merge_check.hpp"

#include <peft/adapters/low_rank/dora.hpp>
#include <peft/adapters/low_rank/olora.hpp>
#include <peft/adapters/low_rank/pissa.hpp>
#include <peft/adapters/shared_basis/nola.hpp>
#include <peft/adapters/shared_basis/vera.hpp>

#include <algorithm>
#include <cmath>

namespace finetune {
namespace {

using Matrix = peft::Matrix<float>;
using AnyAdapter = peft::AnyAdapter<float>;
using DenseLinear = peft::DenseLinear<float>;

void make_absolute(std::span<float> values) {
    for (float& value : values) value = std::fabs(value);
}

/// The same map with all its terms in sight: methods that subtract, or that keep their matrices elsewhere, as plain LoRA.
AnyAdapter spelled_out(const AnyAdapter& method) {
    if (const auto* pissa = method.get_if<peft::PiSSA<float>>()) return pissa->to_lora();
    if (const auto* olora = method.get_if<peft::OLoRA<float>>()) return olora->to_lora();
    if (const auto* vera = method.get_if<peft::VeRA<float>>()) return vera->to_lora();
    if (const auto* nola = method.get_if<peft::NOLA<float>>()) return nola->to_lora();
    return method;
}

/// The method with every tensor replaced by its absolute values.
AnyAdapter absolute(AnyAdapter method) {
    AnyAdapter::each_tensor(method, [](std::string_view, auto& tensor, peft::Role, peft::TensorShape) {
        if constexpr (requires { make_absolute(tensor.state()->value.flat()); }) make_absolute(tensor.state()->value.flat());
        tensor.touch();
    });
    return method;
}

/// The row norms of W + s B A: what the magnitudes of a new DoRA with these A and B start at.
Matrix direction_norms(DenseLinear base, const peft::DoRA<float>& method) {
    peft::DoRA<float> fresh(method.shape(), method.options());
    std::vector<Matrix> factors;
    peft::DoRA<float>::each_tensor(method, [&](std::string_view, const auto& tensor, peft::Role, peft::TensorShape = {}) { factors.emplace_back(tensor.value()); });
    std::size_t at = 0;
    peft::DoRA<float>::each_tensor(fresh, [&](std::string_view name, auto& tensor, peft::Role, peft::TensorShape = {}) {
        if (name != "lora_magnitude_vector") tensor.assign(factors[at]);
        ++at;
    });
    auto layer = peft::adapt(std::move(base), std::move(fresh));
    Matrix norms;
    peft::DoRA<float>::each_tensor(layer.method(), [&](std::string_view name, auto& tensor, peft::Role, peft::TensorShape = {}) {
        if (name == "lora_magnitude_vector") norms = Matrix(std::as_const(tensor).value());
    });
    return norms;
}

/// The sum of the absolute values of all terms of y: the layer with |W|, |b| and the method's |tensors|, applied to |x|.
Matrix sum_of_magnitudes(const Layer& layer, Matrix x) {
    DenseLinear base = layer.base();
    make_absolute(base.stored().flat());
    make_absolute(base.bias());
    make_absolute(x.flat());
    AnyAdapter method = absolute(spelled_out(layer.method()));
    Matrix scale;
    if (const auto* dora = layer.method().get_if<peft::DoRA<float>>()) {
        // Absolute values also enlarge the norms DoRA divides by: multiply them back in.
        const Matrix with_signs = direction_norms(layer.base(), *dora);
        scale = direction_norms(base, *method.get_if<peft::DoRA<float>>());
        for (std::size_t i = 0; i < scale.size(); ++i) scale.data()[i] /= with_signs.data()[i];
    }
    auto magnitudes = peft::adapt(std::move(base), std::move(method));
    Matrix y = magnitudes.forward(x);
    if (scale.empty()) return y;
    for (std::size_t i = 0; i < y.rows(); ++i) {
        for (std::size_t j = 0; j < y.cols(); ++j) y(i, j) *= std::max(1.0f, scale(0, j));   // the bias is not divided
    }
    return y;
}

}  // namespace

MergeCheck::MergeCheck(Network& network, const Batch& batch, std::size_t rank) {
    auto inputs = network.layer_inputs(batch.windows);
    std::size_t at = 0;
    network.visit([&](std::string_view, Layer& layer) {
        Matrix& x = inputs[at++];
        Record record{Matrix(x.view()), layer.forward(x), peft::Matrix<double>(x.rows(), layer.shape().out)};
        const Matrix magnitudes = sum_of_magnitudes(layer, std::move(x));
        constexpr double u = 0x1p-24;
        constexpr std::size_t others = 8;   // scale, ratio, bias, rounding of W', and those of the sum of magnitudes itself
        const AnyAdapter plain = spelled_out(layer.method());   // of VeRA and PiSSA, another rank
        const auto* lora = plain.get_if<peft::LoRA<float>>();
        const double n = static_cast<double>(layer.shape().in + (lora != nullptr ? lora->options().rank : rank) + others);
        const double gamma = n * u / (1 - n * u);
        for (std::size_t i = 0; i < magnitudes.size(); ++i) record.bound.data()[i] = 2 * gamma * static_cast<double>(magnitudes.data()[i]);
        layers_.push_back(std::move(record));
    });
}

double MergeCheck::worst(Network& merged) const {
    double worst = 0;
    std::size_t at = 0;
    merged.visit([&](std::string_view, Layer& layer) {
        const Record& record = layers_[at++];
        const Matrix y = layer.forward(record.x);
        for (std::size_t i = 0; i < y.size(); ++i) {
            const double difference = std::abs(static_cast<double>(y.data()[i]) - static_cast<double>(record.y.data()[i]));
            if (difference != 0) worst = std::max(worst, difference / record.bound.data()[i]);
        }
    });
    return worst;
}

}  // namespace finetune
