#pragma once
#include <peft/io/safetensors.hpp>

#include <cstddef>
#include <string>
#include <vector>

namespace peft_test {

/// Writes a tensor file again after change(std::vector<TensorData>&), without its metadata.
template <class Change> void rewrite_tensors(const std::string& path, const Change& change) {
    const peft::io::SafetensorsFile file(path);
    std::vector<std::vector<std::byte>> bytes;
    for (const auto& info : file.tensors()) bytes.push_back(file.read_bytes(info.name));
    std::vector<peft::io::TensorData> tensors;
    for (std::size_t k = 0; k < bytes.size(); ++k) tensors.push_back({file.tensors()[k].name, file.tensors()[k].dtype, file.tensors()[k].shape, bytes[k]});
    change(tensors);
    peft::io::write_safetensors(path, tensors);
}

}  // namespace peft_test
