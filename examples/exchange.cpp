// Save an adapter as Hugging Face PEFT does, load it onto another copy of the layer, check that nothing is left over.
#include <peft/peft.hpp>

#include <cstdio>

int main() {
    peft::DenseLinear<float> q_proj(peft::LayerShape{.in = 64, .out = 64});
    peft::fill_normal<float>({.seed = 1}, 0.0, 0.1, q_proj.stored().flat());
    auto layer = peft::adapt(q_proj, peft::LoRA<float>(q_proj.shape(), {.rank = 4}));

    peft::Bank<float> mine;
    mine.add("model.layers.0.self_attn.q_proj", layer);
    peft::io::save_adapter("my_adapter", mine);                                  // adapter_config.json, adapter_model.safetensors

    try {
        auto bank = peft::io::load_adapter<float>("my_adapter");                 // checked in full before anything is used
        auto loaded = bank.attach("model.layers.0.self_attn.q_proj", q_proj);    // Adapted<DenseLinear<float>&, AnyAdapter<float>>
        bank.finish();                                                           // throws if a tensor belongs to no layer
        std::printf("%zu of %zu numbers are trained\n", loaded.parameter_count().trained, loaded.parameter_count().total());
    } catch (const peft::Error& error) {
        std::printf("%s\n", error.what());                                       // file: tensor: what is wrong (expected, found)
        return 1;
    }
}
