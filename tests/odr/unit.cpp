// What two units of a program do with the library: a training step, merge, unmerge, save and load. Compiled twice with other
// flags; ODR_UNIT is the name of its only function, which gives a checksum and 0 when something is wrong.
#include <peft/peft.hpp>

#include <cstring>
#include <string>

namespace {

constexpr peft::LayerShape shape{.in = 37, .out = 21};

template <class Method> std::uint64_t life(const typename Method::Options& options, const std::string& folder) {
    using T = typename Method::value_type;
    peft::DenseLinear<T> fc(shape);
    peft::fill_normal<T>({.seed = 1}, 0.0, 0.1, fc.stored().flat());
    const peft::Matrix<T> before = fc.stored();
    peft::Matrix<T> x(6, shape.in), y(6, shape.out), dx(6, shape.in);
    peft::fill_normal<T>({.seed = 2}, 0.0, 1.0, x.flat());

    auto layer = peft::adapt(fc, Method(shape, options));
    auto tape = layer.make_tape();
    peft::AdamW<T> optimizer(peft::parameters(layer), {.learning_rate = 1e-2});
    for (int step = 0; step < 3; ++step) {
        layer.forward(x, y, tape);
        layer.backward(y, dx, tape);
        optimizer.step();
        optimizer.zero_grad();
    }
    layer.prepare();
    layer.merge();
    layer.forward(x, y);
    layer.unmerge();
    if (std::memcmp(before.data(), fc.stored().data(), before.size() * sizeof(T)) != 0) return 0;
    try {
        layer.forward(x, dx);
        return 0;
    } catch (const peft::ShapeError&) {
    }
#if __has_include(<nlohmann/json.hpp>)
    peft::Bank<T> bank;
    bank.add("q_proj", layer);
    peft::io::save_adapter(folder, bank);
    auto loaded = peft::io::load_adapter<peft::method_list<Method>>(folder);
    auto again = loaded.attach("q_proj", fc);
    loaded.finish();
    again.prepare();
    peft::Matrix<T> z(6, shape.out);
    again.forward(x, z);
#else
    static_cast<void>(folder);
#endif
    std::uint64_t sum = 1;
    for (std::size_t i = 0; i < y.size(); ++i) sum = sum * 31 + static_cast<std::uint64_t>(static_cast<std::int64_t>(1000 * y.data()[i]));
    return sum;
}

}  // namespace

unsigned long ODR_UNIT(const char* folder) {
    const std::string path = folder;
    const std::uint64_t lora = life<peft::LoRA<float>>({.rank = 3}, path + "/lora");
    const std::uint64_t dora = life<peft::DoRA<float>>({.rank = 3}, path + "/dora");
    const std::uint64_t ia3 = life<peft::IA3<float>>({}, path + "/ia3");
    return lora == 0 || dora == 0 || ia3 == 0 ? 0 : lora + dora + ia3;
}
