// expect: over an adapted layer the gradient through that weight would be missed
#include <peft/adapters/low_rank/dora.hpp>
#include <peft/layers/adapted.hpp>

void use(peft::DenseLinear<float>& layer) {
    auto inner = peft::adapt(layer, peft::LoRA<float>(layer.shape()));
#ifdef PEFT_FIXED
    auto outer = peft::adapt(inner, peft::LoRA<float>(layer.shape()));
#else
    auto outer = peft::adapt(inner, peft::DoRA<float>(layer.shape()));
#endif
}
