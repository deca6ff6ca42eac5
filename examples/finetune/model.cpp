#include "model.hpp"

#include <peft/kernels/elementwise.hpp>

#include <algorithm>
#include <cmath>

namespace finetune {
namespace {

using Matrix = peft::Matrix<float>;

/// h = silu(a) = a * sigmoid(a); a becomes the derivative, which is what the backward pass needs of it.
void silu(Matrix& a, Matrix& h) {
    for (std::size_t i = 0; i < a.size(); ++i) {
        const float value = a.data()[i];
        const float sigmoid = 1 / (1 + std::exp(-value));
        h.data()[i] = value * sigmoid;
        a.data()[i] = sigmoid * (1 + value * (1 - sigmoid));
    }
}

/// Mean cross entropy of the softmax of each row. With `gradient`, the logits become dL/dlogits.
double cross_entropy(Matrix& logits, std::span<const std::uint8_t> targets, bool gradient) {
    double total = 0;
    for (std::size_t i = 0; i < logits.rows(); ++i) {
        const std::span<float> row(logits.row(i), logits.cols());
        const float largest = *std::max_element(row.begin(), row.end());
        const float at_target = row[targets[i]] - largest;
        double sum = 0;
        for (float& z : row) {
            z = std::exp(z - largest);
            sum += static_cast<double>(z);
        }
        total += std::log(sum) - static_cast<double>(at_target);
        if (!gradient) continue;
        const auto factor = static_cast<float>(1 / (sum * static_cast<double>(logits.rows())));
        for (float& z : row) z *= factor;
        row[targets[i]] -= 1 / static_cast<float>(logits.rows());
    }
    return total / static_cast<double>(logits.rows());
}

void multiply(const Matrix& a, const Matrix& b, Matrix& result) {
    for (std::size_t i = 0; i < result.size(); ++i) result.data()[i] = a.data()[i] * b.data()[i];
}

void embed(const LanguageModel& model, std::span<const std::uint8_t> windows, Matrix& x) {
    const auto table = model.embedding.value();
    for (std::size_t i = 0; i < windows.size(); ++i) std::copy_n(table.row(windows[i]), table.cols(), x.data() + i * table.cols());
}

template <class L> Matrix apply(const L& layer, const Matrix& x) {
    Matrix y(x.rows(), layer.shape().out);
    layer.forward(x.view(), y.view());
    return y;
}

/// The forward pass up to the head, with plain or adapted layers: what fc1, fc2 and head read.
template <class L> std::array<Matrix, 3> inputs_of(const LanguageModel& model, const L& fc1, const L& fc2, std::span<const std::uint8_t> windows) {
    Matrix x(windows.size() / model.shape.context, fc1.shape().in);
    embed(model, windows, x);
    Matrix a = apply(fc1, x);
    Matrix h1(a.rows(), a.cols());
    silu(a, h1);
    a = apply(fc2, h1);
    Matrix h2(a.rows(), a.cols());
    silu(a, h2);
    peft::add<float>(h1.view(), h2.view());
    return {std::move(x), std::move(h1), std::move(h2)};
}

}  // namespace

LanguageModel::LanguageModel(ModelShape s, std::uint64_t seed)
    : shape(s),
      embedding(256, s.embedding),
      fc1(peft::LayerShape{.in = s.context * s.embedding, .out = s.hidden}),
      fc2(peft::LayerShape{.in = s.hidden, .out = s.hidden}),
      head(peft::LayerShape{.in = s.hidden, .out = 256}) {
    peft::fill_normal<float>({seed, peft::stream_of("embedding")}, 0, 0.5, embedding.state()->value.flat());
    embedding.touch();
    visit([&](std::string_view name, peft::DenseLinear<float>& layer) {
        const double bound = std::sqrt(3.0 / static_cast<double>(layer.shape().in));   // keeps the variance of the input
        peft::fill_uniform<float>({seed, peft::stream_of(name)}, bound, layer.stored().flat());
    });
}

struct Network::Activations {
    Activations(std::size_t n, const ModelShape& s)
        : x(n, s.context * s.embedding), a1(n, s.hidden), h1(n, s.hidden), a2(n, s.hidden), h2(n, s.hidden), logits(n, 256),
          dx(n, s.context * s.embedding), dh1(n, s.hidden), dh2(n, s.hidden), da(n, s.hidden) {}

    Matrix x, a1, h1, a2, h2, logits;
    Matrix dx, dh1, dh2, da;
};

Network::Network(LanguageModel& model, const AttachLayer& attach, bool train_embedding)
    : model_(&model),
      train_embedding_(train_embedding),
      fc1_(attach("fc1", model.fc1)),
      fc2_(attach("fc2", model.fc2)),
      head_(attach("head", model.head)),
      fc1_tape_(fc1_.make_tape()),
      fc2_tape_(fc2_.make_tape()),
      head_tape_(head_.make_tape()) {
    if (train_embedding) model.embedding.require_grad();
}

double Network::train(const Batch& batch) {
    if (memory_ == nullptr || memory_->x.rows() != batch.size()) memory_ = std::make_shared<Activations>(batch.size(), model_->shape);
    Activations& m = *memory_;
    embed(*model_, batch.windows, m.x);
    fc1_.forward(m.x, m.a1, fc1_tape_);
    silu(m.a1, m.h1);
    fc2_.forward(m.h1, m.a2, fc2_tape_);
    silu(m.a2, m.h2);
    peft::add<float>(m.h1.view(), m.h2.view());
    head_.forward(m.h2, m.logits, head_tape_);
    const double loss = cross_entropy(m.logits, batch.targets, true);
    backward(batch);
    return loss;
}

void Network::backward(const Batch& batch) {
    Activations& m = *memory_;
    head_.backward(m.logits, m.dh2, head_tape_);
    multiply(m.dh2, m.a2, m.da);                      // through silu: a2 holds its derivative
    fc2_.backward(m.da, m.dh1, fc2_tape_);
    peft::add<float>(m.dh2.view(), m.dh1.view());     // past silu: the residual
    multiply(m.dh1, m.a1, m.da);
    fc1_.backward(m.da, m.dx, fc1_tape_);
    if (!train_embedding_) return;
    const std::size_t width = model_->shape.embedding;
    for (std::size_t i = 0; i < batch.windows.size(); ++i) {
        const std::span<const float> from(m.dx.data() + i * width, width);
        peft::add<float>(from, model_->embedding.grad().row_span(batch.windows[i]));
    }
}

std::array<Matrix, 3> Network::layer_inputs(std::span<const std::uint8_t> windows) const { return inputs_of(*model_, fc1_, fc2_, windows); }
Matrix Network::logits(std::span<const std::uint8_t> windows) const { return apply(head_, layer_inputs(windows)[2]); }
Matrix LanguageModel::logits(std::span<const std::uint8_t> windows) const { return apply(head, inputs_of(*this, fc1, fc2, windows)[2]); }

std::size_t LanguageModel::count() const {
    std::size_t numbers = embedding.size();
    for (const auto* layer : {&fc1, &fc2, &head}) numbers += layer->stored().size() + layer->bias().size();
    return numbers;
}

double mean_loss(const LogitsFunction& logits, const Batch& batch) {
    constexpr std::size_t rows = 512;
    double total = 0;
    for (std::size_t first = 0; first < batch.size(); first += rows) {
        const std::size_t count = std::min(rows, batch.size() - first);
        Matrix z = logits(std::span(batch.windows).subspan(first * batch.context, count * batch.context));
        total += cross_entropy(z, std::span(batch.targets).subspan(first, count), false) * static_cast<double>(count);
    }
    return total / static_cast<double>(batch.size());
}

peft::ParameterList<float> Network::parameters() {
    auto list = peft::ParameterList<float>{};
    visit([&](std::string_view name, Layer& layer) {
        for (auto& parameter : peft::parameters(layer)) list.push_back({std::string(name) + "." + parameter.name, parameter.state, parameter.vector});
    });
    if (train_embedding_) list.push_back({"embedding", model_->embedding.state()});
    return list;
}

void Network::add_to(peft::io::TrainingState<float>& state) {
    state.add("fc1", fc1_, fc1_tape_);
    state.add("fc2", fc2_, fc2_tape_);
    state.add("head", head_, head_tape_);
    if (train_embedding_) state.add("embedding", model_->embedding);
}

std::size_t Network::trained_count() const {
    std::size_t count = train_embedding_ ? model_->embedding.size() : 0;
    for (const Layer* layer : {&fc1_, &fc2_, &head_}) count += peft::parameter_count(*layer).trained;
    return count;
}

}  // namespace finetune
