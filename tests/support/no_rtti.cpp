// Compiled with -fno-rtti and never linked (its vtables have no type information): what users without it need must build.
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/layers/bank.hpp>

namespace peft_test {

std::size_t rank_without_rtti(peft::AnyAdapter<float>& method);
std::size_t rank_without_rtti(peft::AnyAdapter<float>& method) {
    peft::Bank<float> bank;
    bank.add("fc", method);
    const auto* lora = method.get_if<peft::LoRA<float>>();
    return lora == nullptr ? 0 : lora->options().rank;
}

}  // namespace peft_test
