#include <peft/peft.hpp>

#include <cstdio>

#if defined(PEFT_EXPECT_FILES) && !__has_include(<nlohmann/json.hpp>)
#error "nlohmann/json does not come along with the library"
#endif

bool other_unit_works() {
    peft::DenseLinear<float> fc(peft::LayerShape{.in = 3, .out = 2});
    const auto layer = peft::adapt(fc, peft::IA3<float>(fc.shape()));
#if defined(PEFT_EXPECT_FILES)
    try {
        peft::io::load_adapter<float>("no such folder");
        return false;
    } catch (const peft::FileError&) {
    }
#endif
    return peft::parameter_count(layer).trained == 2;
}
