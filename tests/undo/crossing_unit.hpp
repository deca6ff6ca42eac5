#pragma once
#include "undo/crossing.hpp"

#include <peft/adapters/channel/ia3.hpp>
#include <peft/adapters/channel/ssf.hpp>
#include <peft/adapters/low_rank/dora.hpp>
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/core/random.hpp>
#include <peft/layers/adapted.hpp>

// The functions of one unit; in an unnamed namespace, so that each unit has its own.

namespace {

template <class Layer> void change_parameters(Layer& layer) {
    const peft::CounterRandom random({.seed = 3, .stream = 0, .purpose = peft::Purpose::data, .step = 0});
    std::uint64_t at = 0;
    for (const auto& parameter : layer.parameters()) {
        for (auto& value : parameter.value()) value += static_cast<typename Layer::value_type>(0.4 * random.uniform(at++) - 0.2);
        parameter.touch();
    }
    layer.prepare();
}

template <class Base, class Method> auto merge_method(Base& base, Method method, peft::MergeMode mode) {
    auto layer = peft::adapt(base, std::move(method), 5);
    change_parameters(layer);
    return peft::merge_into(base, layer.plan(), mode);
}

template <class T, class S> peft::MergeRecord<T> merge_any(peft::DenseLinear<T, S>& base, int method, peft::MergeMode mode) {
    const peft::LayerShape shape = base.shape();
    switch (method) {
    case 0: return merge_method(base, peft::LoRA<T>(shape, {.rank = 5, .alpha = 2}), mode);
    case 1: return merge_method(base, peft::DoRA<T>(shape, {.rank = 3, .alpha = 2}), mode);
    case 2: return merge_method(base, peft::IA3<T>(shape, {.feedforward = false}), mode);
    case 3: return merge_method(base, peft::IA3<T>(shape, {.feedforward = true}), mode);
    default: return merge_method(base, peft::SSF<T>(shape), mode);
    }
}

template <class T, class S> void unmerge_any(peft::DenseLinear<T, S>& base, peft::MergeRecord<T>& record) { peft::unmerge_from(base, record); }

template <class T, class S> crossing::Functions<T, S> functions_of_unit() { return {&merge_any<T, S>, &unmerge_any<T, S>}; }

inline crossing::Unit make_unit(const char* name, peft::SimdLevel needs) {
    return {name, needs, functions_of_unit<float, float>(), functions_of_unit<float, peft::bfloat16>(), functions_of_unit<float, peft::float16>(),
            functions_of_unit<double, double>()};
}

}  // namespace
