// expect: a third-party layer opts in by specialising peft::linear_access
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/layers/adapted.hpp>

struct Theirs {
    float weight[6];
};

#ifdef PEFT_FIXED
template <> struct peft::linear_access<Theirs> {
    using value_type = float;
    static peft::LayerShape shape(const Theirs&) { return {3, 2}; }
    static std::span<const float> bias(const Theirs&) { return {}; }
    static void forward(const Theirs&, peft::MatrixView<const float>, peft::MatrixView<float>) {}
    static void backward_input(const Theirs&, peft::MatrixView<const float>, peft::MatrixView<float>) {}
};
#endif

void use(Theirs& layer) { auto adapted = peft::adapt(layer, peft::LoRA<float>({3, 2})); }
