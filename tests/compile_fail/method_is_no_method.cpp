// expect: it has neither adapt_output and backward_output nor adapt_input and backward_input
#include <peft/layers/adapted.hpp>

struct Nothing {
    using value_type = float;
    struct Options {};
    peft::LayerShape shape() const { return {3, 2}; }
    const Options& options() const { return options_; }
    template <class Self, class Visitor> static void each_tensor(Self&, Visitor&&) {}
#ifdef PEFT_FIXED
    void adapt_output(const peft::Call<Nothing>&, peft::MatrixView<const float>, peft::MatrixView<float>) const {}
    void backward_output(const peft::Call<Nothing>&, peft::MatrixView<const float>, peft::MatrixView<const float>, peft::MatrixView<float>) {}
#endif
    Options options_;
};

void use(peft::DenseLinear<float>& layer) { auto adapted = peft::adapt(layer, Nothing()); }
