#pragma once
#include "text.hpp"

#include <peft/io/training_state.hpp>
#include <peft/layers/any_adapter.hpp>
#include <peft/linear/dense.hpp>

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <string_view>

namespace finetune {

struct ModelShape {
    std::size_t context = 32;     ///< bytes the model sees
    std::size_t embedding = 24;   ///< numbers for each of them
    std::size_t hidden = 512;
};

/// The model that is adapted: an embedding and three ordinary linear layers.
///   x = the embeddings of the window, side by side      (context * embedding)
///   h1 = silu(fc1(x));  h2 = h1 + silu(fc2(h1))         (hidden)
///   logits = head(h2)                                   (256)
struct LanguageModel {
    explicit LanguageModel(ModelShape shape, std::uint64_t seed = 0);

    /// f(name, layer) for each of the linear layers.
    template <class F> void visit(F&& f) {
        f("fc1", fc1);
        f("fc2", fc2);
        f("head", head);
    }
    /// Logits (n x 256) for windows (n * context bytes).
    peft::Matrix<float> logits(std::span<const std::uint8_t> windows) const;
    /// Numbers of the model.
    std::size_t count() const;
    /// Largest in and largest out of the linear layers.
    peft::LayerShape largest() const {
        return {std::max(fc1.shape().in, fc1.shape().out), std::max(fc1.shape().out, head.shape().out)};
    }

    ModelShape shape;
    peft::Parameter<float> embedding;   ///< (256 x embedding)
    peft::DenseLinear<float> fc1, fc2, head;
};

using LogitsFunction = std::function<peft::Matrix<float>(std::span<const std::uint8_t> windows)>;
/// A model or network as a function. It must outlive the function.
template <class M> LogitsFunction logits_of(const M& model) {
    return [&model](std::span<const std::uint8_t> windows) { return model.logits(windows); };
}
/// The mean cross entropy of a batch, in nats a byte.
double mean_loss(const LogitsFunction& logits, const Batch& batch);

/// A linear layer of the model with a method on it. The method is chosen by name at run time, hence AnyAdapter; a program
/// that knows its method writes peft::adapt(fc, peft::LoRA<float>(fc.shape(), {.rank = 8})) and gets the same members.
using Layer = peft::Adapted<peft::DenseLinear<float>&, peft::AnyAdapter<float>>;
using AttachLayer = std::function<Layer(std::string_view name, peft::DenseLinear<float>& base)>;

/// The model with adapted layers: its forward and backward passes.
class Network {
public:
    /// Calls attach(name, layer) for each linear layer of the model, which must outlive the network.
    Network(LanguageModel& model, const AttachLayer& attach, bool train_embedding = false);

    /// The mean cross entropy of a batch, in nats a byte; adds to the gradients.
    double train(const Batch& batch);
    /// The forward pass without training. After training, prepare() comes first.
    peft::Matrix<float> logits(std::span<const std::uint8_t> windows) const;
    /// What fc1, fc2 and head read in a forward pass.
    std::array<peft::Matrix<float>, 3> layer_inputs(std::span<const std::uint8_t> windows) const;

    void prepare() {
        visit([](std::string_view, Layer& layer) { layer.prepare(); });
    }
    peft::ParameterList<float> parameters();
    /// What training changes, and the tapes. The network must stay where it is.
    void add_to(peft::io::TrainingState<float>& state);
    /// Numbers that are trained.
    std::size_t trained_count() const;
    std::size_t context() const { return model_->shape.context; }

    template <class F> void visit(F&& f) {
        f("fc1", fc1_);
        f("fc2", fc2_);
        f("head", head_);
    }

private:
    struct Activations;
    void backward(const Batch& batch);

    LanguageModel* model_;
    bool train_embedding_;
    Layer fc1_, fc2_, head_;
    Layer::Tape fc1_tape_, fc2_tape_, head_tape_;
    std::shared_ptr<Activations> memory_;   ///< of the training pass, for one batch size
};

}  // namespace finetune
