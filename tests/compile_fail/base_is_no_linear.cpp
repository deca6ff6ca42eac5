// expect: the base is no Linear: it has no const forward
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/layers/adapted.hpp>

struct Layer {
    using value_type = float;
    peft::LayerShape shape() const { return {3, 2}; }
    std::span<const float> bias() const { return {}; }
#ifdef PEFT_FIXED
    void forward(peft::MatrixView<const float>, peft::MatrixView<float>) const {}
#endif
    void backward_input(peft::MatrixView<const float>, peft::MatrixView<float>) const {}
};

void use(Layer& layer) { auto adapted = peft::adapt(layer, peft::LoRA<float>(layer.shape())); }
