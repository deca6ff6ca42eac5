#include <peft/peft.hpp>

int main() {
    peft::DenseLinear<float> fc(peft::LayerShape{.in = 3, .out = 2});
    auto layer = peft::adapt(fc, peft::LoRA<float>(fc.shape(), {.rank = 1}));
    layer.merge();
    layer.unmerge();
    return peft::parameter_count(layer).trained == 5 ? 0 : 1;
}
