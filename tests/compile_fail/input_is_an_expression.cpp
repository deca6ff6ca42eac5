// expect: this argument is an expression without memory of its own
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/ext/eigen.hpp>
#include <peft/layers/adapted.hpp>

void use(peft::DenseLinear<float>& layer, const Eigen::MatrixXf& x, Eigen::MatrixXf& y) {
    auto adapted = peft::adapt(layer, peft::LoRA<float>(layer.shape()));
#ifdef PEFT_FIXED
    const Eigen::MatrixXf sum = x + x;
    adapted.forward(sum, y);
#else
    adapted.forward(x + x, y);
#endif
}
