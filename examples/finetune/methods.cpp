#include "methods.hpp"

#include <peft/adapters/channel/ia3.hpp>
#include <peft/adapters/channel/ssf.hpp>
#include <peft/adapters/full/trained.hpp>
#include <peft/adapters/low_rank/dora.hpp>
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/adapters/low_rank/olora.hpp>
#include <peft/adapters/low_rank/pissa.hpp>
#include <peft/adapters/shared_basis/nola.hpp>
#include <peft/adapters/shared_basis/vera.hpp>
#include <peft/adapters/sparse/sara.hpp>

#include <stdexcept>

namespace finetune {

using Name = std::string_view;
using Settings = const MethodSettings&;

const std::vector<Method>& all_methods() {
    // Learning rates: the best of three or four for each, a factor of two or more apart.
    // IA3 scales the outputs of the hidden layers and, as in its paper's feed-forward blocks, the input of the last one.
    static const std::vector<Method> methods{
        {"full", 2e-3, "#444444", [](Name, LayerShape shape, Settings) { return peft::Trained<float>(shape); }},
        {"lora", 6e-3, "#0072b2", [](Name, LayerShape shape, Settings s) { return peft::LoRA<float>(shape, {.rank = s.rank, .alpha = s.alpha, .seed = s.seed}); }},
        {"dora", 8e-3, "#d55e00", [](Name, LayerShape shape, Settings s) { return peft::DoRA<float>(shape, {.rank = s.rank, .alpha = s.alpha, .seed = s.seed}); }},
        {"lora_fa", 3e-2, "#56b4e9", [](Name, LayerShape shape, Settings s) { return peft::LoRA<float>(shape, {.rank = s.rank, .alpha = s.alpha, .train_a = false, .seed = s.seed}); }},
        {"pissa", 4e-3, "#e69f00", [](Name, LayerShape shape, Settings s) { return peft::PiSSA<float>(shape, {.rank = s.rank, .alpha = s.alpha, .seed = s.seed}); }},
        {"olora", 4e-3, "#8c564b", [](Name, LayerShape shape, Settings s) { return peft::OLoRA<float>(shape, {.rank = s.rank, .alpha = s.alpha, .seed = s.seed}); }},
        {"vera", 6e-2, "#7f3c8d", [](Name, LayerShape shape, Settings s) {
             return peft::VeRA<float>(shape, {.rank = s.projection->rank(), .save_projection = false, .projection_seed = s.seed}, s.projection);
         }},
        {"nola", 3e-2, "#999933", [](Name, LayerShape shape, Settings s) {
             return peft::NOLA<float>(shape, {.rank = s.rank, .basis_a = 256, .basis_b = 256, .alpha = s.alpha, .seed = s.seed});
         }},
        {"sara", 1.2e-2, "#11a579", [](Name, LayerShape shape, Settings) { return peft::SaRA<float>(shape, {.share = 0.05}); }},
        {"ssf", 3e-2, "#009e73", [](Name, LayerShape shape, Settings) { return peft::SSF<float>(shape); }},
        {"ia3", 5e-2, "#cc79a7", [](Name layer, LayerShape shape, Settings) { return peft::IA3<float>(shape, {.feedforward = layer == "head"}); }},
    };
    return methods;
}

const Method& find_method(std::string_view name) {
    std::string known;
    for (const Method& method : all_methods()) {
        if (method.name == name) return method;
        known += (known.empty() ? "" : ", ") + method.name;
    }
    throw std::runtime_error("there is no method '" + std::string(name) + "'; known are " + known + " and all");
}

AttachLayer attach(const Method& method, const MethodSettings& settings) {
    return [&method, settings](std::string_view name, peft::DenseLinear<float>& base) {
        return peft::adapt(base, method.make(name, base.shape(), settings), peft::stream_of(name));
    };
}

}  // namespace finetune
