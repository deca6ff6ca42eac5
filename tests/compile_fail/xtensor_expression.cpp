// expect: this argument is an expression without memory of its own
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/ext/xtensor.hpp>
#include <peft/layers/adapted.hpp>

void use(peft::DenseLinear<float>& layer, const xt::xtensor<float, 2>& x, xt::xtensor<float, 2>& y) {
    auto adapted = peft::adapt(layer, peft::LoRA<float>(layer.shape()));
#ifdef PEFT_FIXED
    const xt::xtensor<float, 2> sum = x + x;
    adapted.forward(sum, y);
#else
    adapted.forward(x + x, y);
#endif
}
