// expect: the base is const; merge would write into it
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/layers/adapted.hpp>

#ifdef PEFT_FIXED
void use(peft::DenseLinear<float>& layer) {
#else
void use(const peft::DenseLinear<float>& layer) {
#endif
    auto adapted = peft::adapt(layer, peft::LoRA<float>(layer.shape()));
}
