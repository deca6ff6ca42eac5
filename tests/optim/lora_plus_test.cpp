#include "support/catch.hpp"

#include <peft/adapters/low_rank/dora.hpp>
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/io/file.hpp>
#include <peft/io/json.hpp>
#include <peft/layers/adapted.hpp>
#include <peft/linear/dense.hpp>
#include <peft/optim/adamw.hpp>
#include <peft/optim/lora_plus.hpp>

#include <map>
#include <memory>
#include <set>

TEST_CASE("lora_plus: the groups of the official code, but for the magnitude of an embedding") {
    // Written by nikhil-ghosh-berkeley/loraplus@a0c44bf, create_loraplus_optimizer, over upstream PEFT's LoRA and DoRA.
    for (const std::string name : {"loraplus_groups", "loraplus_groups_dora"}) {
        INFO(name);
        const std::string path = PEFT_TEST_DATA "/optim/lora_plus/" + name + ".json";
        const peft::Value file = peft::io::parse_json(peft::io::read_file(path, 1u << 20), path);
        const peft::Value& config = file.at("config");
        const double rate = config.at("lr").as_number();
        const double decay = config.at("weight_decay").as_number();

        std::vector<std::unique_ptr<peft::Parameter<double>>> owned;
        peft::ParameterList<double> list;
        std::map<std::string, std::pair<double, double>> expected;   // name -> learning rate, decay
        for (const peft::Value& group : file.at("groups").as_array()) {
            for (const peft::Value& entry : group.at("params").as_array()) {
                const std::string& parameter = entry.as_string();
                const bool vector = parameter.ends_with("bias") || parameter.find(".ln.") != std::string::npos || parameter.find("magnitude") != std::string::npos;
                owned.push_back(std::make_unique<peft::Parameter<double>>(vector ? 1 : 2, 3));
                owned.back()->require_grad();
                list.push_back({parameter, owned.back()->state(), vector});
                expected[parameter] = {group.at("lr").as_number(), group.at("weight_decay").as_number()};
            }
        }
        const std::string deviation = "base_model.model.emb.lora_magnitude_vector.default.weight";
        const double embedding_rate = config.at("lr_embedding").as_number();
        if (name == "loraplus_groups_dora") {
            REQUIRE(expected.at(deviation).first == Approx(16 * rate));   // a magnitude 16,000 times as fast as what it scales
            expected[deviation].first = embedding_rate;
        }

        const auto groups = peft::lora_plus_groups(list, {.ratio = config.at("ratio").as_number(), .embedding_ratio = embedding_rate / rate});
        CHECK(groups.size() == 4);
        std::set<std::string> seen;
        for (const auto& group : groups) {
            for (const auto& parameter : group.parameters) {
                INFO(parameter.name);
                CHECK(seen.insert(parameter.name).second);
                CHECK(rate * group.options.learning_rate_factor == Approx(expected.at(parameter.name).first).epsilon(1e-14));
                CHECK(group.options.weight_decay.value_or(decay) == expected.at(parameter.name).second);
            }
        }
        CHECK(seen.size() == expected.size());
        CHECK_NOTHROW(peft::AdamW<double>(groups, {.learning_rate = rate, .weight_decay = decay}));
    }
}

TEST_CASE("lora_plus: the tensors of our own layers fall on their sides, a factor of one row too") {
    peft::DenseLinear<float> base(peft::LayerShape{.in = 5, .out = 4});
    for (float& w : base.stored().flat()) w = 0.5F;
    auto dora = peft::adapt(base, peft::DoRA<float>(base.shape(), {.rank = 1}));
    auto lora = peft::adapt(base, peft::LoRA<float>(base.shape(), {.rank = 1, .bias = true}));
    const auto groups = peft::lora_plus_groups(peft::parameters(dora, lora));
    REQUIRE(groups.size() == 3);
    const auto names = [](const peft::ParameterGroup<float>& group) {
        std::string text;
        for (const auto& parameter : group.parameters) text += parameter.name + " ";
        return text;
    };
    CHECK(names(groups[0]) == "lora_A lora_A ");
    CHECK(groups[0].options.learning_rate_factor == 1);
    CHECK(names(groups[1]) == "lora_B lora_magnitude_vector lora_B ");
    CHECK(groups[1].options.learning_rate_factor == 16);
    CHECK(names(groups[2]) == "lora_B_bias ");
    CHECK(groups[2].options.weight_decay == 0.0);
    CHECK_THROWS_AS(peft::lora_plus_groups(peft::parameters(lora), {.ratio = -1}), peft::OptionError);
}
