#pragma once
#include "model.hpp"

#include <cstdint>
#include <filesystem>

namespace finetune {

/// The plain model as one safetensors file, and back.
void save_model(const std::filesystem::path& file, LanguageModel& model);
void load_model(const std::filesystem::path& file, LanguageModel& model);

/// The methods of a network as a Hugging Face directory: adapter_config.json and adapter_model.safetensors.
/// Returns the size of the tensor file in bytes.
std::uintmax_t save_adapter(const std::filesystem::path& directory, Network& network);

/// A network over `model` with what an adapter directory holds.
Network load_adapter(const std::filesystem::path& directory, LanguageModel& model);

}  // namespace finetune
