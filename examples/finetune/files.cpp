#include "files.hpp"

#include <peft/io/load.hpp>
#include <peft/io/safetensors.hpp>
#include <peft/io/save.hpp>
#include <peft/layers/bank.hpp>

namespace finetune {
namespace {

/// f(name, numbers, shape in the file) for every tensor of the model.
template <class F> void each_tensor(LanguageModel& model, F&& f) {
    f("embedding.weight", model.embedding.state()->value.flat(), std::vector{model.embedding.rows(), model.embedding.cols()});
    model.visit([&](std::string_view name, peft::DenseLinear<float>& layer) {
        f(std::string(name) + ".weight", layer.stored().flat(), std::vector{layer.shape().out, layer.shape().in});
        f(std::string(name) + ".bias", layer.bias(), std::vector{layer.shape().out});
    });
}

}  // namespace

void save_model(const std::filesystem::path& file, LanguageModel& model) {
    std::vector<peft::io::TensorData> tensors;
    each_tensor(model, [&](std::string name, std::span<const float> numbers, std::vector<std::size_t> shape) {
        tensors.push_back({std::move(name), peft::io::Dtype::F32, std::move(shape), std::as_bytes(numbers)});
    });
    peft::io::write_safetensors(file.string(), tensors);
}

void load_model(const std::filesystem::path& file, LanguageModel& model) {
    const peft::io::SafetensorsFile tensors(file.string());
    each_tensor(model, [&](const std::string& name, std::span<float> numbers, const std::vector<std::size_t>&) {
        tensors.read_values(tensors.at(name), numbers);
    });
    model.embedding.touch();
}

std::uintmax_t save_adapter(const std::filesystem::path& directory, Network& network) {
    peft::Bank<float> bank;
    network.visit([&](std::string_view name, Layer& layer) { bank.add(name, layer); });
    peft::io::save_adapter(directory.string(), bank);
    return std::filesystem::file_size(directory / "adapter_model.safetensors");
}

Network load_adapter(const std::filesystem::path& directory, LanguageModel& model) {
    // The model is the published one, not what PiSSA would leave of it; projections that a file leaves out have its largest layers' shape.
    auto adapter = peft::io::load_adapter<float>(directory.string(), {.base = peft::BaseKind::original, .largest = model.largest()});
    Network network(model, [&](std::string_view name, peft::DenseLinear<float>& base) { return adapter.attach(name, base); });
    adapter.finish();   // every tensor of the file has found its layer
    return network;
}

}  // namespace finetune
