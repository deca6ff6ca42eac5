// expect: the result would be written into a read-only matrix
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/layers/adapted.hpp>

#ifdef PEFT_FIXED
void use(peft::DenseLinear<float>& layer, const peft::Matrix<float>& x, peft::Matrix<float>& y) {
#else
void use(peft::DenseLinear<float>& layer, const peft::Matrix<float>& x, const peft::Matrix<float>& y) {
#endif
    auto adapted = peft::adapt(layer, peft::LoRA<float>(layer.shape()));
    adapted.forward(x, y);
}
