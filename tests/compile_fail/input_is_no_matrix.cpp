// expect: this argument is not a matrix
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/layers/adapted.hpp>

#include <vector>

void use(peft::DenseLinear<float>& layer, const std::vector<float>& x) {
    auto adapted = peft::adapt(layer, peft::LoRA<float>(layer.shape()));
#ifdef PEFT_FIXED
    auto y = adapted.forward(peft::MatrixView<const float>(x.data(), 1, x.size()));
#else
    auto y = adapted.forward(x);
#endif
}
