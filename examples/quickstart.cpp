// Train a LoRA on a frozen layer, merge it, take it back.
#include <peft/peft.hpp>

#include <cstdio>

int main() {
    peft::DenseLinear<float> fc(peft::LayerShape{.in = 64, .out = 32});         // y = x W^T + b, frozen
    peft::fill_normal<float>({.seed = 1}, 0.0, 0.1, fc.stored().flat());
    peft::Matrix<float> x(8, 64), wanted(8, 32), y(8, 32), dx(8, 64);            // a batch, and what it should give
    peft::fill_normal<float>({.seed = 2}, 0.0, 1.0, x.flat());
    peft::fill_normal<float>({.seed = 3}, 0.0, 1.0, wanted.flat());

    auto layer = peft::adapt(fc, peft::LoRA<float>(fc.shape(), {.rank = 8, .alpha = 16}));
    auto tape = layer.make_tape();
    peft::AdamW<float> optimizer(peft::parameters(layer), {.learning_rate = 1e-2f});
    for (int step = 0; step <= 200; ++step) {
        layer.forward(x, y, tape);
        float loss = 0;
        for (std::size_t i = 0; i < y.size(); ++i) {
            const float error = y.data()[i] - wanted.data()[i];
            loss += error * error / 8;
            y.data()[i] = 2 * error / 8;                                       // y becomes dL/dy
        }
        layer.backward(y, dx, tape);
        optimizer.step();
        optimizer.zero_grad();
        if (step % 50 == 0) std::printf("step %3d  loss %.3f\n", step, static_cast<double>(loss));
    }

    const peft::MergeReport report = layer.merge();                              // into fc: forward now costs what fc costs
    std::printf("merged, %.2f bits a weight kept for the way back\n", report.journal_bits_per_weight());
    layer.unmerge();                                                             // every byte of fc is what it was
}
