#include "contract/files.hpp"

#include "io/scratch.hpp"

#include <peft/io/load.hpp>
#include <peft/io/save.hpp>

namespace peft_test {

template <class T>
std::string files_differ(peft::AnyAdapter<T>& method, peft::DenseLinear<T>& base, const peft::Matrix<T>& x, peft::Matrix<T>& y) {
    const peft::test::Scratch first;
    const peft::test::Scratch second;
    peft::Bank<T> bank;
    bank.add("net.fc", method);
    peft::io::save_adapter(first / ".", bank);
    auto loaded = peft::io::load_adapter<T>(first / ".", {.base = peft::BaseKind::original, .largest = base.shape()});
    auto layer = loaded.attach("net.fc", base);
    loaded.finish();
    layer.forward(x, y);
    peft::Bank<T> again(loaded.config());
    again.add("net.fc", layer);
    peft::io::save_adapter(second / ".", again);
    for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
        const std::string bytes = peft::test::contents(first / name);
        if (bytes.empty()) return std::string(name) + " is empty";
        if (bytes != peft::test::contents(second / name)) return std::string(name) + " differs when saved again";
    }
    return {};
}

template std::string files_differ<float>(peft::AnyAdapter<float>&, peft::DenseLinear<float>&, const peft::Matrix<float>&, peft::Matrix<float>&);
template std::string files_differ<double>(peft::AnyAdapter<double>&, peft::DenseLinear<double>&, const peft::Matrix<double>&, peft::Matrix<double>&);

}  // namespace peft_test
