// What another project does with the library: a training step, a merge and its way back. other.cpp includes it a second time.
#include <peft/peft.hpp>

#include <cstring>

bool other_unit_works();

int main() {
    const peft::LayerShape shape{.in = 17, .out = 9};
    peft::DenseLinear<float> fc(shape);
    peft::fill_normal<float>({.seed = 1}, 0.0, 0.1, fc.stored().flat());
    const peft::Matrix<float> before = fc.stored();
    peft::Matrix<float> x(5, shape.in), y(5, shape.out), dx(5, shape.in);
    peft::fill_normal<float>({.seed = 2}, 0.0, 1.0, x.flat());

    auto layer = peft::adapt(fc, peft::LoRA<float>(shape, {.rank = 2}));
    auto tape = layer.make_tape();
    layer.forward(x, y, tape);
    layer.backward(y, dx, tape);
    peft::AdamW<float> optimizer(peft::parameters(layer));
    optimizer.step();

    const auto same = [&] { return std::memcmp(before.data(), fc.stored().data(), before.size() * sizeof(float)) == 0; };
    layer.merge();
    const bool merged = !same();
    layer.unmerge();
    return merged && same() && other_unit_works() ? 0 : 1;
}
