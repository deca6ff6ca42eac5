// expect: the matrix holds another number type than the layer computes in
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/layers/adapted.hpp>

#ifdef PEFT_FIXED
void use(peft::DenseLinear<float>& layer, const peft::Matrix<float>& x) {
#else
void use(peft::DenseLinear<float>& layer, const peft::Matrix<double>& x) {
#endif
    auto adapted = peft::adapt(layer, peft::LoRA<float>(layer.shape()));
    auto y = adapted.forward(x);
}
