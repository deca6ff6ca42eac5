#pragma once
#include "model.hpp"

#include <peft/adapters/shared_basis/shared_projection.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace finetune {

using peft::LayerShape;

/// What the command line and the model say of all methods.
struct MethodSettings {
    std::size_t rank = 8;
    double alpha = 16;
    std::uint64_t seed = 1;
    LayerShape largest{};   ///< largest in and largest out of the model's layers
    std::shared_ptr<peft::SharedProjection<float>> projection{};   ///< of VeRA: one for the whole model
};

/// A way of fine-tuning: its name on the command line and how it is put on a layer.
struct Method {
    std::string name;
    double learning_rate;   ///< sensible for this method: methods that train few numbers want larger ones
    std::string color;      ///< in the plot
    std::function<peft::AnyAdapter<float>(std::string_view layer, LayerShape shape, const MethodSettings& settings)> make;
};

/// All of them. A new method is one line in methods.cpp.
const std::vector<Method>& all_methods();
/// Throws std::runtime_error that lists the names.
const Method& find_method(std::string_view name);

/// A function for Network's constructor that puts the method on each layer.
AttachLayer attach(const Method& method, const MethodSettings& settings);

}  // namespace finetune
