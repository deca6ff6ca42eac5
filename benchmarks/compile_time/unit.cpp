// What the runner compiles: CASE picks how much of the library a unit uses.
//   0 nothing   1 the umbrella without files   2 the umbrella   3 one method's whole life   4 the lives of all methods
//   5 case 4 with files and a registry of one method   6 case 4 with files and the registry of all methods
#if CASE == 1 || CASE == 3 || CASE == 4
#define PEFT_NO_FILES
#endif
#if CASE > 0
#include <peft/peft.hpp>
#endif

#if CASE >= 3
template <class Method> void life() {
    peft::DenseLinear<float> fc(peft::LayerShape{.in = 64, .out = 32});
    peft::Matrix<float> x(8, 64), y(8, 32), dx(8, 64);
    auto layer = peft::adapt(fc, Method(fc.shape(), {}));
    auto tape = layer.make_tape();
    peft::AdamW<float> optimizer(peft::parameters(layer));
    layer.forward(x, y, tape);
    layer.backward(y, dx, tape);
    optimizer.step();
    layer.prepare();
    layer.merge();
    layer.unmerge();
}
template <class... Methods> void lives(peft::method_list<Methods...>) { (..., life<Methods>()); }
#endif

int main() {
#if CASE == 3
    life<peft::LoRA<float>>();
#elif CASE >= 4
    lives(peft::all_methods<float>{});
#endif
#if CASE == 5
    peft::io::load_adapter<peft::method_list<peft::LoRA<float>>>("folder").finish();
#elif CASE == 6
    peft::io::load_adapter<float>("folder").finish();
#endif
}
